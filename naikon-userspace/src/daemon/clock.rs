//! What time it is.

use std::time::SystemTime;

use crate::provenance::Time;

/// What the system's clock says.
pub(crate) fn wall() -> Time {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Time::from_seconds(i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
}
