//! The page at `/`: what a glance should tell without Grafana. One document without scripts, that loads nothing.
//!
//! It is served to whoever can reach the listener, which on loopback is every user of this machine and elsewhere more: an address
//! stands here only where [`Addresses`] allows it. Names come from files and hardware: they are escaped twice, for terminals
//! that show a copied line and, by `maud`, for the browser.

use std::{collections::BTreeSet, net::SocketAddr};

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{
    metrics::Overview,
    ranking::{HostRow, IndicatorRow},
    snapshot::{ListView, Snapshot},
};
use crate::{
    protection::{Answer, unready},
    protocol::Hook,
    provenance::Time,
    ruleset::ListAction,
    sources::Role,
    telemetry::FrameCount,
    text::{escape, thousands},
};

/// Nothing but the style of this page, by its hash: neither scripts nor anything from elsewhere, in nobody's frame.
pub(crate) const POLICY: &str = "default-src 'none'; style-src 'sha256-h1V0Z3Mq+2zFoX6Bp7aY4X+IHazeUvPxoib2JII9bE8='; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'";

/// Seconds between two looks of a browser.
const REFRESH_SECONDS: u32 = 10;

const STYLE: &str = "\
:root{color-scheme:light dark;--text:#1a1d21;--quiet:#5c6570;--line:#d5dae0;--card:#f4f6f8;--good:#1a7f37;--bad:#c62828;--back:#fff}\
@media(prefers-color-scheme:dark){:root{--text:#e3e6ea;--quiet:#9aa4af;--line:#343b44;--card:#1d2229;--good:#56c271;--bad:#ff7b72;--back:#14181d}}\
body{margin:0 auto;max-width:70rem;padding:1.5rem;background:var(--back);color:var(--text);font:15px/1.45 system-ui,sans-serif}\
h1{font-size:1.4rem;margin:0}h2{font-size:1.05rem;margin:1.8rem 0 .5rem}\
header{display:flex;gap:1rem;align-items:baseline;flex-wrap:wrap}\
.state{font-weight:600}.good{color:var(--good)}.bad{color:var(--bad)}.quiet{color:var(--quiet)}\
ul{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:.7rem;list-style:none;padding:0;margin:1.2rem 0 0}\
li{background:var(--card);border-radius:.4rem;padding:.6rem .8rem}\
b{display:block;font-size:1.25rem;font-variant-numeric:tabular-nums}\
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.3rem .7rem .3rem 0;border-bottom:1px solid var(--line);white-space:nowrap}\
th{color:var(--quiet);font-weight:500}.number{text-align:right;padding-right:2rem;font-variant-numeric:tabular-nums}\
footer{margin-top:2rem;color:var(--quiet)}a{color:inherit}";

/// Which addresses may be shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Addresses {
    /// None at all.
    None,
    /// Those that no list marks TLP:AMBER or stricter.
    Open,
    /// All.
    All,
}

impl Addresses {
    /// By where the page is served, under which name it was asked for, and whether the operator wants more than is usual.
    ///
    /// A name that is not this machine's own says that somebody else relays: a proxy, or a web page that had its name lead here.
    pub(crate) fn of(listen: SocketAddr, host: Option<&str>, are_wanted: bool) -> Self {
        let is_local = listen.ip().is_loopback() && host.is_none_or(is_loopback);
        match (is_local, are_wanted) {
            (false, false) => Addresses::None,
            (false, true) | (true, false) => Addresses::Open,
            (true, true) => Addresses::All,
        }
    }
}

/// Whether a `Host` header names this machine from its inside.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || address.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

/// The whole document.
pub(crate) fn render(snapshot: &Snapshot, overview: &Overview, addresses: Addresses, now: Time) -> String {
    let answer = snapshot.answer();
    let state = if answer == Answer::Protected { "state good" } else { "state bad" };
    let (ipv4, ipv6) = snapshot.ruleset.count();
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="refresh" content=(REFRESH_SECONDS);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="robots" content="noindex";
                title { "naikon: " (answer.as_str()) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "naikon" }
                    // What is missing may quote a list: that is for those who may ask the daemon.
                    span class=(state) { (answer.as_str()) @if let Some(why) = unready(&snapshot.hooks) { ": " (why) } }
                    span.quiet {
                        "generation " (snapshot.generation) ", " (thousands(ipv4 as u64)) " IPv4 and "
                        (thousands(ipv6 as u64)) " IPv6 prefixes, " (now)
                    }
                }
                @match snapshot.notices.len() {
                    0 => {}
                    count => p.bad { (count) @if count == 1 { " notice" } @else { " notices" } ": naikon status tells" }
                }
                (totals(overview))
                h2 { "Interfaces" }
                (interfaces(snapshot, overview))
                h2 { "Lists" }
                (lists(snapshot, overview, now))
                h2 { "Internal hosts" }
                (hosts(snapshot, overview, addresses))
                h2 { "Indicators" }
                (indicators(snapshot, overview, addresses))
                footer {
                    "naikon " (env!("CARGO_PKG_VERSION")) "; anew every " (REFRESH_SECONDS) " s; "
                    a href="/metrics" { "metrics" } ", " a href="/readyz" { "readyz" } ", " a href="/healthz" { "healthz" }
                }
            }
        }
    };
    page.into_string()
}

fn totals(overview: &Overview) -> Markup {
    let counters = &overview.counters;
    let [dropped, monitored] = [ListAction::Drop, ListAction::Monitor].map(|action| counters.total(action));
    let passed: u64 = counters.frames.iter().map(|frame| frame.passed).sum();
    let unparsed: u64 = counters.frames.iter().map(unparsed).sum();
    let events = &overview.events;
    let reloads: Vec<String> =
        overview.reloads.iter().map(|(result, count)| format!("{count} {}", result.as_str())).collect();
    html! {
        ul {
            (tile("packets dropped", dropped.0, &bytes(dropped.1)))
            (tile("packets monitored", monitored.0, &bytes(monitored.1)))
            (tile("packets passed", passed, "monitored ones too"))
            (tile("packets unparsed", unparsed, "could not be read"))
            (tile("events", events.told, &format!("{} summed up, {} lost", thousands(events.suppressed), thousands(events.lost))))
            (tile("reloads", overview.reloads.iter().map(|(_, count)| count).sum(), &reloads.join(", ")))
        }
    }
}

fn tile(what: &str, number: u64, more: &str) -> Markup {
    html! { li { b { (thousands(number)) } (what) br; span.quiet { (more) } } }
}

/// A table that scrolls by itself where it is too wide. Columns from `numbers` on hold numbers.
fn table(heads: &[&str], numbers: std::ops::RangeInclusive<usize>, rows: &[Vec<Markup>]) -> Markup {
    let class = |column| if numbers.contains(&column) { "number" } else { "" };
    html! {
        div.wide {
            table {
                thead { tr { @for (column, head) in heads.iter().enumerate() { th class=(class(column)) { (head) } } } }
                tbody {
                    @for row in rows {
                        tr { @for (column, cell) in row.iter().enumerate() { td class=(class(column)) { (cell) } } }
                    }
                }
            }
        }
    }
}

fn text(text: impl AsRef<str>) -> Markup {
    html! { (escape(text.as_ref())) }
}

fn number(number: u64) -> Markup {
    html! { (thousands(number)) }
}

fn interfaces(snapshot: &Snapshot, overview: &Overview) -> Markup {
    let counters = &overview.counters;
    let hooked = snapshot.hooks.iter().map(|hook| hook.interface.as_str());
    let counted = counters.frames.iter().map(|frame| frame.interface.as_str());
    let names: BTreeSet<&str> = hooked.chain(counted).collect();
    let row = |name: &str| {
        let hooks: Vec<&Hook> = snapshot.hooks.iter().filter(|hook| hook.interface == name).collect();
        let frames = || counters.frames.iter().filter(|frame| frame.interface == name);
        let hits = |action| {
            let hits = counters.hits.iter().filter(|hit| hit.interface == name && hit.action == action);
            number(hits.map(|hit| hit.packets).sum())
        };
        let state = html! {
            @if hooks.is_empty() { span.quiet { "not asked for" } }
            @for (place, hook) in hooks.iter().enumerate() {
                @if place > 0 { ", " }
                @if hook.mode == "none" { span.bad { (hook.hook) " missing" } } @else { (hook.hook) " " (hook.mode) }
            }
        };
        let (passed, unread) = (frames().map(|frame| frame.passed).sum(), frames().map(unparsed).sum());
        let counts = [hits(ListAction::Drop), hits(ListAction::Monitor), number(passed), number(unread)];
        [text(name), state].into_iter().chain(counts).collect()
    };
    let rows: Vec<Vec<Markup>> = names.into_iter().map(row).collect();
    table(&["Interface", "Hooks", "Dropped", "Monitored", "Passed", "Unparsed"], 2..=5, &rows)
}

fn unparsed(frame: &FrameCount) -> u64 {
    frame.unparsed.iter().sum()
}

fn lists(snapshot: &Snapshot, overview: &Overview, now: Time) -> Markup {
    let row = |list: &ListView| {
        let packets = match list.role {
            Role::Allow => html! {},
            Role::Listed(action) => {
                let hits = overview.counters.hits.iter();
                number(hits.filter(|hit| hit.list == list.name && hit.action == action).map(|hit| hit.packets).sum())
            }
        };
        let read = list.last_success.and_then(|read| read.duration_since(std::time::UNIX_EPOCH).ok());
        let read = read.and_then(|read| i64::try_from(read.as_secs()).ok()).map(Time::from_seconds);
        let ago = |time: Option<Time>| text(time.map_or_else(|| "unknown".to_owned(), |time| age(time, now)));
        let state = match &list.fault {
            // Why not may quote the list: that is for those who may ask the daemon.
            Some(_) => html! { span.bad { "not up" } },
            None => html! { span.good { "up" } },
        };
        vec![
            text(&list.name),
            text(list.role.as_str()),
            state,
            number(list.holds.entries.ipv4 as u64),
            number(list.holds.entries.ipv6 as u64),
            packets,
            ago(read),
            ago(list.holds.newest),
        ]
    };
    let rows: Vec<Vec<Markup>> = snapshot.lists.iter().map(row).collect();
    table(&["List", "Action", "State", "IPv4", "IPv6", "Packets", "Read", "Newest entry"], 3..=5, &rows)
}

fn hosts(snapshot: &Snapshot, overview: &Overview, addresses: Addresses) -> Markup {
    let look = &overview.look;
    let summary = html! {
        p.quiet {
            (look.known.0) @if look.known.0 == 1 { " host" } @else { " hosts" } " and " (look.known.1)
            @if look.known.1 == 1 { " indicator" } @else { " indicators" } " have met, as far as the kernel remembers; "
            @if look.beacons == 0 { "nobody calls what is dropped like a beacon" }
            @else { span.bad { "calling what is dropped like a beacon: " (look.beacons) } }
        }
    };
    if addresses == Addresses::None {
        return html! { (summary) p.quiet { "Addresses are shown where naikon listens on loopback alone, or where the key addresses asks for them." } };
    }
    let row = |row: &HostRow| {
        let score = row.score.map_or_else(|| "".to_owned(), |score| format!("{score:.2}"));
        let instead = (addresses != Addresses::All).then(|| row.instead(snapshot)).flatten();
        vec![
            text(instead.unwrap_or_else(|| row.host.to_string())),
            number(row.indicators as u64),
            number(row.packets),
            text(bytes(row.bytes)),
            text(score),
            text(row.last_seen.to_string()),
        ]
    };
    let rows: Vec<Vec<Markup>> = look.hosts.iter().map(row).collect();
    html! { (summary) (table(&["Host", "Indicators", "Packets", "Bytes", "Beacon score", "Last seen"], 1..=4, &rows)) }
}

fn indicators(snapshot: &Snapshot, overview: &Overview, addresses: Addresses) -> Markup {
    let row = |row: &IndicatorRow| {
        let shown = match (addresses, row.instead(snapshot)) {
            (Addresses::All, _) | (Addresses::Open, None) => row.indicator.to_string(),
            (Addresses::Open, Some(instead)) => instead,
            (Addresses::None, _) => "not shown".to_owned(),
        };
        vec![
            text(shown),
            text(row.list(&overview.look)),
            text(row.action().to_string()),
            number(row.hosts as u64),
            number(row.packets),
            text(bytes(row.bytes)),
            text(row.last_seen.to_string()),
        ]
    };
    let rows: Vec<Vec<Markup>> = overview.look.indicators.iter().map(row).collect();
    table(&["Indicator", "List", "Action", "Hosts", "Packets", "Bytes", "Last seen"], 3..=5, &rows)
}

/// `1234567` as `1.2 MB`.
fn bytes(bytes: u64) -> String {
    let mut amount = bytes as f64;
    for unit in ["B", "kB", "MB", "GB", "TB"] {
        if amount < 999.5 {
            return if unit == "B" { format!("{amount} {unit}") } else { format!("{amount:.1} {unit}") };
        }
        amount /= 1000.0;
    }
    format!("{amount:.1} PB")
}

/// How long ago, in the largest unit that is more than one.
fn age(time: Time, now: Time) -> String {
    let seconds = now.seconds().saturating_sub(time.seconds());
    match seconds {
        ..0 => "ahead of the clock".to_owned(),
        0..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest as _, Sha256};

    #[test]
    fn policy_allows_this_style_and_nothing_else() {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut hash = Sha256::digest(STYLE.as_bytes()).to_vec();
        hash.push(0);
        // 32 bytes are ten triples and two more: base64 pads their last four digits with one sign.
        let digits = hash.chunks(3).flat_map(|three| {
            let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
            [18, 12, 6, 0].map(|shift| char::from(DIGITS[(bits >> shift) as usize & 63]))
        });
        let expected: String = digits.take(43).chain(['=']).collect();
        assert!(POLICY.contains(&format!("style-src 'sha256-{expected}';")), "{expected}");
        assert!(POLICY.starts_with("default-src 'none';"));
        assert!(!POLICY.contains("script-src"));
    }

    #[test]
    fn addresses_are_for_this_machine_and_restricted_ones_for_who_asks_there() {
        let of = |listen: &str, host, wanted| Addresses::of(listen.parse().unwrap(), host, wanted);
        for (listen, host, expected) in [
            ("127.0.0.1:9887", Some("127.0.0.1:9887"), [Addresses::Open, Addresses::All]),
            ("127.0.0.1:9887", Some("localhost:9887"), [Addresses::Open, Addresses::All]),
            ("127.0.0.1:9887", Some("LOCALHOST"), [Addresses::Open, Addresses::All]),
            ("127.0.0.1:9887", None, [Addresses::Open, Addresses::All]),
            ("[::1]:9887", Some("[::1]:9887"), [Addresses::Open, Addresses::All]),
            ("[::1]:9887", Some("[::1]"), [Addresses::Open, Addresses::All]),
            // Relayed, or a web page whose name leads here.
            ("127.0.0.1:9887", Some("naikon.example"), [Addresses::None, Addresses::Open]),
            ("127.0.0.1:9887", Some("localhost.example:9887"), [Addresses::None, Addresses::Open]),
            ("127.0.0.1:9887", Some("192.0.2.1:9887"), [Addresses::None, Addresses::Open]),
            ("127.0.0.1:9887", Some(""), [Addresses::None, Addresses::Open]),
            ("192.0.2.1:9887", Some("127.0.0.1:9887"), [Addresses::None, Addresses::Open]),
            ("0.0.0.0:9887", Some("127.0.0.1:9887"), [Addresses::None, Addresses::Open]),
            ("[::]:9887", Some("[::1]:9887"), [Addresses::None, Addresses::Open]),
        ] {
            assert_eq!([false, true].map(|wanted| of(listen, host, wanted)), expected, "{listen} {host:?}");
        }
    }

    #[test]
    fn what_others_named_is_text_and_steers_nothing() {
        let cell = text("<script>\"a\"&\u{202e}\x1b[31m").into_string();
        assert_eq!(cell, "&lt;script&gt;&quot;a&quot;&amp;\\u{202e}\\u{1b}[31m");
    }

    #[test]
    fn amounts_and_ages_are_short() {
        for (amount, expected) in
            [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_234_567, "1.2 MB"), (u64::MAX, "18446.7 PB")]
        {
            assert_eq!(bytes(amount), expected);
        }
        for (seconds, expected) in [
            (-5, "ahead of the clock"),
            (0, "0 s ago"),
            (150, "2 min ago"),
            (7200, "2 h ago"),
            (864_000, "10 days ago"),
        ] {
            assert_eq!(age(Time::from_seconds(1_000_000 - seconds), Time::from_seconds(1_000_000)), expected);
        }
    }
}
