//! What a list tells of its entries: for how long they hold, who wants them, what is known of them, and that all of it
//! outlives the file.

use std::fs;
use std::time::SystemTime;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{C2, C2_NEIGHBOUR, CLIENT, Daemon, Lab, Run, eventually, needs_root, run_command};
use crate::packets::{ipv4, udp};

const DAY: i64 = 24 * 3600;

/// Seconds since 1970.
fn now() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64
}

/// A time as lists write it.
fn rfc3339(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap().to_string()
}

/// A STIX indicator for an address.
fn indicator(address: &str, more: Value) -> Value {
    let kind = if address.contains(':') { "ipv6-addr" } else { "ipv4-addr" };
    let mut indicator = json!({
        "type": "indicator",
        "spec_version": "2.1",
        "id": format!("indicator--00000000-0000-4000-8000-{:012x}", address.bytes().fold(7_u64, |sum, byte| sum * 31 % 0xffff_ffff + u64::from(byte))),
        "created": "2024-01-01T00:00:00.000Z",
        "modified": "2024-01-01T00:00:00.000Z",
        "pattern_type": "stix",
        "pattern": format!("[{kind}:value = '{address}']"),
        "valid_from": "2024-01-01T00:00:00Z",
    });
    indicator.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    indicator
}

fn bundle(objects: &[Value]) -> String {
    json!({ "type": "bundle", "id": "bundle--00000000-0000-4000-8000-000000000001", "objects": objects }).to_string()
}

/// What `look` saw, if that was before `end`: a slow machine may come too late to see it.
fn before<T>(end: i64, look: impl FnOnce() -> T) -> Option<T> {
    let seen = look();
    (now() < end).then_some(seen)
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn entries_come_and_leave_at_their_time_without_a_reload() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let (leaves, comes) = (now() + 4, now() + 3);
    let list = lab.write(
        "c2.json",
        &bundle(&[
            indicator(&C2.to_string(), json!({ "valid_until": rfc3339(leaves) })),
            indicator(&C2_NEIGHBOUR.to_string(), json!({ "valid_from": rfc3339(comes) })),
            indicator("203.0.113.9", json!({})),
        ]),
    );
    let daemon = Daemon::start(&lab, &["-l", text(&list)]);
    if let Some(verdict) = before(leaves, || daemon.verdict(&C2.to_string())) {
        assert_eq!(verdict, "drop");
    }
    if let Some(verdict) = before(comes, || daemon.verdict(&C2_NEIGHBOUR.to_string())) {
        assert_eq!(verdict, "pass", "its time has not come");
    }
    let waiting = |reason: &str| daemon.metrics().sum("naikon_list_inactive_entries", &[("reason", reason)]);
    if let Some(counts) = before(comes, || (waiting("waiting"), waiting("expired"))) {
        assert_eq!(counts, (1.0, 0.0));
    }
    daemon.await_verdict(&C2_NEIGHBOUR.to_string(), "drop");
    daemon.await_verdict(&C2.to_string(), "pass");
    assert_eq!((waiting("waiting"), waiting("expired")), (0.0, 1.0));
    // Not only by word: its frames pass, the other's do not.
    let (client, gateway) = (lab.client.wire("eth0"), lab.gateway.wire("lan0"));
    client.send(&Lab::from_client(ipv4(CLIENT, C2_NEIGHBOUR).carry(udp(40_000, 443, b"has-come"))));
    client.send(&Lab::from_client(ipv4(CLIENT, C2).carry(udp(40_000, 443, b"has-left"))));
    gateway.expect_marked(b"has-left", 1);
    assert_eq!(gateway.take_marked(b"has-come"), 0);
    let metrics = daemon.metrics();
    assert_eq!(metrics.sum("naikon_reloads_total", &[]), 1.0, "no list was read again");
    assert_eq!(metrics.sum("naikon_list_up", &[]), 1.0);
    assert_eq!(metrics.sum("naikon_list_entries", &[("list", "c2")]), 2.0);
}

#[test]
fn list_whose_entries_all_expire_drops_nothing_and_says_so() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let hold_until = |end: i64| {
        let until = json!({ "valid_until": rfc3339(end) });
        // More than a change guard would let go at once.
        let objects: Vec<Value> = (0..40).map(|host| indicator(&format!("203.0.113.{host}"), until.clone())).collect();
        lab.write("c2.json", &bundle(&objects))
    };
    let list = hold_until(now() + DAY);
    let daemon = Daemon::start(&lab, &["-l", text(&list)]);
    assert_eq!(daemon.verdict("203.0.113.7"), "drop");
    eventually("a list that still holds should be taken", || {
        hold_until(now() + 3);
        (lab.naikon(&["reload", "--force"]).code == Some(0)).then_some(())
    });
    daemon.await_verdict("203.0.113.7", "pass");
    let run = lab.naikon(&["reload"]).exits(1).says("40 x expired");
    drop(run);
    assert_eq!(daemon.verdict("203.0.113.7"), "pass", "the last good content holds no longer than it said");
    assert_eq!(daemon.metrics().sum("naikon_list_up", &[]), 0.0);
}

#[test]
fn age_is_limited_by_the_list_in_the_configuration() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let day = |days: i64| rfc3339(now() - days * DAY);
    lab.write("c2.csv", &format!("ip,last_seen\n203.0.113.1,{}\n203.0.113.2,{}\n203.0.113.3,\n", day(10), day(40)));
    let ends = now() + 4;
    let soon = ends - 30 * DAY;
    lab.write("soon.csv", &format!("ip,last_seen\n203.0.113.4,{}\n203.0.113.5,{}\n", rfc3339(soon), day(0)));
    let config = lab.write(
        "naikon.toml",
        "[[list]]\npath = \"c2.csv\"\nmax_age = \"30d\"\n[[list]]\npath = \"soon.csv\"\nmax_age = \"30d\"\n",
    );
    let daemon = Daemon::start(&lab, &["--config", text(&config)]);
    for (address, verdict) in [("203.0.113.1", "drop"), ("203.0.113.2", "pass"), ("203.0.113.3", "drop")] {
        assert_eq!(daemon.verdict(address), verdict, "{address}");
    }
    if let Some(verdict) = before(ends, || daemon.verdict("203.0.113.4")) {
        assert_eq!(verdict, "drop");
    }
    daemon.await_verdict("203.0.113.4", "pass");
    assert_eq!(daemon.verdict("203.0.113.5"), "drop");
    let newest = daemon.metrics().sum("naikon_list_newest_entry_timestamp_seconds", &[("list", "c2")]);
    assert!((newest - (now() - 10 * DAY) as f64).abs() < 60.0, "{newest}");
}

/// Fault: clock-jump.
#[test]
fn clock_that_jumped_far_ahead_expires_nothing_at_once() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let last = now() - 500 * DAY;
    let until = json!({ "valid_from": rfc3339(last - DAY), "valid_until": rfc3339(last + 100 * DAY) });
    let list = lab.write("c2.json", &bundle(&[indicator(&C2.to_string(), until)]));
    // As it is when the clock jumped over a year while naikon was not running: it remembers when it last ran.
    fs::create_dir(lab.path("state")).unwrap();
    lab.write("state/clock", &format!("{}\n", rfc3339(last)));
    let daemon = Daemon::start(&lab, &["-l", text(&list)]);
    assert_eq!(daemon.verdict(&C2.to_string()), "drop", "its end is past by the clock, but the clock leapt");
    daemon.await_log("while naikon ran at");
    let notices = daemon.status()["notices"].to_string();
    assert!(notices.contains("clock jumped and is "), "{notices}");
    assert!(notices.contains("d ahead of the time") || notices.contains("d behind the time"), "{notices}");
    let ahead = daemon.metrics().sum("naikon_clock_ahead_seconds", &[]);
    assert!(ahead > 499.0 * DAY as f64, "{ahead}");
    assert_eq!(daemon.metrics().sum("naikon_list_inactive_entries", &[]), 0.0);
    // Who knows that the clock is right says so.
    lab.naikon(&["reload", "--force"]).exits(0);
    assert_eq!(daemon.verdict(&C2.to_string()), "drop", "the change guards are another matter");
    lab.naikon(&["reload", "--clock"]).exits(1).says("expired");
    daemon.await_verdict(&C2.to_string(), "pass");
    assert_eq!(daemon.metrics().sum("naikon_clock_ahead_seconds", &[]), 0.0);
}

/// Fault: clock-jump.
#[test]
fn clock_that_woke_up_in_the_past_lets_nothing_wait() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    // naikon ran half a year from now: to it the clock is half a year behind.
    let last = now() + 180 * DAY;
    let from = json!({ "valid_from": rfc3339(last - DAY) });
    let list = lab.write("c2.json", &bundle(&[indicator(&C2.to_string(), from)]));
    fs::create_dir(lab.path("state")).unwrap();
    lab.write("state/clock", &format!("{}\n", rfc3339(last)));
    let daemon = Daemon::start(&lab, &["-l", text(&list)]);
    assert_eq!(daemon.verdict(&C2.to_string()), "drop", "its time has come when naikon last ran");
}

#[test]
fn last_good_list_comes_back_with_what_is_known_of_it() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let actor = json!({
        "type": "intrusion-set", "spec_version": "2.1", "id": "intrusion-set--00000000-0000-4000-8000-000000000002",
        "created": "2024-01-01T00:00:00.000Z", "modified": "2024-01-01T00:00:00.000Z", "name": "Example Panda",
    });
    let until = now() + DAY;
    let listed = indicator(&C2.to_string(), json!({ "confidence": 85, "valid_until": rfc3339(until) }));
    let indicates = json!({
        "type": "relationship", "spec_version": "2.1", "id": "relationship--00000000-0000-4000-8000-000000000003",
        "created": "2024-01-01T00:00:00.000Z", "modified": "2024-01-01T00:00:00.000Z",
        "relationship_type": "indicates", "source_ref": listed["id"], "target_ref": actor["id"],
    });
    let list = lab.write("c2.json", &bundle(&[actor, listed, indicates, indicator("203.0.113.9", json!({}))]));
    let daemon = Daemon::start(&lab, &["-l", text(&list)]);
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
    lab.naikon(&["detach"]).exits(0);
    fs::remove_file(&list).unwrap();
    let daemon = Daemon::start(&lab, &["-l", text(&list)]);
    daemon.await_log("cannot be read");
    let status = daemon.status();
    assert_eq!(status["lists"][0]["up"], false, "{status}");
    let reason = status["lists"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("cannot be read"), "{reason}");
    let told = lab.naikon(&["lookup", "--json", &C2.to_string()]).exits(0).json();
    let context = &told[0]["context"][0];
    assert_eq!(context["actors"], json!(["Example Panda"]), "{told}");
    assert_eq!(context["confidence"], 85);
    let next = daemon.metrics().sum("naikon_list_next_change_timestamp_seconds", &[("list", "c2")]);
    assert_eq!(next, until as f64, "its end was stored with it");
    assert_eq!(daemon.verdict("203.0.113.9"), "drop");
}

/// Fault: power-loss.
#[test]
fn damaged_last_good_list_is_not_enforced() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", "203.0.113.9\n203.0.113.10\n");
    let daemon = Daemon::start(&lab, &["-l", text(&list)]);
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
    lab.naikon(&["detach"]).exits(0);
    fs::remove_file(&list).unwrap();
    let kept = lab.path("state/drop-c2.list");
    let whole = fs::read_to_string(&kept).unwrap();
    fs::write(&kept, whole.replace("203.0.113.10", "203.0.113.11")).unwrap();
    lab.run(run_command(&lab, &["-i", "lan0", "-l", text(&list)])).exits(6).says("not what its hash says");
}

/// A warninglist in MISP's form.
fn warninglist(name: &str, list: &[&str]) -> String {
    json!({ "name": name, "type": "cidr", "version": 1, "description": "", "list": list }).to_string()
}

#[test]
fn warninglists_notice_or_refuse() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    for folder in ["warn", "warn/resolvers"] {
        fs::create_dir(lab.path(folder)).unwrap();
    }
    lab.write("warn/cdn.json", &warninglist("Example CDN", &["198.51.100.0/24"]));
    lab.write("warn/resolvers/list.json", &warninglist("Example resolvers", &["203.0.113.53", "203.0.113.54"]));
    lab.write("c2.txt", &format!("{C2}\n203.0.113.53\n203.0.113.9\n203.0.113.48/28\n"));
    lab.write(
        "naikon.toml",
        "[[list]]\npath = \"c2.txt\"\n[[warnlist]]\npath = \"warn\"\n\
         [[warnlist]]\npath = \"warn/resolvers/list.json\"\naction = \"refuse\"\n",
    );
    let check = lab.naikon(&["check", "--config", "naikon.toml"]).exits(0);
    let check = check.says("Example CDN").says("Example resolvers");
    drop(check);
    lab.naikon(&["check", "--warnlist", "warn", "c2.txt"])
        .exits(0)
        .says("'Example resolvers' holds it or a part of it");
    lab.naikon(&["check", "--strict", "--config", "naikon.toml"]).exits(1);
    let daemon = Daemon::start(&lab, &["--config", "naikon.toml"]);
    assert_eq!(daemon.verdict(&C2.to_string()), "drop", "a notice refuses nothing");
    assert_eq!(daemon.verdict("203.0.113.53"), "pass", "refused");
    assert_eq!(daemon.verdict("203.0.113.54"), "pass", "a hole in the wider prefix");
    assert_eq!(daemon.verdict("203.0.113.55"), "drop");
    let metrics = daemon.metrics();
    let warned = [("list", "c2"), ("warninglist", "Example CDN")];
    assert_eq!(metrics.sum("naikon_list_warned_entries", &warned), 1.0);
    let refused = [("list", "c2"), ("reason", "warninglist")];
    assert_eq!(metrics.sum("naikon_list_rejected_entries", &refused), 1.0);
    let told = lab.naikon(&["lookup", "--json", &C2.to_string()]).exits(0).json();
    assert_eq!(told[0]["warninglists"], json!(["Example CDN"]), "{told}");
    // It is watched like a list.
    lab.write("warn/resolvers/list.json", &warninglist("Example resolvers", &["203.0.113.54"]));
    daemon.await_verdict("203.0.113.53", "drop");
    // One that is emptied, broken or gone keeps its last good content.
    lab.write("warn/resolvers/list.json", &warninglist("Example resolvers", &[]));
    eventually("status should tell", || {
        daemon.status()["notices"].to_string().contains("names no address any more").then_some(())
    });
    assert_eq!(daemon.verdict("203.0.113.54"), "pass");
    lab.write("warn/resolvers/list.json", "{");
    eventually("status should tell", || daemon.status()["notices"].to_string().contains("list.json").then_some(()));
    assert_eq!(daemon.verdict("203.0.113.54"), "pass");
    fs::rename(lab.path("warn"), lab.path("away")).unwrap();
    lab.write("c2.txt", &format!("{C2}\n203.0.113.53\n203.0.113.9\n203.0.113.48/28\n203.0.113.77\n"));
    daemon.await_verdict("203.0.113.77", "drop");
    assert_eq!(daemon.verdict("203.0.113.54"), "pass");
    // What refuses a whole reload is said by status, too.
    lab.write("naikon.toml", "interfaces = 7\n");
    eventually("status should tell", || {
        daemon.status()["notices"].to_string().contains("the last reload was refused").then_some(())
    });
}

#[test]
fn start_without_a_refusing_warninglist_is_refused() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", "203.0.113.9\n");
    let arguments = ["-i", "lan0", "-l", text(&list), "--warnlist-refuse", "gone.json"];
    lab.run(run_command(&lab, &arguments)).exits(6).says("gone.json");
}

/// What `naikon check --config` says of a list with these keys.
fn check(lab: &Lab, keys: &str) -> Run {
    lab.write("naikon.toml", &format!("[[list]]\npath = \"list.csv\"\n{keys}\n"));
    lab.naikon(&["check", "--print", "--config", "naikon.toml"])
}

/// Fault: not-a-block.
#[test]
fn filters_take_what_is_wanted_and_say_what_not() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write(
        "list.csv",
        "type,value,to_ids,confidence,tlp,tags\n\
         ip-dst,203.0.113.1,1,90,green,\"c2,apt\"\n\
         ip-src,203.0.113.2,1,40,red,scanner\n\
         ip-dst,203.0.113.3,0,90,amber,c2\n\
         ip-dst,203.0.113.4,1,,,c2\n",
    );
    for (keys, hosts) in [
        ("", &[1, 2, 4][..]),
        ("to_ids = false", &[1, 2, 3, 4]),
        ("min_confidence = 50", &[1]),
        ("min_confidence = 50\ntrust = 60", &[1, 4]),
        ("min_confidence = 50\ntrust = 50", &[4]),
        ("types = [\"ip-src\"]", &[2]),
        ("tags = [\"C2\"]", &[1, 4]),
        ("tags = [\"a*\"]", &[1]),
        ("not_tags = [\"scan*\"]", &[1, 4]),
        ("max_tlp = \"amber\"", &[1, 4]),
        ("max_tlp = \"amber\"\ntlp = \"red\"", &[1]),
        ("format = \"csv\"", &[1, 2, 4]),
    ] {
        let expected: String = hosts.iter().map(|host| format!("drop 203.0.113.{host}/32 list\n")).collect();
        assert_eq!(check(&lab, keys).exits(0).out, expected, "{keys}");
    }
    check(&lab, "tags = [\"none\"]").exits(1).says("nothing usable, 0 of 4: 3 x tags, 1 x to_ids");
    check(&lab, "format = \"stix\"").exits(1).says("csv, while the configuration says that it is stix");
    for keys in [
        "min_confidence = 101",
        "trust = -1",
        "max_tlp = \"pink\"",
        "max_age = \"soon\"",
        "tags = [\"[\"]",
        "format = \"xls\"",
    ] {
        check(&lab, keys).exits(2);
    }
}

#[test]
fn every_format_reaches_the_kernel() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("plain.txt", "203.0.113.1\n");
    lab.write("rows.csv", "value,type,to_ids\n203.0.113.2,ip-dst,1\n");
    let attribute = |address: &str| json!({ "type": "ip-dst", "value": address, "to_ids": true, "uuid": address });
    lab.write("event.json", &json!({ "Event": { "info": "x", "Attribute": [attribute("203.0.113.3")] } }).to_string());
    lab.write("bundle.json", &bundle(&[indicator("203.0.113.4", json!({}))]));
    lab.write("drop.json", "{\"cidr\":\"203.0.113.5/32\",\"sblid\":\"S\"}\n{\"type\":\"metadata\",\"records\":1}\n");
    lab.write("array.json", "[\"203.0.113.6\"]");
    let feed = lab.path("feed");
    fs::create_dir(&feed).unwrap();
    let event = |address: &str| json!({ "Event": { "info": "x", "Attribute": [attribute(address)] } }).to_string();
    let manifest = |names: &[&str]| {
        let events = names.iter().map(|name| ((*name).to_owned(), json!({ "info": "x", "Orgc": { "name": "x" } })));
        Value::Object(events.collect()).to_string()
    };
    lab.write("feed/a.json", &event("203.0.113.7"));
    lab.write("feed/manifest.json", &manifest(&["a"]));
    let names = ["plain.txt", "rows.csv", "event.json", "bundle.json", "drop.json", "array.json", "feed"];
    let flags: Vec<&str> = names.iter().flat_map(|name| ["-l", name]).collect();
    let daemon = Daemon::start(&lab, &flags);
    for host in 1..=7 {
        assert_eq!(daemon.verdict(&format!("203.0.113.{host}")), "drop", "{host}");
    }
    let check = lab.naikon(&[&["check", "--json"], &names[..]].concat()).exits(0).json();
    let formats: Vec<&str> =
        check["lists"].as_array().unwrap().iter().map(|list| list["format"].as_str().unwrap()).collect();
    assert_eq!(formats, ["plain", "csv", "misp", "stix", "json-lines", "json", "misp-feed"]);
    // A mirror writes the events first and the manifest last.
    lab.write("feed/b.json", &event("203.0.113.8"));
    lab.write("feed/manifest.json", &manifest(&["a", "b"]));
    daemon.await_verdict("203.0.113.8", "drop");
    // A feed of which a part is missing is not taken.
    lab.write("feed/manifest.json", &manifest(&["a", "b", "c"]));
    eventually("the feed should be refused", || {
        (daemon.metrics().sum("naikon_list_up", &[("list", "feed")]) == 0.0).then_some(())
    });
    assert_eq!(daemon.verdict("203.0.113.8"), "drop");
}

/// Fault: not-text.
#[test]
fn error_page_is_no_empty_list() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("naikon.toml", "[[list]]\npath = \"list\"\nallow_empty = true\n");
    for (content, code) in
        [("404: Not Found\n", 1), ("", 0), ("# nothing today\n", 0), ("[]", 0), ("{\"objects\":[]}", 0)]
    {
        lab.write("list", content);
        lab.naikon(&["check", "--config", "naikon.toml"]).exits(code);
    }
}

/// Fault: unreadable.
#[test]
fn what_cannot_be_read_in_a_directory_costs_itself() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    fs::create_dir(lab.path("lists")).unwrap();
    lab.write("lists/good.txt", "203.0.113.9\n");
    std::os::unix::fs::symlink("gone", lab.path("lists/dangling.txt")).unwrap();
    lab.naikon(&["check", "lists"]).exits(1).says("dangling.txt: list refused: cannot be read").says("good");
    lab.naikon(&["check", "lists/dangling.txt"]).exits(2);
}

#[test]
fn what_filters_leave_out_is_said_aloud() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let rows = "type,value,to_ids\nip-dst,203.0.113.1,1\nip-dst,203.0.113.2,0\nip-dst,203.0.113.3,0\n";
    let list = lab.write("c2.csv", rows);
    let daemon = Daemon::start(&lab, &["-l", text(&list)]);
    daemon.await_log("list c2: its filters leave out 2 x to_ids=false");
    let filtered = daemon.metrics().sum("naikon_list_filtered_entries", &[("list", "c2"), ("reason", "to_ids")]);
    assert_eq!(filtered, 2.0);
    assert_eq!(daemon.verdict("203.0.113.2"), "pass");
}

#[test]
fn list_cannot_pass_the_growth_guard_with_what_begins_later() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.json", &bundle(&[indicator("203.0.113.9", json!({}))]));
    let daemon = Daemon::start(&lab, &["-l", text(&list)]);
    let wide = indicator("198.0.0.0/8", json!({ "valid_from": rfc3339(now() + 3) }));
    lab.write("c2.json", &bundle(&[indicator("203.0.113.9", json!({})), wide]));
    lab.naikon(&["reload"]).exits(1).says("would cover");
    daemon.await_metrics("the list should be refused", |metrics| metrics.sum("naikon_list_up", &[]) == 0.0);
    assert_eq!(daemon.metrics().sum("naikon_list_inactive_entries", &[]), 0.0, "nothing of it waits");
}
