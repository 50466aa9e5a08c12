//! Plain text: one entry a line, comments from `#` or `;` to the end of the line.
//!
//! ```text
//! # a comment
//! 203.0.113.7                 # an address
//! 198.51.100.0/24 ; SBL0001   (Spamhaus)
//! 192.0.2.10-192.0.2.20
//! hxxp://203[.]0[.]113[.]7:8443/x
//! ```

use super::{Collector, MAX_ENTRIES, Refusal, banner, entry};
use crate::{parallel, prefix::Prefix};

/// So much text is worth a thread: reading it takes a millisecond or two.
const SHARE_BYTES: usize = 128 << 10;

/// Reads every line of `text`.
pub(super) fn parse(text: &[u8], collector: &mut Collector) -> Result<(), Refusal> {
    parse_in(parallel::shares(text.len(), SHARE_BYTES), text, collector)
}

/// As [`parse`], in so many shares.
fn parse_in(shares: usize, text: &[u8], collector: &mut Collector) -> Result<(), Refusal> {
    collector.published = banner::published(text).or(collector.published);
    let (first, read, bad) = (collector.entries.len(), collector.read, collector.diagnostics.bad());
    let ends_badly = if shares < 2 { read_lines(text, collector).1 } else { read_shares(shares, text, collector) };
    // The beginning of an entry at the very end is no entry.
    let cut = usize::from(!text.ends_with(b"\n") && ends_badly == Some(true));
    match banner::count(text) {
        Some(count) if !collector.is_full => {
            count.check(collector, first, collector.read - read - cut, collector.diagnostics.bad() - bad - cut)
        }
        _ => Ok(()),
    }
}

/// Reads the lines of `text`. Gives how many there are, and whether the last one that is no comment is bad.
fn read_lines(text: &[u8], collector: &mut Collector) -> (u32, Option<bool>) {
    let (mut rest, mut number, mut ends_badly) = (text, 0_u32, None);
    while !rest.is_empty() {
        number = number.saturating_add(1);
        if let Some((prefix, after)) = bare(rest) {
            collector.bare(number, prefix);
            (rest, ends_badly) = (after, Some(false));
            continue;
        }
        let end = rest.iter().position(|byte| *byte == b'\n');
        let line = end.and_then(|end| rest.get(..end)).unwrap_or(rest);
        rest = end.and_then(|end| rest.get(end + 1..)).unwrap_or_default();
        let text = entry::without_comment(line);
        if text.is_empty() {
            continue;
        }
        let bad = collector.diagnostics.bad();
        let start = line.len() - line.trim_ascii_start().len();
        collector.entry(number, column(line, start), text, entry::read);
        ends_badly = Some(collector.diagnostics.bad() > bad);
    }
    (number, ends_badly)
}

/// A line that is an address or prefix and nothing else, and what follows the line.
fn bare(text: &[u8]) -> Option<(Prefix, &[u8])> {
    let (prefix, after) = entry::bare(text)?;
    match after {
        [] => Some((prefix, after)),
        [b'\n', rest @ ..] | [b'\r', b'\n', rest @ ..] => Some((prefix, rest)),
        _ => None,
    }
}

/// Reads the lines of `text` in so many shares at once. Gives whether the last line that is no comment is bad.
fn read_shares(shares: usize, text: &[u8], collector: &mut Collector) -> Option<bool> {
    // As one list they may have no more than `MAX_ENTRIES`; nor shall they have far more memory than one.
    let most = MAX_ENTRIES / shares * 2;
    let read = parallel::map(cut(text, shares), |share| {
        let mut collector = Collector::at_most(most);
        // An entry takes two bytes and the end of its line, mostly some fourteen.
        collector.entries.reserve((share.len() / 14).min(most));
        let (lines, ends_badly) = read_lines(share, &mut collector);
        (collector, lines, ends_badly)
    });
    if read.iter().any(|(share, ..)| share.is_full) {
        // All of it in one of the shares: rare, and right all the same.
        return read_lines(text, collector).1;
    }
    let (mut lines_before, mut ends_badly) = (0, None);
    for (share, lines, share_ends_badly) in read {
        collector.append(share, lines_before);
        lines_before = lines.saturating_add(lines_before);
        ends_badly = share_ends_badly.or(ends_badly);
    }
    ends_badly
}

/// Cuts `text` behind ends of lines into at most so many shares of about the same size.
fn cut(text: &[u8], shares: usize) -> Vec<&[u8]> {
    let mut rest = text;
    let mut found = Vec::with_capacity(shares);
    for left in (1..=shares).rev() {
        let about = rest.len() / left;
        let end = rest.iter().skip(about).position(|byte| *byte == b'\n').map_or(rest.len(), |end| about + end + 1);
        let (share, after) = rest.split_at_checked(end).unwrap_or((rest, &[]));
        found.push(share);
        rest = after;
    }
    found
}

/// The column, from 1, of the byte at `start` of its line: in characters, as editors count.
pub(super) fn column(line: &[u8], start: usize) -> u32 {
    let before = line.get(..start).unwrap_or(line);
    let characters = before.iter().filter(|byte| **byte & 0xc0 != 0x80).count();
    u32::try_from(characters).unwrap_or(u32::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::tests::plain_like;
    use proptest::prelude::*;

    /// What comes of `text` in so many shares.
    fn in_shares(shares: usize, text: &[u8]) -> (Result<(), Refusal>, Collector) {
        let mut collector = Collector::default();
        (parse_in(shares, text, &mut collector), collector)
    }

    /// What comes of each line by itself, the old way.
    fn line_by_line(text: &[u8]) -> Collector {
        let mut collector = Collector::default();
        for (number, line) in super::super::lines(text) {
            let text = entry::without_comment(line);
            if !text.is_empty() {
                let start = line.len() - line.trim_ascii_start().len();
                collector.entry(number, column(line, start), text, entry::read);
            }
        }
        collector
    }

    fn assert_same(one: &Collector, other: &Collector) {
        assert_eq!(one.entries, other.entries);
        assert_eq!(one.diagnostics, other.diagnostics);
        assert_eq!((one.read, one.is_full), (other.read, other.is_full));
    }

    #[test]
    fn cuts_lie_behind_ends_of_lines() {
        for (text, shares, expected) in [
            ("", 3, &["", "", ""][..]),
            ("a\nb\nc\nd\n", 2, &["a\nb\nc\n", "d\n"]),
            ("a\nb", 2, &["a\n", "b"]),
            ("aaaaaaaaa\nb", 3, &["aaaaaaaaa\n", "b", ""]),
            ("\n\n\n", 3, &["\n\n", "\n", ""]),
        ] {
            let found = cut(text.as_bytes(), shares);
            assert_eq!(found, expected.iter().map(|share| share.as_bytes()).collect::<Vec<_>>(), "{text:?}");
        }
    }

    #[test]
    fn many_diagnostics_of_many_shares_are_kept_as_of_one() {
        let text = "192.0.2.1/24\nx\n\n".repeat(1500) + "y";
        let (one, many) = (in_shares(1, text.as_bytes()), in_shares(7, text.as_bytes()));
        assert_same(&one.1, &many.1);
        assert_eq!(many.1.diagnostics.bad(), 1501);
    }

    #[test]
    fn shares_that_are_too_full_are_read_as_one() {
        let mut collector = Collector::at_most(3);
        let (lines, ends_badly) = read_lines(b"192.0.2.1\n192.0.2.2\n192.0.2.3\n192.0.2.4\n", &mut collector);
        assert_eq!((lines, ends_badly, collector.is_full, collector.entries.len()), (4, Some(false), true, 3));
    }

    proptest! {
        #[test]
        fn shares_do_not_show(text in plain_like(), shares in 2_usize..9) {
            let (one, many) = (in_shares(1, text.as_bytes()), in_shares(shares, text.as_bytes()));
            prop_assert_eq!(&one.0, &many.0);
            assert_same(&one.1, &many.1);
            assert_same(&one.1, &line_by_line(text.as_bytes()));
        }

        #[test]
        fn shares_do_not_show_in_any_bytes(text in proptest::collection::vec(any::<u8>(), 0..200), shares in 2_usize..9) {
            let (one, many) = (in_shares(1, &text), in_shares(shares, &text));
            prop_assert_eq!(&one.0, &many.0);
            assert_same(&one.1, &many.1);
            assert_same(&one.1, &line_by_line(&text));
        }
    }
}
