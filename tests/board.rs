//! What is shown to those who watch: metrics of events and indicators, the page at `/`, and that dashboard and alert rules
//! (`packaging/`) name nothing that the daemon does not serve. `cargo xtask board` adds a real Prometheus and a browser (`trial`).

pub(crate) mod queries;
mod trial;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::board::queries::{Query, panels, rules};
use crate::connect::Cgroup;
use crate::harness::{
    C2, C2_NEIGHBOUR, CLIENT, DEADLINE, Daemon, Lab, METRICS, Metrics, RANGE, eventually, needs_root, run_command,
};
use crate::packets::{Packet, ipv4, tcp_syn, udp};

const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);

/// A list of one indicator that tells of its time and marking.
fn dated(address: Ipv4Addr, tags: &str) -> String {
    format!("type,value,to_ids,last_seen,tags\nip-dst,{address},1,2026-01-31,{tags}\n")
}

/// Two drop lists of different markings, and one that is watched.
fn lists(lab: &Lab, config: &str) {
    lab.write("open.csv", &dated(C2, "tlp:green"));
    lab.write("closed.csv", &dated(C2_NEIGHBOUR, "tlp:amber"));
    // With an entry that is refused.
    lab.write("watch.txt", &format!("{RANGE}\n10.0.0.1\n"));
    let text = format!(
        "{config}\n[[list]]\npath = \"open.csv\"\n[[list]]\npath = \"closed.csv\"\n\
         [[list]]\npath = \"watch.txt\"\naction = \"monitor\"\n"
    );
    lab.write("naikon.toml", &text);
}

fn send(lab: &Lab, packet: &Packet, count: u64) {
    let (wire, frame) = (lab.client.wire("eth0"), Lab::from_client(packet.clone()));
    (0..count).for_each(|_| wire.send(&frame));
}

fn call(host: Ipv4Addr, indicator: Ipv4Addr) -> Packet {
    ipv4(host, indicator).carry(tcp_syn(40_000, 443))
}

/// Two hosts call the open indicator, one the closed and one the watched.
///
/// While the socket lives, nobody answers with an error that quotes an indicator.
fn calls(lab: &Lab) -> UdpSocket {
    let sink = lab.server.udp((RANGE, 9));
    send(lab, &call(CLIENT, C2), 7);
    send(lab, &call(OTHER, C2), 5);
    send(lab, &call(CLIENT, C2_NEIGHBOUR), 20);
    send(lab, &ipv4(CLIENT, RANGE).carry(udp(1, 9, b"watched")), 3);
    sink
}

fn hits(metrics: &Metrics) -> f64 {
    metrics.sum("naikon_dropped_packets_total", &[]) + metrics.sum("naikon_monitored_packets_total", &[])
}

/// One answer: its head in lower case, and its body.
fn ask(lab: &Lab, address: &str, host: &str, path: &str) -> (String, String) {
    let mut stream = lab.gateway.enter(|| TcpStream::connect(address)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("an HTTP answer: {answer}"));
    (head.to_ascii_lowercase(), body.to_owned())
}

fn page(lab: &Lab) -> String {
    ask(lab, METRICS, METRICS, "/").1
}

/// What a query asks for that these metrics lack.
fn lacks(query: &Query, metrics: &Metrics) -> Vec<String> {
    // Who scrapes adds these.
    let is_own = |label: &str| !["instance", "job"].contains(&label);
    let mut lacking = Vec::new();
    for (name, matchers) in query.metrics.iter().filter(|(name, _)| *name != "up") {
        let served: Vec<&BTreeMap<String, String>> = metrics.labels(name).collect();
        if served.is_empty() {
            lacking.push(format!("{name} in {query}"));
        }
        for (label, value) in matchers.iter().filter(|(label, _)| is_own(label)) {
            let fits = |labels: &&BTreeMap<String, String>| {
                labels.get(label).is_some_and(|has| value.as_ref().is_none_or(|value| value == has))
            };
            if !served.iter().any(fits) {
                lacking.push(format!("{name}{{{label}={value:?}}} in {query}"));
            }
        }
        for label in query.labels.iter().filter(|label| is_own(label)) {
            if !served.iter().any(|labels| labels.contains_key(label)) {
                lacking.push(format!("label {label} of {name} in {query}"));
            }
        }
    }
    lacking
}

#[test]
fn every_metric_and_label_that_a_panel_or_a_rule_names_is_served() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lists(&lab, "[metrics]\nindicators = 10\n");
    let cgroup = Cgroup::new(&lab);
    let daemon = Daemon::start(&lab, &["--config", "naikon.toml", "--connect", "on", "--cgroup", cgroup.text()]);
    let _sink = calls(&lab);
    let metrics = daemon.await_metrics("all hits and an indicator", |metrics| {
        hits(metrics) >= 35.0 && metrics.count("naikon_indicator_packets_total", &[]) > 0
    });
    let (panels, rules) = (panels(), rules());
    assert!(panels.len() >= 30 && rules.len() >= 10, "{} panels, {} rules", panels.len(), rules.len());
    let lacking: Vec<String> = panels.iter().chain(&rules).flat_map(|query| lacks(query, &metrics)).collect();
    assert_eq!(lacking, [""; 0], "{}", metrics.text);
    trial::of_prometheus(&lab, &daemon);
    trial::of_browser(&lab);
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
}

#[test]
fn every_hit_is_told_suppressed_or_lost() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lists(&lab, "");
    let daemon = Daemon::start(&lab, &["--config", "naikon.toml"]);
    for (name, result) in [("naikon_events_total", "told"), ("naikon_events_total", "suppressed")] {
        assert_eq!(daemon.metrics().count(name, &[("result", result)]), 1, "{result} begins at zero");
    }
    let _sink = calls(&lab);
    let metrics = daemon.expect_count("hits", 35.0, hits);
    assert!(metrics.sum("naikon_events_total", &[("result", "told")]) > 0.0);
    let events =
        |metrics: &Metrics| metrics.sum("naikon_events_total", &[]) + metrics.sum("naikon_events_lost_total", &[]);
    daemon.expect_count("events", 35.0, events);
    assert_eq!(metrics.sum("naikon_hits_unpaired_total", &[]), 0.0);
    assert_eq!(metrics.count("naikon_hosts_beaconing", &[]), 3, "every list begins at zero: {}", metrics.text);
    assert_eq!(metrics.sum("naikon_hosts_beaconing", &[]), 0.0);
}

#[test]
fn busiest_indicators_have_series_where_asked_for_and_none_that_a_list_marks() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lists(&lab, "");
    let daemon = Daemon::start(&lab, &["--config", "naikon.toml"]);
    let _sink = calls(&lab);
    let metrics = daemon.expect_count("hits", 35.0, hits);
    assert!(!metrics.text.contains("198.51.100."), "no address unless it is asked for: {}", metrics.text);

    // It takes effect without a restart.
    lists(&lab, "[metrics]\nindicators = 2\n");
    let series = |metrics: &Metrics| {
        metrics.rows("naikon_indicator_packets_total", ["indicator", "list", "direction", "action"])
    };
    let row = |indicator: Ipv4Addr, list: &str, action: &str| {
        [indicator.to_string(), list.to_owned(), "to".to_owned(), action.to_owned()]
    };
    let expected = |c2, range| BTreeMap::from([(row(C2, "open", "drop"), c2), (row(RANGE, "watch", "monitor"), range)]);
    let are = |what, wanted: BTreeMap<[String; 4], f64>| {
        let metrics = daemon.await_metrics(what, |metrics| series(metrics) == wanted);
        assert!(!metrics.text.contains(&C2_NEIGHBOUR.to_string()), "{}", metrics.text);
    };
    are("the sum over hosts", expected(12.0, 3.0));
    send(&lab, &call(OTHER, C2), 6);
    are("what came since", expected(18.0, 3.0));

    // From the moment on that a list marks it, nobody sees it, whatever it was.
    lab.write("open.csv", &format!("type,value,to_ids,tags\nip-dst,{C2},1,tlp:red\n"));
    lab.naikon(&["reload"]).exits(0);
    assert!(!daemon.metrics().text.contains(&C2.to_string()), "a series that may stand no longer");
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
}

#[test]
fn looks_at_pairs_do_not_multiply_with_those_who_ask() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lists(&lab, "[metrics]\nindicators = 2\n");
    let daemon = Daemon::start(&lab, &["--config", "naikon.toml"]);
    send(&lab, &call(CLIENT, C2), 1);
    daemon.await_metrics("a series", |metrics| metrics.count("naikon_indicator_packets_total", &[]) == 1);
    let begun = Instant::now();
    let (mut seen, mut scrapes) = (std::collections::BTreeSet::new(), 0);
    while begun.elapsed() < Duration::from_secs(3) || scrapes < 10 {
        send(&lab, &call(CLIENT, C2), 1);
        seen.insert(daemon.metrics().sum("naikon_indicator_packets_total", &[]).to_string());
        scrapes += 1;
    }
    // A look lasts for two seconds.
    let most = 2 + begun.elapsed().as_secs() / 2;
    assert!(seen.len() as u64 <= most, "{scrapes} scrapes saw {seen:?}");
}

#[test]
fn page_shows_interfaces_lists_hosts_and_indicators_and_loads_nothing() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lists(&lab, "");
    let odd = lab.write("<script>alert(1)<&\".txt", "203.0.113.99\n");
    let daemon = Daemon::start(&lab, &["--config", "naikon.toml", "-l", odd.to_str().unwrap()]);
    let _sink = calls(&lab);
    daemon.expect_count("hits", 35.0, hits);
    let (head, _) = ask(&lab, METRICS, METRICS, "/");
    assert!(head.starts_with("http/1.1 200"), "{head}");
    for header in [
        "content-type: text/html; charset=utf-8",
        "content-security-policy: default-src 'none'; style-src 'sha256-",
        "x-content-type-options: nosniff",
        "cache-control: no-store",
    ] {
        assert!(head.contains(header), "{header} should be in {head}");
    }
    let seen = eventually("the page shows all hosts", || {
        Some(page(&lab)).filter(|page| page.contains("2 hosts and 3 indicators have met"))
    });
    for part in [
        "<title>naikon: protected</title>",
        "<b>32</b>packets dropped",
        "<b>3</b>packets monitored",
        "<td class=\"\">lan0</td>",
        "xdp native",
        "<td class=\"\">closed</td>",
        "2 hosts and 3 indicators have met",
        "nobody calls what is dropped like a beacon",
        "http-equiv=\"refresh\"",
        "&lt;script&gt;alert(1)&lt;&amp;&quot;",
        &CLIENT.to_string(),
        &C2.to_string(),
        &RANGE.to_string(),
        "[TLP:AMBER]",
    ] {
        assert!(seen.contains(part), "{part} should be in {seen}");
    }
    assert!(!seen.contains("<script"), "{seen}");
    assert!(!seen.contains(&C2_NEIGHBOUR.to_string()), "what a list marks is for those who ask the daemon: {seen}");
    for outside in ["http://", "https://", "src=", "url(", "@import", "<link", "style=\""] {
        assert!(!seen.contains(outside), "{outside} in {seen}");
    }
    // Asked for under another name it has been relayed: by a proxy, or by a web page that had its name lead here.
    for host in ["naikon.example", "192.0.2.1:9887", ""] {
        let (_, relayed) = ask(&lab, METRICS, host, "/");
        assert!(relayed.contains("2 hosts and 3 indicators have met"), "{host}: {relayed}");
        for address in [CLIENT, OTHER, C2, C2_NEIGHBOUR, RANGE] {
            assert!(!relayed.contains(&address.to_string()), "{address} for {host}: {relayed}");
        }
    }
    assert!(ask(&lab, METRICS, METRICS, "/other").0.starts_with("http/1.1 404"));

    // Who asks for more gets it, here; and what a list that is not up says stays out.
    lists(&lab, "[metrics]\naddresses = true\n");
    lab.write("watch.txt", "no address: <i>198.51.100.200</i>\n");
    lab.naikon(&["reload"]).exits(1);
    let seen = page(&lab);
    assert!(seen.contains(&C2_NEIGHBOUR.to_string()) && !seen.contains("[TLP:AMBER]"), "{seen}");
    assert!(seen.contains("not up") && !seen.contains("198.51.100.200"), "{seen}");
    assert!(seen.contains("<span class=\"state good\">protected</span>"), "the last good content is enforced: {seen}");
    // A list that never had any is not, and page and 'status' say it with the same words.
    lab.write("never.txt", "no address: <i>198.51.100.200</i>\n");
    lists(&lab, "[[list]]\npath = \"never.txt\"\n");
    lab.naikon(&["reload"]).exits(1);
    let seen = page(&lab);
    assert!(seen.contains("<span class=\"state bad\">NOT fully protected</span>"), "{seen}");
    assert!(seen.contains("<title>naikon: NOT fully protected</title>") && !seen.contains("198.51.100.200"), "{seen}");
    lab.naikon(&["status"]).exits(0).says("NOT fully protected: 2 of 2 interfaces");
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
}

#[test]
fn calls_that_are_watched_protect_no_interface() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let cgroup = Cgroup::new(&lab);
    let arguments = ["-i", "absent*", "-l", "c2.txt", "--connect", "on", "--cgroup", cgroup.text()];
    let mut daemon = Daemon::spawn(&lab, run_command(&lab, &arguments));
    daemon.await_log("generation 1:");
    let page = eventually("the page shows the hook of calls", || {
        lab.gateway.enter(|| TcpStream::connect(METRICS)).ok()?;
        Some(page(&lab)).filter(|page| page.contains("connect "))
    });
    assert!(page.contains("<span class=\"state bad\">NOT protected: no interface matches yet</span>"), "{page}");
    let (head, body) = ask(&lab, METRICS, METRICS, "/readyz");
    assert!(head.starts_with("http/1.1 503") && body == "no interface matches yet\n", "{head}\n{body}");
    lab.naikon(&["status"]).exits(0).says("NOT protected: 0 of 0 interfaces");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.await_exit(), Some(0));
}

#[test]
fn page_withholds_a_host_that_a_list_marks() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let listed = |config: &str| {
        lists(&lab, config);
        lab.write("watch.txt", &format!("type,value,to_ids,tags\nip-dst,{OTHER},1,tlp:amber\n"));
    };
    listed("");
    let daemon = Daemon::start(&lab, &["--config", "naikon.toml"]);
    send(&lab, &call(OTHER, C2), 5);
    daemon.expect_count("hits", 5.0, hits);
    let seen = eventually("the page shows the indicator", || {
        Some(page(&lab)).filter(|page| page.contains("<td class=\"\">198.51.100.7</td>"))
    });
    assert!(seen.contains("[TLP:AMBER]") && !seen.contains(&OTHER.to_string()), "{seen}");
    listed("[metrics]\naddresses = true\n");
    lab.naikon(&["reload"]).exits(0);
    let seen = page(&lab);
    assert!(seen.contains(&OTHER.to_string()) && !seen.contains("[TLP:AMBER]"), "{seen}");
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
}

#[test]
fn page_for_others_than_this_machine_shows_no_address_and_never_one_that_a_list_marks() {
    if needs_root() {
        return;
    }
    const LISTEN: &str = "192.0.2.1:9887";
    let lab = Lab::new();
    lists(&lab, "");
    let arguments = ["-i", "lan0", "-i", "wan0", "--config", "naikon.toml", "--listen", LISTEN];
    let mut daemon = Daemon::spawn(&lab, run_command(&lab, &arguments));
    daemon.await_log("generation 1:");
    eventually("the page answers", || lab.gateway.enter(|| TcpStream::connect(LISTEN)).ok());
    let _sink = calls(&lab);
    let shown = |what: &str| {
        let shown = || Some(ask(&lab, LISTEN, LISTEN, "/").1).filter(|page| page.contains(what));
        eventually(what, shown)
    };
    let page = shown("2 hosts and 3 indicators have met");
    for address in [CLIENT, OTHER, C2, C2_NEIGHBOUR, RANGE] {
        assert!(!page.contains(&address.to_string()), "{address}: {page}");
    }
    lists(&lab, "[metrics]\naddresses = true\n");
    let page = shown(&C2.to_string());
    assert!(page.contains(&CLIENT.to_string()) && page.contains("[TLP:AMBER]"), "{page}");
    assert!(!page.contains(&C2_NEIGHBOUR.to_string()), "{page}");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.await_exit(), Some(0));
}

#[test]
fn every_alert_says_what_to_do_and_has_a_test_that_it_fires() {
    let (rules, tests) = (queries::rules_text(), queries::rule_tests_text());
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert!(alerts.len() >= 10, "{alerts:?}");
    for alert in alerts {
        let name = alert.lines().next().unwrap();
        for key in ["expr: ", "severity: ", "summary: ", "description: ", "runbook: "] {
            assert_eq!(
                alert.matches(&format!("\n        {key}")).count()
                    + alert.matches(&format!("\n          {key}")).count(),
                1,
                "{key}of {name}"
            );
        }
        let fires = format!("alertname: {name}\n        exp_alerts:\n");
        assert!(tests.contains(&fires), "a test that {name} fires");
        let rests = format!("{{eval_time: 119m, alertname: {name}}}");
        assert!(tests.contains(&rests), "a test that {name} does not fire where all is well");
    }
}
