//! Debian's changelog out of CHANGELOG.md, which is the one that is written.

use crate::shell::output_of;
use anyhow::{Context as _, Result, bail};
use std::process::Command;

/// Lines of Debian's changelog are no longer than this, with their indent.
const WIDTH: usize = 78;

/// A release of CHANGELOG.md.
struct Release<'a> {
    version: &'a str,
    /// `YYYY-MM-DD`, or `Unreleased`.
    date: &'a str,
    items: Vec<String>,
}

/// All releases, newest first as they stand; what is not released yet has the time of the commit.
pub(super) fn of_debian(text: &str, maintainer: &str, epoch: &str) -> Result<String> {
    let mut made = String::new();
    for Release { version, date, items } in releases(text)? {
        let time = if date == "Unreleased" { format!("@{epoch}") } else { format!("{date} UTC") };
        let time = output_of(Command::new("date").env("LC_ALL", "C").args(["-u", "-R", "-d", &time]))
            .with_context(|| format!("{date}, the date of {version} in CHANGELOG.md, is none"))?;
        made.push_str(&format!("naikon ({version}-1) unstable; urgency=medium\n\n"));
        for item in items {
            made.push_str(&wrapped(&item));
        }
        made.push_str(&format!("\n -- {maintainer}  {time}\n\n"));
    }
    Ok(made)
}

fn releases(text: &str) -> Result<Vec<Release<'_>>> {
    let mut releases: Vec<Release<'_>> = Vec::new();
    let mut in_item = false;
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            let parts = heading.strip_prefix('[').and_then(|rest| rest.split_once("] - "));
            let Some((version, date)) = parts else { bail!("CHANGELOG.md: `{line}` is not `## [VERSION] - DATE`") };
            releases.push(Release { version, date: date.trim(), items: Vec::new() });
            in_item = false;
            continue;
        }
        let Some(release) = releases.last_mut() else { continue };
        if let Some(item) = line.strip_prefix("- ") {
            release.items.push(item.trim().to_owned());
            in_item = true;
        } else if let (true, Some(more), Some(item)) = (in_item, line.strip_prefix("  "), release.items.last_mut()) {
            item.push(' ');
            item.push_str(more.trim());
        } else {
            in_item = false;
        }
    }
    if releases.is_empty() {
        bail!("CHANGELOG.md tells of no release");
    }
    Ok(releases)
}

/// `  * item`, in lines that are short enough.
fn wrapped(item: &str) -> String {
    let mut lines = vec!["  *".to_owned()];
    for word in item.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!("    {word}")),
        }
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "# Changelog\n\n- no release yet\n\n## [0.2.0] - Unreleased\n\n### Added\n\n- One,\n  which goes on.\n- Two.\n\n\
                          Text.\n\n## [0.1.0] - 2026-01-31\n\n### Added\n\n- All.\n";

    #[test]
    fn each_release_becomes_an_entry_of_debian() {
        let made = of_debian(SAMPLE, "Somebody <a@example.net>", "0").unwrap();
        let expected = "naikon (0.2.0-1) unstable; urgency=medium\n\n  * One, which goes on.\n  * Two.\n\n \
                        -- Somebody <a@example.net>  Thu, 01 Jan 1970 00:00:00 +0000\n\n\
                        naikon (0.1.0-1) unstable; urgency=medium\n\n  * All.\n\n \
                        -- Somebody <a@example.net>  Sat, 31 Jan 2026 00:00:00 +0000\n\n";
        assert_eq!(made, expected);
    }

    #[test]
    fn long_items_are_wrapped() {
        let text = wrapped(&"word ".repeat(40));
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert_eq!(text.split_whitespace().filter(|word| *word == "word").count(), 40);
    }

    #[test]
    fn heading_that_is_no_release_is_refused() {
        assert!(of_debian("## 0.1.0\n", "", "0").is_err());
        assert!(of_debian("nothing\n", "", "0").is_err());
    }
}
