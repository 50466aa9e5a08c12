//! The results as text: the tables that people read.

use std::fmt::Write as _;

use crate::control::{Outcome, Reload, fastest};
use crate::lists::Family;
use crate::results::{Results, entries};

/// The whole report, in Markdown.
pub(crate) fn markdown(results: &Results) -> String {
    let mut text = String::from("# How fast naikon is\n\n");
    text.push_str(&circumstances(results));
    text.push_str("\n## Goals\n\n| goal | to reach | measured | |\n|---|---|---|---|\n");
    for goal in results.goals() {
        let reached = match goal.reached {
            Some(true) => "reached",
            Some(false) => "**missed**",
            None => "",
        };
        line(&mut text, format_args!("| {} | {} | {} | {reached} |", goal.what, goal.target, goal.measured));
    }
    lookups(results, &mut text);
    deep(results, &mut text);
    hits(results, &mut text);
    veth(results, &mut text);
    control(results, &mut text);
    let missing = results.not_measured();
    if !missing.is_empty() {
        text.push_str("\n## Not measured\n\n");
        missing.iter().for_each(|reason| line(&mut text, format_args!("* {reason}")));
    }
    text
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(text, "{arguments}").expect("a string takes everything");
}

fn circumstances(results: &Results) -> String {
    let fact = |name: &str| match &results.facts[name] {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut text = format!(
        "Measured by `cargo xtask bench{}` on {} ({} processors{}), kernel {}, {}.\n",
        if results.quick { " --quick" } else { "" },
        fact("cpu"),
        fact("cores"),
        if fact("hypervisor") == "true" { ", virtual" } else { "" },
        fact("kernel"),
        fact("date"),
    );
    if results.is_busy() {
        let quiet = |name: &str| results.quiet[name].as_f64().unwrap_or(f64::NAN);
        line(
            &mut text,
            format_args!(
                "\n**The machine was busy with other things (up to {:.0} % of the time went to other threads, load {:.1}): \
                 minima may be high, and reloads were slowed down.**",
                quiet("lost_to_other_threads") * 100.0,
                quiet("load_average")
            ),
        );
    }
    text.push_str(
        "\nMinima of many turns, in which all took part; the JSON has the medians. Compare within one run only: a few\n\
         nanoseconds and 15 % of a ratio are noise.\n",
    );
    text
}

fn lookups(results: &Results, text: &mut String) {
    if results.lookups.is_empty() {
        return;
    }
    text.push_str(
        "\n## In the kernel\n\nNanoseconds a packet, another pair of addresses in each, both looked up; naikon is the \
         program that a daemon has attached.\n\n| capabilities | family | entries | packets | null | parse | two LPM \
         lookups | naikon | above parse: LPM | naikon | ratio |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in &results.lookups {
        let (naikon, plain) = row.above_parse();
        line(
            text,
            format_args!(
                "| {} | {} | {} | {} | {:.1} | {:.1} | {:.0} | {:.1} | {plain:.0} | {naikon:.1} | 1/{:.1} |",
                row.caps.name(),
                row.family.name(),
                entries(row.size),
                row.case,
                row.null().minimum,
                row.parse().minimum,
                row.plain().minimum,
                row.naikon().minimum,
                row.ratio()
            ),
        );
    }
}

fn deep(results: &Results, text: &mut String) {
    if results.deep.is_empty() {
        return;
    }
    text.push_str(
        "\n## What --deep costs\n\nNanoseconds a packet, another pair of addresses in each, none of them listed, nothing to \
         follow.\n\n| family | null | default | with --deep | above null |\n|---|---|---|---|---|\n",
    );
    for outcome in &results.deep {
        line(
            text,
            format_args!(
                "| {} | {:.1} | {:.1} | {:.1} | {:.1} times |",
                outcome.family.name(),
                outcome.null.minimum,
                outcome.default.minimum,
                outcome.deep.minimum,
                outcome.ratio()
            ),
        );
    }
}

fn hits(results: &Results, text: &mut String) {
    if results.hits.is_empty() {
        return;
    }
    text.push_str(
        "\n## What hits and events cost\n\nNanoseconds a packet of two trie lookups that count a hit, and of the same that also \
         tell of it: its pair, its event or that it was one too many.\n\n\
         | traffic | null | counted | and told | added |\n|---|---|---|---|---|\n",
    );
    for outcome in &results.hits {
        line(
            text,
            format_args!(
                "| {} | {:.1} | {:.1} | {:.1} | {:.1} |",
                outcome.traffic,
                outcome.null.minimum,
                outcome.untold.minimum,
                outcome.told.minimum,
                outcome.added()
            ),
        );
    }
}

fn veth(results: &Results, text: &mut String) {
    for outcome in &results.veth {
        line(
            text,
            format_args!(
                "\n## Over a veth pair, {} IPv4 entries\n\nNanoseconds a packet for the whole path.\n\n\
                 | filter | miss | above no filter | hit |\n|---|---|---|---|",
                entries(outcome.size)
            ),
        );
        for (contender, miss, hit) in &outcome.rows {
            let adds = outcome.miss_adds(*contender).map_or(String::new(), |adds| format!("{adds:.0}"));
            line(text, format_args!("| {} | {:.0} | {adds} | {:.0} |", contender.name(), miss.minimum, hit.minimum));
        }
        let seconds = |time: Option<std::time::Duration>| {
            time.map_or("not measured".to_owned(), |time| format!("{:.2} s", time.as_secs_f64()))
        };
        line(
            text,
            format_args!(
                "\nLoading this list: `nft -f` {}, `ipset restore` {}. xdp-filter has 200 of the hosts and no networks.",
                seconds(outcome.nft_load),
                seconds(outcome.ipset_load)
            ),
        );
    }
}

fn control(results: &Results, text: &mut String) {
    if results.control.is_empty() {
        return;
    }
    text.push_str(
        "\n## Reloads and memory\n\nFrom the file in place to enforced, and to the trie complete (the fastest of all); \
         the longest that one packet took meanwhile (of all), and without a reload.\n\n| list | change | times | \
         enforced | trie complete | first to last verdict | worst packet | at rest |\n|---|---|---|---|---|---|---|---|\n",
    );
    for outcome in &results.control {
        let changes = [("all new", &outcome.full), ("1 %", &outcome.one_percent), ("50 %", &outcome.half)];
        for (name, reloads) in changes {
            let least = |time: fn(&Reload) -> f64| fastest(reloads, time).unwrap_or(f64::NAN);
            let worst = |time: fn(&Reload) -> f64| reloads.iter().map(time).fold(0.0, f64::max);
            line(
                text,
                format_args!(
                    "| {} {} | {name} | {} | {:.3} s | {:.3} s | {:.1} ms | {:.0} us | {:.0} us |",
                    entries(outcome.size),
                    outcome.family.name(),
                    reloads.len(),
                    least(|reload| reload.enforced),
                    least(|reload| reload.complete),
                    least(|reload| (reload.enforced - reload.began) * 1e3),
                    worst(|reload| reload.worst_packet_us),
                    worst(|reload| reload.worst_packet_at_rest_us),
                ),
            );
        }
    }
    text.push('\n');
    for outcome in &results.control {
        memory(outcome, text);
    }
}

fn memory(outcome: &Outcome, text: &mut String) {
    let mib = |kib: u64| kib as f64 / 1024.0;
    let maps: Vec<String> =
        outcome.maps.iter().map(|(kind, bytes)| format!("{kind} {:.1} MiB", *bytes as f64 / 1_048_576.0)).collect();
    line(
        text,
        format_args!(
            "* {} {}: the daemon has {:.0} MiB at rest ({:.0} bytes an entry above an empty one's {:.0} MiB), {:.0} MiB \
             at the peak; its maps {}. `naikon detach` took {:.2} s.",
            entries(outcome.size),
            outcome.family.name(),
            mib(outcome.steady_kib),
            outcome.bytes_an_entry(),
            mib(outcome.empty_kib),
            mib(outcome.peak_kib),
            maps.join(", "),
            outcome.detach.as_secs_f64()
        ),
    );
}

/// One line while the run goes on.
pub(crate) fn progress(row: &crate::lookups::Row) -> String {
    let (naikon, plain) = row.above_parse();
    format!(
        "{} {:>5} {:<24} null {:6.1}  parse {:6.1}  LPM {:7.1}  naikon {:7.1} | above parse: LPM {plain:7.1}  naikon \
         {naikon:7.1}  1/{:.1} | wrong {} of {}",
        if row.family == Family::V4 { "IPv4" } else { "IPv6" },
        entries(row.size),
        row.case,
        row.null().minimum,
        row.parse().minimum,
        row.plain().minimum,
        row.naikon().minimum,
        row.ratio(),
        row.wrong,
        row.asked
    )
}

#[test]
fn report_without_measurements_says_so() {
    let text = markdown(&Results { missing: vec!["veth: no root".to_owned()], ..Default::default() });
    assert!(text.contains("not measured") && text.contains("* veth: no root"), "{text}");
    assert!(text.contains("busy"), "a machine of which nothing is known is no quiet one: {text}");
}
