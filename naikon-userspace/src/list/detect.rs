//! What a text is, from its content.

use super::{Refusal, csv};

/// How a text is read.
pub(super) enum Detected {
    Plain,
    /// Which kind of it, `json` finds out.
    Json,
    Csv(csv::Header),
}

/// How far the form of something that is no list is looked for.
const HEAD_BYTES: usize = 4096;

/// Looks at the beginning of a text.
pub(super) fn detect(text: &[u8]) -> Result<Detected, Refusal> {
    let start = text.trim_ascii_start();
    let head = start.get(..HEAD_BYTES).unwrap_or(start);
    if is_html(head) {
        return Err(Refusal::Html);
    }
    if is_json(head) {
        return Ok(Detected::Json);
    }
    Ok(csv::header(text).map_or(Detected::Plain, Detected::Csv))
}

/// A page starts with a tag; some servers print a line before it.
fn is_html(head: &[u8]) -> bool {
    const TAGS: [&[u8]; 10] =
        [b"<!doctype", b"<html", b"<head", b"<body", b"<title", b"<meta", b"<script", b"<?xml", b"<!--", b"<h1"];
    let starts = |line: &[u8], tag: &[u8]| line.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag));
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_start);
    lines.next().is_some_and(|line| TAGS.iter().any(|tag| starts(line, tag)))
        || lines.any(|line| starts(line, b"<!doctype html") || starts(line, b"<html"))
}

/// `[` also starts a bracketed IPv6 address: an array starts with another bracket, a string or nothing.
fn is_json(head: &[u8]) -> bool {
    match head.split_first() {
        Some((b'{', _)) => true,
        Some((b'[', rest)) => matches!(rest.trim_ascii_start().first(), None | Some(b'{' | b'[' | b'"' | b']')),
        _ => false,
    }
}
