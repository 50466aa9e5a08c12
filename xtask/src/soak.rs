//! `cargo xtask soak DURATION`: reloads without end under a flood, native and generic in turn, with the naikon that is released.
//! What is done and what must hold stands in `tests/soak.rs`; this builds it, gives it its time and hands on its verdict.

use crate::{
    setup::setup,
    shell::{built, cargo, line_of, run, say},
    test::{REQUIRE_ROOT, elevating_cargo},
};
use anyhow::{Context as _, Result};
use std::{env, path::Path, process::ExitCode, time::Duration};

/// Tells the tests how many seconds each of them has.
const SECONDS: &str = "NAIKON_SOAK";
/// Tells the tests which program to run; set by somebody else it wins.
const BINARY: &str = "NAIKON_BIN";
/// Tells the tests how much slower than an idle one this machine may be: a long run has time, and goes on beside other work.
const SLOWNESS: (&str, &str) = ("NAIKON_SLOWNESS", "6");
/// Modes, one after the other.
const MODES: u64 = 2;

/// Soaks for so long; the exit code is 0 when every frame got its verdict.
pub(crate) fn soak(workspace: &Path, duration: Duration) -> Result<ExitCode> {
    setup(workspace, false)?;
    let mut command = elevating_cargo(workspace)?;
    if env::var_os(BINARY).is_none() {
        say("soak", "building naikon as it is released");
        let build = ["build", "--quiet", "--release", "--package", "naikon-userspace", "--bin", "naikon"];
        run(cargo().current_dir(workspace).args(build))?;
        command.env(BINARY, built("release", "naikon")?);
    }
    // A soak that was skipped would have proved nothing.
    command
        .env(SECONDS, (duration.as_secs() / MODES).max(1).to_string())
        .env(REQUIRE_ROOT, "1")
        .env(SLOWNESS.0, SLOWNESS.1);
    command.args(["test", "--quiet", "--package", "naikon-tests", "--test", "system", "--"]);
    command.args(["soak::every_frame", "--test-threads", "1", "--nocapture"]);
    let status = command.status().with_context(|| format!("cannot start {}", line_of(&command)))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Reads `90s`, `10m` or `2h`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration such as 90s, 10m or 2h");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    // `parse` alone would take a sign.
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
    let number = number.parse::<u64>().ok().filter(|number| is_number && *number > 0);
    number.and_then(|number| number.checked_mul(seconds)).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_number_and_a_unit() {
        for (text, seconds) in [("30s", 30), ("10m", 600), ("2h", 7200)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "s", "30", "0s", "-1s", "+1s", "1.5h", "1d", "10 m", "9é", "99999999999999999999h"] {
            assert!(parse_duration(text).is_err(), "{text:?} should be refused");
        }
    }
}
