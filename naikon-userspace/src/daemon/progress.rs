//! Says what a long start or reload does: in the log, and to the service manager, which else would take it for dead.

use std::{sync::Arc, time::Duration};

use sd_notify::NotifyState;
use tokio::time::interval;

use super::tell;
use crate::progress::Progress;

/// Between two looks; what is seen in two of them takes over a second.
const LOOK: Duration = Duration::from_secs(1);
/// Looks between two lines in the log.
const LOOKS_A_LINE: u64 = 5;
/// So much longer a start may take after each step of it.
const EXTENSION_US: u32 = 60_000_000;

/// Looks again and again, for as long as the daemon runs.
pub(super) async fn follow(progress: Arc<Progress>) {
    let mut tick = interval(LOOK);
    let (mut seen, mut steps) = (0, None);
    loop {
        tick.tick().await;
        let Some(look) = progress.look() else {
            (seen, steps) = (0, None);
            continue;
        };
        if seen > 0 {
            if (seen - 1) % LOOKS_A_LINE == 0 {
                tracing::info!("{}", look.line);
            }
            tell(&[NotifyState::Status(&look.line)]);
            // What is stuck gets no more time than the service manager gives.
            if steps != Some(look.steps) {
                tell(&[NotifyState::ExtendTimeoutUsec(EXTENSION_US)]);
            }
        }
        (seen, steps) = (seen + 1, Some(look.steps));
    }
}
