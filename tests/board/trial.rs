//! What `cargo xtask board` adds: a real Prometheus that scrapes the daemon while a host beacons, every query of the dashboard and
//! every alert evaluated there, written down; and the page in a browser, of which a picture is kept. Both are told where
//! they are by environment variables, and left out without.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;

use super::queries::{Query, panels, rules, rules_text};
use super::{OTHER, call, dated, send};
use crate::harness::{C2, CLIENT, Daemon, Lab, METRICS, RANGE, eventually, within};
use crate::packets::{ipv4, udp};

const PROMETHEUS: &str = "127.0.0.1:9090";
/// A beacon's period: long enough that bursts are told apart as a row of calls, short enough to wait for.
const PERIOD: Duration = Duration::from_secs(2);
/// Calls until a score says what they are.
const CALLS: u16 = 20;
/// What stands for Grafana's variables.
const VARIABLES: [(&str, &str); 3] = [("$instance", ".*"), ("$list", ".*"), ("$__rate_interval", "30s")];

/// A server that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A path that the environment names.
fn named(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from)
}

/// Has a Prometheus look at the daemon for a minute, and writes down what it saw.
pub(super) fn of_prometheus(lab: &Lab, daemon: &Daemon<'_>) {
    let (Some(program), Some(document)) = (named("NAIKON_PROMETHEUS"), named("NAIKON_BOARD_DOCUMENT")) else { return };
    lab.write("naikon.rules.yml", &rules_text());
    lab.write(
        "prometheus.yml",
        &format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [naikon.rules.yml]\n\
             scrape_configs:\n  - job_name: naikon\n    static_configs: [{{targets: [\"{METRICS}\"]}}]\n"
        ),
    );
    let mut command = Command::new(&program);
    command.arg(format!("--config.file={}", lab.path("prometheus.yml").display()));
    command.arg(format!("--storage.tsdb.path={}", lab.path("tsdb").display()));
    command.arg(format!("--web.listen-address={PROMETHEUS}")).current_dir(lab.folder.path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let server = Server(lab.gateway.enter(|| command.spawn()).unwrap());
    eventually("Prometheus answers", || ask(lab, "/-/ready"));

    let begun = Instant::now();
    for number in 0..CALLS {
        // A beacon, a person, and what is watched.
        send(lab, &ipv4(CLIENT, C2).carry(crate::packets::tcp_syn(10_000 + number, 443)), 1);
        if number % 7 < 2 {
            send(lab, &call(OTHER, C2), u64::from(number));
        }
        send(lab, &ipv4(CLIENT, RANGE).carry(udp(1, 9, b"watched")), 3);
        if number == CALLS / 2 {
            lab.write("watch.txt", "<html>\n");
            lab.naikon(&["reload"]).exits(1);
        }
        if number == CALLS - 3 {
            lab.write(
                "open.csv",
                &(dated(C2, "tlp:green") + "ip-dst,203.0.113.200,1,2026-01-31,\nip-dst,10.0.0.1,1,2026-01-31,\n"),
            );
            lab.naikon(&["reload"]);
        }
        // The time is what is tried here: until the next call is due.
        let due = PERIOD * (u32::from(number) + 1);
        let _: Option<()> = std::iter::repeat_with(|| std::thread::park_timeout(due.saturating_sub(begun.elapsed())))
            .take_while(|()| begun.elapsed() < due)
            .last();
    }
    daemon
        .await_metrics("the host beacons", |metrics| metrics.sum("naikon_hosts_beaconing", &[("list", "open")]) == 1.0);
    let firing = ["NaikonHostBeacons", "NaikonHostCalls", "NaikonReloadRefused"];
    within(Duration::from_secs(60), "the alerts fire", || {
        let alerts = alerts(lab);
        firing
            .iter()
            .all(|name| alerts.iter().any(|(alert, _, state)| alert == name && state == "firing"))
            .then_some(())
    });

    let mut text = format!(
        "# Dashboard and alerts on a real Prometheus\n\n\
         Written by `cargo xtask board` on {} with {}. A host called an indicator every {} s, another one now and then; a third\n\
         address was watched, and in the middle its list was refused; in the end another list got an entry, and one that is refused. Variables of Grafana stand for everything, its rate interval for 30 s.\n\n\
         ## Panels\n\n| panel | query | series | the largest |\n|---|---|---|---|\n",
        Timestamp::now().strftime("%Y-%m-%d"),
        version(lab),
        PERIOD.as_secs(),
    );
    let mut empty = Vec::new();
    for query in panels() {
        let values = evaluated(lab, &query);
        if values.is_empty() {
            empty.push(query.to_string());
        }
        let largest = values.iter().map(|(_, value)| *value).fold(f64::NEG_INFINITY, f64::max);
        let query_text = query.text.replace('|', "\\|");
        writeln!(text, "| {} | `{query_text}` | {} | {largest:.3} |", query.of, values.len()).unwrap();
    }
    text.push_str("\n## Alerts\n\n| alert | query | series | state |\n|---|---|---|---|\n");
    let states = alerts(lab);
    for query in rules() {
        let values = evaluated(lab, &query);
        let of: Vec<&str> =
            states.iter().filter(|(name, ..)| *name == query.of).map(|(_, _, state)| &**state).collect();
        let state = if of.is_empty() { "inactive".to_owned() } else { of.join(", ") };
        writeln!(text, "| {} | `{}` | {} | {state} |", query.of, query.text, values.len()).unwrap();
    }
    text.push_str("\n## What those who are called would read\n\n");
    for (name, annotations, state) in &states {
        writeln!(text, "* {name} ({state}): {}", annotations["summary"].as_str().unwrap()).unwrap();
    }
    let scraped = fs::File::open(lab.write("scraped.txt", &daemon.metrics().text)).unwrap();
    let mut lint = Command::new(program.with_file_name("promtool"));
    let lint = lint.args(["check", "metrics"]).stdin(scraped).output().unwrap();
    let lint = String::from_utf8_lossy(&lint.stdout).into_owned() + &String::from_utf8_lossy(&lint.stderr);
    let remarks = if lint.trim().is_empty() { "nothing\n".to_owned() } else { lint };
    write!(text, "\n## What `promtool check metrics` remarks of a scrape\n\n```text\n{remarks}```\n").unwrap();
    drop(server);
    assert_eq!(empty, [""; 0], "a panel without a series shows nothing");
    fs::write(&document, text).unwrap();
}

/// Takes a picture of the page, which must be as its style says.
pub(super) fn of_browser(lab: &Lab) {
    let (Some(program), Some(picture)) = (named("NAIKON_CHROMIUM"), named("NAIKON_BOARD_PICTURE")) else { return };
    let mut command = Command::new(program);
    // Root has no sandbox; nothing is loaded but our own page.
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]);
    command.arg(format!("--user-data-dir={}", lab.path("browser").display()));
    command.arg(format!("--screenshot={}", picture.display()));
    command.args(["--window-size=1000,1080", "--virtual-time-budget=2000"]).arg(format!("http://{METRICS}/"));
    command.env("HOME", lab.folder.path());
    let run = lab.run(command).exits(0);
    assert!(picture.is_file(), "a picture should be there: {run}");
    for refused in ["Refused to", "Content Security Policy", "Uncaught"] {
        assert!(!run.err.contains(refused), "the browser should take the page as it is: {run}");
    }
}

/// An answer of Prometheus; in the older protocol it comes in one piece.
fn ask(lab: &Lab, path: &str) -> Option<String> {
    let mut stream = lab.gateway.enter(|| TcpStream::connect(PROMETHEUS)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {PROMETHEUS}\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.0 200").then(|| body.to_owned())
}

fn ask_json(lab: &Lab, path: &str) -> Value {
    let body = ask(lab, path).unwrap_or_else(|| panic!("{path} should be answered"));
    serde_json::from_str(&body).unwrap()
}

fn version(lab: &Lab) -> String {
    let told = ask_json(lab, "/api/v1/status/buildinfo");
    format!("Prometheus {}", told["data"]["version"].as_str().unwrap())
}

/// The series of a query's result, with their values.
fn evaluated(lab: &Lab, query: &Query) -> Vec<(Value, f64)> {
    let text = VARIABLES.iter().fold(query.text.clone(), |text, (name, value)| text.replace(name, value));
    let escaped = text.bytes().fold(String::new(), |escaped, byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => escaped + &char::from(byte).to_string(),
        _ => escaped + &format!("%{byte:02X}"),
    });
    let answer = ask_json(lab, &format!("/api/v1/query?query={escaped}"));
    assert_eq!(answer["status"], "success", "{query}: {answer}");
    let series = answer["data"]["result"].as_array().unwrap().clone();
    series.into_iter().map(|one| (one["metric"].clone(), one["value"][1].as_str().unwrap().parse().unwrap())).collect()
}

/// Name, annotations and state of each alert that is not at rest.
fn alerts(lab: &Lab) -> Vec<(String, Value, String)> {
    let told = ask_json(lab, "/api/v1/alerts");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let alerts = told["data"]["alerts"].as_array().unwrap().iter();
    alerts
        .map(|alert| (text(&alert["labels"]["alertname"]), alert["annotations"].clone(), text(&alert["state"])))
        .collect()
}
