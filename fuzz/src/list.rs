//! Lists: every format through `list::parse`, as files reach it. A first byte from 1 on chooses a frame around the
//! rest, so that most tries get past detection and into the format; other inputs are whole lists.

use std::{io::Write as _, net::IpAddr};

use flate2::{Compression, write::GzEncoder};
use naikon_userspace::{
    filter::Filter,
    list::{self, Place, TEXT_CHARACTERS},
    provenance::{Context, Now, Time},
    safety::{self, Guards},
    warninglist::Warnings,
};

/// Text before and after the input.
type Frame = (&'static str, &'static str);

const CSV: [Frame; 7] = [
    ("ip\n", ""),
    ("#ip,ioc\n", ""),
    ("\"first_seen_utc\",\"dst_ip\",\"dst_port\"\r\n", "\r\n# END\r\n"),
    ("uuid,event_id,category,type,value,comment,to_ids,date\n", ""),
    ("\"uuid\",\"type\",\"comment\",\"value\",\"to_ids\",\"attribute_tag\"\n", ""),
    ("#fields\tindicator\tindicator_type\tmeta.source\n", ""),
    ("name;ip;x\n", ""),
];

const MISP: [Frame; 4] = [
    (r#"{"Event":{"uuid":"5f6c0000-0000-4000-8000-000000000001","info":"x","Attribute":["#, "]}}"),
    (
        r#"{"Event":{"Attribute":[{"type":"ip-dst","to_ids":true,"value":"192.0.2.1","uuid":"u","timestamp":"1520624226","#,
        "}]}}",
    ),
    (r#"{"response":[{"Event":{"Object":[{"name":"ip-port","Attribute":["#, "]}]}}]}"),
    (r#"{"Event":{"Tag":["#, r#"],"Attribute":[{"type":"ip-dst|port","value":"192.0.2.1|80","to_ids":true}]}}"#),
];

const STIX: [Frame; 3] = [
    (r#"{"type":"bundle","id":"bundle--00000000-0000-4000-8000-000000000001","objects":["#, "]}"),
    (
        r#"{"type":"bundle","id":"bundle--00000000-0000-4000-8000-000000000001","objects":[{"type":"indicator","id":"indicator--00000000-0000-4000-8000-000000000002","pattern_type":"stix","valid_from":"2025-01-01T00:00:00Z","pattern":"[ipv4-addr:value = '192.0.2.1']","#,
        "}]}",
    ),
    ("[", "]"),
];

/// The input is the pattern itself.
const STIX_PATTERN: Frame = (
    r#"{"type":"bundle","id":"bundle--00000000-0000-4000-8000-000000000001","objects":[{"type":"indicator","id":"indicator--00000000-0000-4000-8000-000000000002","pattern_type":"stix","valid_from":"2025-01-01T00:00:00Z","pattern":"#,
    "}]}",
);

const RECORDS: [Frame; 6] = [
    ("{\"cidr\":\"192.0.2.0/24\",\"sblid\":\"SBL000001\"}\n", "\n{\"type\":\"metadata\",\"timestamp\":1790072042}\n"),
    ("{\"cidr\":\"", "\"}\n"),
    ("[", "]"),
    ("[\"", "\"]"),
    ("{\"data\":[", "]}"),
    ("[{\"ip_address\":\"192.0.2.1\",", "}]"),
];

/// The most prefixes that one range can stand for: a range of all IPv6 addresses but the first and the last.
const PREFIXES_OF_A_RANGE: usize = 254;

/// Any moment: nothing here reads a clock.
const NOW: i64 = 1_767_225_600;

/// Plain text, and whatever no other format claims.
pub fn plain(input: &[u8]) {
    check(input);
}

/// CSV: the frames are headers.
pub fn csv(input: &[u8]) {
    check(&framed(input, &CSV));
}

/// MISP events.
pub fn misp(input: &[u8]) {
    check(&framed(input, &MISP));
}

/// STIX bundles, and the patterns inside.
pub fn stix(input: &[u8]) {
    // A pattern and nothing else, as JSON text has it.
    if input.starts_with(b"[")
        && !input.trim_ascii_end().ends_with(b"}]")
        && let Ok(pattern) = str::from_utf8(input)
    {
        let (before, after) = STIX_PATTERN;
        check(format!("{before}{}{after}", serde_json::Value::from(pattern)).as_bytes());
        return;
    }
    check(&framed(input, &STIX));
}

/// JSON lines, and other JSON.
pub fn records(input: &[u8]) {
    check(&framed(input, &RECORDS));
}

/// Packed lists say what they say unpacked, in however many members; what only claims to be packed does no harm.
pub fn gzip(input: &[u8]) {
    let Some((choice, rest)) = input.split_first() else { return };
    if choice % 2 == 0 {
        check(&[b"\x1f\x8b\x08", rest].concat());
        return;
    }
    // What is packed twice is unpacked once.
    if rest.starts_with(b"\x1f\x8b") {
        return;
    }
    let (first, second) = rest.split_at_checked(usize::from(*choice)).unwrap_or((rest, b""));
    let packed = [pack(first), pack(second)].concat();
    assert_eq!(list::parse(&packed), list::parse(rest));
}

fn pack(text: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(text).and_then(|()| packer.finish()).unwrap_or_default()
}

fn framed(input: &[u8], frames: &[Frame]) -> Vec<u8> {
    let chosen = input.split_first().and_then(|(choice, rest)| {
        let frame = frames.get(usize::from(*choice).checked_sub(1)?)?;
        Some((frame, rest))
    });
    match chosen {
        Some(((before, after), rest)) => [before.as_bytes(), rest, after.as_bytes()].concat(),
        None => input.to_vec(),
    }
}

/// The laws of every format.
fn check(bytes: &[u8]) {
    let parsed = match list::parse(bytes) {
        Ok(parsed) => parsed,
        Err(refusal) => {
            let message = refusal.to_string();
            assert!(!message.contains('\n'), "one line: {message:?}");
            return;
        }
    };

    assert!(parsed.bad <= parsed.read, "{} bad of {} read", parsed.bad, parsed.read);
    if !bytes.starts_with(b"\x1f\x8b") {
        assert!(parsed.read <= bytes.len() + 1, "{} read of {} bytes", parsed.read, bytes.len());
        check_places(&String::from_utf8_lossy(bytes), &parsed);
    }
    let named = parsed.entries.chunk_by(|left, right| left.place == right.place).count();
    assert!(named <= parsed.read, "{named} entries of {} read", parsed.read);
    assert!(parsed.entries.len() <= parsed.read * PREFIXES_OF_A_RANGE);

    assert!(parsed.contexts.len() <= parsed.read);
    for entry in &parsed.entries {
        assert!(entry.context as usize <= parsed.contexts.len(), "no context {}", entry.context);
    }
    parsed.contexts.iter().for_each(check_context);

    // What is printed is read again as it was.
    let printed: String = parsed.entries.iter().map(|entry| format!("{}\n", entry.prefix)).collect();
    let again = list::parse(printed.as_bytes()).map(|again| (again.bad, again.entries));
    let prefixes = |entries: &[list::Entry]| entries.iter().map(|entry| entry.prefix).collect::<Vec<_>>();
    assert_eq!(again.map(|(bad, entries)| (bad, prefixes(&entries))), Ok((0, prefixes(&parsed.entries))));

    check_use(parsed);
}

/// Every place is in the text.
fn check_places(text: &str, parsed: &list::Parsed) {
    let characters: Vec<usize> = text.split('\n').map(|line| line.chars().count()).collect();
    let check = |place: Place| {
        let line = (place.line as usize).checked_sub(1).and_then(|line| characters.get(line));
        let column = place.column as usize;
        assert!(line.is_some_and(|characters| (1..=characters + 1).contains(&column)), "{place:?} is not in the text");
        assert_eq!(place.file, 0, "one file");
    };
    parsed.entries.iter().for_each(|entry| check(entry.place));
    for said in parsed.diagnostics.iter() {
        check(said.place);
        assert!(said.text.chars().count() <= TEXT_CHARACTERS, "{:?}", said.text);
        assert!(!said.reason.to_string().contains('\n'), "one line: {:?}", said.reason);
    }
}

/// What is told is in its limits, and is the same after it was saved as JSON and read back.
fn check_context(context: &Context) {
    assert!(context.confidence.is_none_or(|confidence| confidence <= 100), "{context:?}");
    let saved = serde_json::to_string(context).and_then(|saved| serde_json::from_str(&saved));
    assert_eq!(saved.as_ref().ok(), Some(context));
}

/// Filtering and screening keep some of what was read, in order, and nothing that must never be dropped.
fn check_use(parsed: list::Parsed) {
    let now = Now::from(Time::from_seconds(NOW));
    let read: std::collections::BTreeSet<_> = parsed.entries.iter().map(|entry| entry.prefix).collect();
    let screened = safety::screen(Filter::default().apply(parsed, now), &Guards::none(), &Warnings::default());
    let kept = screened.content.prefixes();
    assert!(kept.is_sorted_by(|left, right| left < right) && kept.iter().all(|prefix| read.contains(prefix)));
    for prefix in kept {
        let forbidden = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([10, 0, 0, 1]), IpAddr::from([255; 4])];
        assert!(!forbidden.iter().any(|address| prefix.address() == *address), "{prefix}");
    }
    // Nothing changes before it is said to.
    let (begins, ends) = screened.content.next_changes(now);
    if let Some(next) = begins.into_iter().chain(ends).min() {
        assert_eq!(screened.content.active(next.after(-1).into()), screened.content.active(now));
    }
    if let Err(refusal) = screened.judge(false) {
        assert!(!refusal.to_string().contains('\n'));
    }
}
