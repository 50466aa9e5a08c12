//! The steps, in the order of an installation's life. Each tells what was seen, or fails with what was not as it should be.

use super::{
    LIMIT,
    machine::{Machine, Said},
    report::Row,
    wire::{Kind, LATE, LISTED, Outcome, Wire},
};
use anyhow::{Context as _, Result, ensure};
use std::time::{Duration, Instant};

/// What it is called, what must be seen, and how to look.
type Step = (&'static str, &'static str, fn(&mut Trial) -> Result<String>);

const STEPS: [Step; 19] = [
    (
        "install on a bare system: the first command of docs/quick-start.md",
        "installs, is enabled, says what to write; a start without an interface exits 2 with the reason and is not tried again",
        install,
    ),
    ("the other commands of docs/quick-start.md", "each exits 0, the last is `naikon status --check`", quick_start),
    ("`systemd-analyze verify`, `security`", "nothing to say; 2.5 at most", sandbox),
    (
        "1,000 rounds of frames through both cards",
        "no listed one arrives, all clean ones do; native mode; dropped = listed sent; metrics on loopback alone",
        traffic,
    ),
    ("the control socket", "group `naikon` may read and not change, others neither", rights),
    ("`systemctl reload` with a new entry", "it is dropped from then on", reload),
    ("`systemctl reload` with a broken file", "fails and names the fault; the old set goes on", broken),
    ("SIGHUP without the new entry", "it passes again", hangup),
    ("SIGSTOP under a flood", "the watchdog has systemd restart it; nothing leaks, nothing is lost", watchdog),
    ("SIGKILL under a flood", "restarted; nothing leaks, nothing is lost", killed),
    ("SIGTERM that systemd did not send, under a flood", "restarted; nothing leaks, nothing is lost", terminated),
    ("`naikon detach`", "the service ends well and stays away; listed frames pass until it is started", detached),
    (
        "a start without CAP_PERFMON under a flood",
        "before Linux 6.12 it exits 3 and says why; what is pinned goes on; with it all is well again",
        unprivileged,
    ),
    (
        "control: `on_exit = \"detach\"`, then another package under a flood",
        "the trial can fail: listed frames arrive",
        control,
    ),
    (
        "upgrade from the previous package under a flood",
        "nothing leaks, nothing is lost, every listed frame is counted, the edited file stays, the new program runs",
        upgrade,
    ),
    ("reboot under a flood", "protected before the network is online; nothing leaks", reboot),
    ("remove under a flood", "no program, no pin, no process; listed frames pass; configuration stays", remove),
    ("purge", "no file, user or group is left", purge),
    ("install again, purge again", "as the first time", again),
];

/// Before every script.
const PRELUDE: &str = r#"set -o pipefail
export LC_ALL=C DEBIAN_FRONTEND=noninteractive PAGER=cat SYSTEMD_COLORS=0
eventually() { local end=$((SECONDS + $1)); shift; until "$@"; do ((SECONDS < end)) || { echo "not in time: $*"; return 1; }; sleep 0.2; done; }
pid() { systemctl show -P MainPID naikon; }
metrics() { exec 4<>/dev/tcp/127.0.0.1/9887; printf 'GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&4; cat <&4; }
sudo() { "$@"; }
cd /srv/trial
is_new() { [ "$(pid)" != 0 ] && [ "$(pid)" != "$1" ] && [ "$(systemctl is-active naikon)" = active ]; }
"#;

/// A machine on which steps are made.
pub(super) struct Trial {
    machine: Machine,
    wire: Wire,
    /// Of the quick start; the first installs.
    commands: Vec<String>,
    rows: Vec<Row>,
}

impl Trial {
    pub(super) fn new(machine: Machine, wire: Wire, commands: Vec<String>) -> Self {
        Trial { machine, wire, commands, rows: Vec::new() }
    }

    /// Whether every step is as expected.
    pub(super) fn run_all(&mut self) -> bool {
        for (step, expected, perform) in STEPS {
            let start = Instant::now();
            let seen = perform(self).map_err(|error| format!("{error:#}"));
            let passed = seen.is_ok();
            let row = Row { step, expected, seen, took: start.elapsed() };
            println!("{}", row.line());
            self.rows.push(row);
            if !passed {
                return false;
            }
        }
        true
    }

    /// Switches the machine off; gives the table, and what the machine wrote down.
    pub(super) fn end(mut self) -> (Vec<Row>, String) {
        let said =
            self.machine.ask("journalctl --no-pager -o short-monotonic; systemctl status --no-pager naikon", LIMIT);
        let journal = said.map_or_else(|error| format!("no journal: {error:#}\n"), |said| said.text);
        drop(self.machine);
        self.wire.end();
        (self.rows, journal)
    }

    fn ask(&mut self, script: &str) -> Result<Said> {
        self.machine.ask(&format!("{PRELUDE}{script}"), LIMIT)
    }

    /// Runs a script that must not fail.
    fn run(&mut self, script: &str) -> Result<String> {
        let said = self.ask(script)?;
        ensure!(said.code == 0, "`{}` exits {}: {}", script.trim(), said.code, said.end());
        Ok(said.text.trim_end().to_owned())
    }

    /// As somebody who follows the quick start: its first command.
    fn install(&mut self) -> Result<String> {
        let first = self.commands.first().context("the quick start has no commands")?.clone();
        self.run(&first)
    }

    /// The other ones, with a list of addresses that frames may have. Gives what the last one said.
    fn configure(&mut self) -> Result<String> {
        self.run(&format!("printf '{}' >/etc/naikon/lists.d/trial.txt", LISTED.replace('\n', "\\n")))?;
        let mut said = String::new();
        for command in self.commands.clone().iter().skip(1) {
            said = self.run(command)?;
        }
        Ok(said)
    }

    /// Frames that naikon says it dropped.
    fn dropped(&mut self) -> Result<u64> {
        let text = self.run("metrics")?;
        let series = text.lines().filter(|line| line.starts_with("naikon_dropped_packets_total{"));
        Ok(series.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
    }

    fn flood<T>(&mut self, work: impl FnOnce(&mut Machine) -> Result<T>) -> Result<(T, Outcome)> {
        let machine = &mut self.machine;
        self.wire.flood(&[Kind::Clean, Kind::Listed], || work(machine))
    }

    /// A flood while a script runs that must not fail.
    fn flood_over(&mut self, script: &str) -> Result<(String, Outcome)> {
        let script = format!("{PRELUDE}{script}");
        let (said, outcome) = self.flood(|machine| machine.ask(&script, LIMIT * 4))?;
        ensure!(said.code == 0, "exits {}: {}", said.code, said.end());
        Ok((said.text.trim_end().to_owned(), outcome))
    }
}

/// That nothing leaked and nothing was lost.
fn is_tight(outcome: &Outcome) -> Result<()> {
    ensure!(outcome.sent(Kind::Listed) > 0 && outcome.sent(Kind::Clean) > 0, "nothing was sent");
    ensure!(outcome.arrived(Kind::Listed) == 0, "listed frames leaked: {}", outcome.told());
    ensure!(outcome.lost() == 0, "clean frames were lost: {}", outcome.told());
    Ok(())
}

/// A flow's longest silence; emulated processors make some by themselves.
fn pause(outcome: &Outcome) -> String {
    outcome
        .pause
        .map_or_else(String::new, |(pause, _)| format!("; longest time without a clean frame {} ms", pause.as_millis()))
}

fn install(trial: &mut Trial) -> Result<String> {
    let open = trial.wire.send(&[Kind::Clean, Kind::Listed], 50)?;
    ensure!(
        open.arrived(Kind::Listed) == open.sent(Kind::Listed),
        "the bare machine does not forward: {}",
        open.told()
    );
    trial.run(&format!("useradd analyst; useradd stranger; {LISTING} >/var/tmp/before"))?;
    let said = trial.install()?;
    let advice = said.lines().skip_while(|line| !line.contains("Setting up naikon")).skip(1);
    let advice: Vec<&str> = advice.filter(|line| line.contains("interface") || line.contains("naikon.toml")).collect();
    ensure!(!advice.is_empty(), "the installation says nothing of an interface: {said}");
    let enabled = trial.ask("systemctl is-enabled naikon")?.text;
    ensure!(enabled.trim() == "enabled", "the service is {enabled}");
    let start = trial.ask("systemctl start naikon; code=$?; systemctl show -P NRestarts naikon; systemctl show -P ExecMainStatus naikon; exit $code")?;
    ensure!(start.code != 0, "a start without an interface succeeds");
    let numbers: Vec<&str> = start.text.lines().rev().take(2).collect();
    ensure!(numbers == ["2", "0"], "it was to exit 2 and stay so, but: {}", start.text);
    let journal = trial.run("journalctl --no-pager -o cat -u naikon")?;
    let reason = journal.lines().find(|line| line.contains("interface")).context("the journal names no interface")?;
    Ok(format!("{}\njournal: {}", advice.join("\n"), reason.trim()))
}

/// Every file, and whose it is.
const LISTING: &str = "find / -xdev \\( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /var/tmp -o -path /srv \\) -prune \
     -o -printf '%p %u %g\\n' | sort";

fn quick_start(trial: &mut Trial) -> Result<String> {
    let status = trial.configure()?;
    Ok(format!("{} commands; {}", trial.commands.len(), status.lines().take(2).collect::<Vec<_>>().join("\n")))
}

fn sandbox(trial: &mut Trial) -> Result<String> {
    let verify = trial.run("systemd-analyze verify --man=no naikon.service 2>&1 | grep -i naikon || true")?;
    ensure!(verify.is_empty(), "{verify}");
    let score = trial.run("systemd-analyze security --no-pager naikon.service | tail -1")?;
    let number = score.split_whitespace().find_map(|word| word.parse::<f64>().ok()).context("it tells no score")?;
    ensure!(number <= 2.5, "{score}");
    Ok(format!("nothing; {number}"))
}

fn traffic(trial: &mut Trial) -> Result<String> {
    let status = trial.run("naikon status --json")?;
    let native = status.matches("\"native\"").count();
    ensure!(native >= 2, "not both cards are in native mode: {status}");
    let listeners = trial.run("ss -Hltn | grep 9887")?;
    ensure!(listeners.lines().all(|line| line.contains("127.0.0.1:9887")), "metrics are heard elsewhere: {listeners}");
    let before = trial.dropped()?;
    let outcome = trial.wire.send(&[Kind::Clean, Kind::Listed], 1000)?;
    is_tight(&outcome)?;
    let counted = trial.dropped()? - before;
    ensure!(
        counted == outcome.sent(Kind::Listed),
        "{} listed were sent, {counted} were counted",
        outcome.sent(Kind::Listed)
    );
    Ok(format!("{}; {counted} counted as dropped; native; {}", outcome.told(), "127.0.0.1:9887"))
}

fn rights(trial: &mut Trial) -> Result<String> {
    trial.run("usermod -aG naikon analyst")?;
    let as_user =
        |user: &str, command: &str| format!("setpriv --reuid {user} --regid {user} --init-groups naikon {command}");
    trial.run(&as_user("analyst", "status --check"))?;
    let mut codes = Vec::new();
    for (user, command) in [("analyst", "reload"), ("analyst", "detach"), ("stranger", "status")] {
        let said = trial.ask(&as_user(user, command))?;
        ensure!(said.code != 0, "{user} may {command}: {}", said.end());
        codes.push(format!("{user} {command}: exit {}", said.code));
    }
    let pins = trial.run("stat -c '%a %U' /sys/fs/bpf/naikon")?;
    ensure!(pins == "700 naikon", "the pins are for {pins}");
    trial.run("naikon status --check")?;
    Ok(format!("analyst status: exit 0; {}; pins {pins}", codes.join("; ")))
}

fn late_passes(trial: &mut Trial, expected: bool) -> Result<Outcome> {
    let outcome = trial.wire.send(&[Kind::Clean, Kind::Listed, Kind::Late], 100)?;
    is_tight(&outcome)?;
    let wanted = if expected { outcome.sent(Kind::Late) } else { 0 };
    ensure!(
        outcome.arrived(Kind::Late) == wanted,
        "of the new entry arrived {} of {}",
        outcome.arrived(Kind::Late),
        outcome.sent(Kind::Late)
    );
    Ok(outcome)
}

fn reload(trial: &mut Trial) -> Result<String> {
    late_passes(trial, true)?;
    trial.run(&format!("echo {LATE} >>/etc/naikon/lists.d/trial.txt; systemctl reload naikon"))?;
    let outcome = late_passes(trial, false)?;
    Ok(format!("0 of {} frames of the new entry arrived; {}", outcome.sent(Kind::Late), outcome.told()))
}

fn broken(trial: &mut Trial) -> Result<String> {
    let said = trial.ask("cp /etc/naikon/naikon.toml /var/tmp/good.toml; echo 'nonsense = 1' >>/etc/naikon/naikon.toml; systemctl reload naikon")?;
    ensure!(said.code != 0, "the reload succeeds");
    let reason = trial.run("journalctl --no-pager -o cat -u naikon | grep nonsense | tail -1")?;
    let outcome = late_passes(trial, false)?;
    trial.run("cp /var/tmp/good.toml /etc/naikon/naikon.toml; systemctl reload naikon; naikon status --check")?;
    Ok(format!("exit {}: {}\n{}", said.code, reason.trim(), outcome.told()))
}

fn hangup(trial: &mut Trial) -> Result<String> {
    trial.run(&format!(
        "sed -i /{LATE}/d /etc/naikon/lists.d/trial.txt; kill -HUP $(pid)\n\
         passes() {{ naikon lookup {LATE}; [ $? = 1 ]; }}; eventually 30 passes"
    ))?;
    let outcome = late_passes(trial, true)?;
    Ok(format!("{} of {} frames of it arrived", outcome.arrived(Kind::Late), outcome.sent(Kind::Late)))
}

/// Ends the daemon with a signal and waits for the next one.
fn signalled(trial: &mut Trial, signal: &str, seconds: u32) -> Result<(Outcome, Duration, u64)> {
    let before = trial.dropped()?;
    let start = Instant::now();
    let script = format!("old=$(pid); kill -{signal} $old; eventually {seconds} is_new $old");
    let (_, outcome) = trial.flood_over(&script)?;
    let took = start.elapsed();
    is_tight(&outcome)?;
    let counted = trial.dropped()? - before;
    ensure!(
        counted == outcome.sent(Kind::Listed),
        "{} listed were sent, {counted} were counted",
        outcome.sent(Kind::Listed)
    );
    trial.run("naikon status --check")?;
    Ok((outcome, took, counted))
}

fn watchdog(trial: &mut Trial) -> Result<String> {
    let (outcome, took, counted) = signalled(trial, "STOP", 400)?;
    let said = trial.run("journalctl --no-pager -o cat -u naikon | grep -i watchdog | tail -1")?;
    Ok(format!("{said}\nback after {} s; {}; {counted} counted", took.as_secs(), outcome.told()))
}

fn killed(trial: &mut Trial) -> Result<String> {
    let (outcome, took, counted) = signalled(trial, "KILL", 60)?;
    Ok(format!("back after {} s; {}; {counted} counted{}", took.as_secs(), outcome.told(), pause(&outcome)))
}

fn terminated(trial: &mut Trial) -> Result<String> {
    let (outcome, took, counted) = signalled(trial, "TERM", 60)?;
    Ok(format!("back after {} s; {}; {counted} counted{}", took.as_secs(), outcome.told(), pause(&outcome)))
}

fn detached(trial: &mut Trial) -> Result<String> {
    // Twice as long as systemd waits before it starts a service again.
    let state = trial.run(
        "naikon detach --quiet; sleep 10; for property in ActiveState Result ExecMainStatus; do systemctl show -P $property naikon; done",
    )?;
    let state = state.replace('\n', " ");
    ensure!(state == "inactive success 10", "after a detach the service is: {state}");
    let open = trial.wire.send(&[Kind::Clean, Kind::Listed], 50)?;
    ensure!(open.arrived(Kind::Listed) == open.sent(Kind::Listed), "still enforced: {}", open.told());
    trial.run("systemctl start naikon; naikon status --check")?;
    is_tight(&trial.wire.send(&[Kind::Clean, Kind::Listed], 50)?)?;
    Ok(format!("{state}; {}", open.told()))
}

fn unprivileged(trial: &mut Trial) -> Result<String> {
    let script = "mkdir -p /run/systemd/system/naikon.service.d\n\
         printf '[Service]\\n%s=\\n%s=CAP_BPF CAP_NET_ADMIN\\n' AmbientCapabilities AmbientCapabilities >/run/systemd/system/naikon.service.d/trial.conf\n\
         systemctl daemon-reload; systemctl restart naikon; [ $(systemctl show -P ExecMainStatus naikon) = 3 ]";
    let (_, outcome) = trial.flood_over(script)?;
    is_tight(&outcome)?;
    let reason = trial.run("journalctl --no-pager -o cat -u naikon | grep -i perfmon | tail -1")?;
    trial.run("rm -r /run/systemd/system/naikon.service.d; systemctl daemon-reload; systemctl restart naikon; naikon status --check")?;
    Ok(format!("{reason}\n{}", outcome.told()))
}

/// How packages are exchanged: an edited file stays as it is, as unattended upgrades have it.
const EXCHANGE: &str = "apt-get install -y -q --allow-downgrades -o Dpkg::Options::=--force-confold ./";

fn control(trial: &mut Trial) -> Result<String> {
    trial.run(
        "sed -i '1i on_exit = \"detach\"' /etc/naikon/naikon.toml; systemctl restart naikon; naikon status --check",
    )?;
    let script = format!("old=$(pid); {EXCHANGE}previous.deb && eventually 60 is_new $old");
    let (said, outcome) = trial.flood_over(&script)?;
    let leaked = outcome.arrived(Kind::Listed);
    ensure!(leaked > 0, "no listed frame arrived, so this trial sees no leak: {}", outcome.told());
    let warning = said.lines().find(|line| line.contains("detach")).unwrap_or("the package does not warn").trim();
    trial.run("sed -i 1d /etc/naikon/naikon.toml; systemctl restart naikon; naikon status --check")?;
    Ok(format!("{leaked} of {} listed frames arrived\n{warning}", outcome.sent(Kind::Listed)))
}

fn upgrade(trial: &mut Trial) -> Result<String> {
    let old = trial.run("dpkg-query -W -f '${Version}' naikon; sha256sum /etc/naikon/naikon.toml >/var/tmp/edited")?;
    let before = trial.dropped()?;
    let script = format!("old=$(pid); {EXCHANGE}naikon_*_amd64.deb && eventually 60 is_new $old");
    let (_, outcome) = trial.flood_over(&script)?;
    is_tight(&outcome)?;
    let counted = trial.dropped()? - before;
    ensure!(
        counted == outcome.sent(Kind::Listed),
        "{} listed were sent, {counted} were counted",
        outcome.sent(Kind::Listed)
    );
    trial.run("sha256sum --quiet -c /var/tmp/edited; naikon status --check")?;
    let program = trial.run("readlink /proc/$(pid)/exe; dpkg-query -W -f '${Version}' naikon")?;
    ensure!(!program.contains("deleted"), "the old program still runs: {program}");
    let new = program.lines().last().unwrap_or_default();
    ensure!(new != old, "the version is still {old}");
    Ok(format!("{old} to {new}: {}; {counted} counted{}", outcome.told(), pause(&outcome)))
}

fn reboot(trial: &mut Trial) -> Result<String> {
    let ((), outcome) = trial.flood(|machine| machine.reboot())?;
    ensure!(outcome.arrived(Kind::Listed) == 0, "listed frames leaked: {}", outcome.told());
    let (_, first) = outcome.pause.context("no clean frame arrived after the boot")?;
    let uptime = trial.run("cut -d' ' -f1 /proc/uptime")?;
    // How long the machine had run when the first clean frame was through.
    let first = uptime.trim().parse::<f64>()? - first.elapsed().as_secs_f64();
    let started = trial.run("systemctl show -P InactiveExitTimestampMonotonic naikon")?.parse::<f64>()? / 1e6;
    let units = "for unit in sys-subsystem-net-devices-lan0.device naikon.service network-pre.target systemd-networkd.service \
                 network-online.target; do systemctl show -P ActiveEnterTimestampMonotonic $unit; done";
    let units = trial.run(units)?;
    let times: Vec<f64> = units.lines().filter_map(|line| line.parse::<f64>().ok()).map(|time| time / 1e6).collect();
    let [card, naikon, pre, networkd, online] = times.as_slice() else { anyhow::bail!("units tell no times: {units}") };
    let told = format!(
        "seconds since the boot: lan0 {card:.1}, naikon started {started:.1}, ready {naikon:.1}, network-pre {pre:.1}, networkd {networkd:.1}, network-online \
         {online:.1}; first clean frame {first:.1}; 0 of {} listed arrived",
        outcome.sent(Kind::Listed)
    );
    ensure!(naikon < online, "the network was online before naikon was ready; {told}");
    trial.run("naikon status --check")?;
    is_tight(&trial.wire.send(&[Kind::Clean, Kind::Listed], 100)?)?;
    Ok(told)
}

fn remove(trial: &mut Trial) -> Result<String> {
    trial.run("sha256sum /etc/naikon/naikon.toml /etc/naikon/lists.d/* >/var/tmp/kept")?;
    let (_, outcome) = trial.flood_over("apt-get remove -y -q naikon")?;
    ensure!(outcome.lost() == 0, "clean frames were lost: {}", outcome.told());
    let after = trial.wire.send(&[Kind::Clean, Kind::Listed], 100)?;
    ensure!(after.lost() == 0 && after.arrived(Kind::Listed) == after.sent(Kind::Listed), "{}", after.told());
    trial.run(
        "sha256sum --quiet -c /var/tmp/kept && ! ls -A /sys/fs/bpf | grep . && ! pgrep -x naikon && ! ip -d link | grep -E 'xdp|prog' \
         && ! ls /run/naikon 2>/dev/null",
    )?;
    Ok(format!("meanwhile {}; afterwards {}", outcome.told(), after.told()))
}

fn purge(trial: &mut Trial) -> Result<String> {
    trial.run("apt-get purge -y -q naikon")?;
    // The machine's own writing, and the two users that the trial made.
    let left = trial.run(&format!(
        "{LISTING} >/var/tmp/after; diff /var/tmp/before /var/tmp/after | grep '^>' | grep -v -E \
         '> /var/(log/journal|log/apt|log/wtmp|log/btmp|log/lastlog|lib/systemd/(timers|random-seed)|cache/apt|lib/apt)' | cut -c 3- || true"
    ))?;
    ensure!(left.is_empty(), "left behind: {left}");
    let names = trial.run("find / -xdev -iname '*naikon*' -not -path '/srv/*' -not -path '/proc/*'; getent passwd naikon; getent group naikon; true")?;
    ensure!(names.is_empty(), "left behind: {names}");
    Ok("no file beside the journal, no user, no group".to_owned())
}

fn again(trial: &mut Trial) -> Result<String> {
    trial.install()?;
    trial.configure()?;
    is_tight(&trial.wire.send(&[Kind::Clean, Kind::Listed], 50)?)?;
    // Without the step between: a purge must end the daemon itself.
    trial.run(
        "apt-get purge -y -q naikon && ! pgrep -x naikon && ! ls -A /sys/fs/bpf | grep . && ! getent passwd naikon",
    )?;
    let after = trial.wire.send(&[Kind::Clean, Kind::Listed], 50)?;
    ensure!(after.arrived(Kind::Listed) == after.sent(Kind::Listed), "still enforced: {}", after.told());
    Ok("protected, then nothing again".to_owned())
}
