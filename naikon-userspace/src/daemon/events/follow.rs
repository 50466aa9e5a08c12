//! Followers at the control socket: after the answer come lines, until the follower or the daemon goes.
//!
//! One that reads slowly loses lines and is told how many; one that does not read at all keeps its seat and costs a queue.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::OwnedWriteHalf;

use super::Outlets;
use crate::{event::Filter, protocol::Response};

/// Serves one follower. `at_most` follow at a time.
///
/// # Errors
///
/// When nothing can be written to it any more.
pub(crate) async fn follow(
    outlets: &Outlets,
    filter: Filter,
    at_most: usize,
    mut peer: impl AsyncRead + Unpin,
    mut out: OwnedWriteHalf,
) -> io::Result<()> {
    let seated = outlets.seat(filter, at_most);
    let answer = match &seated {
        Some(_) => Response::Following,
        None => Response::Failed(format!("{at_most} follow the events already; there is room for no more")),
    };
    let mut bytes = serde_json::to_vec(&answer)?;
    bytes.push(b'\n');
    out.write_all(&bytes).await?;
    let Some((mut lines, _seat)) = seated else { return Ok(()) };
    let mut byte = [0];
    loop {
        tokio::select! {
            item = lines.recv() => match item {
                Some(item) => out.write_all(item.text.as_bytes()).await?,
                // The daemon ends.
                None => return Ok(()),
            },
            // There is nothing more to ask: whatever comes, the end among it, ends it.
            _ = peer.read(&mut byte) => return Ok(()),
        }
    }
}
