//! The lab behind `cargo xtask run`: naikon on both interfaces of a gateway between a client and a server, with a
//! little real traffic to listed and to clean addresses, until somebody ends it.
//!
//! The lists may be confidential (TLP:AMBER): no listed address is ever printed.

mod totals;
mod traffic;
mod world;

use crate::shell::{built, find, output_of, say};
use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    env,
    fs::{self, File},
    io::{IsTerminal as _, Write as _},
    net::Ipv4Addr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use totals::{Totals, fetch};
use traffic::Traffic;
use world::World;

/// Where the daemon serves its metrics, inside the gateway.
const METRICS: &str = "127.0.0.1:9887";
/// The lists of this repository, for `naikon check` and `naikon run` alike.
const LISTS: [&str; 4] = ["--list", "lists/drop", "--monitor", "lists/monitor"];
const START_TIMEOUT: Duration = Duration::from_secs(20);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs until Ctrl-C, SIGTERM or the end of `seconds`. Fails when nothing was dropped, when a listed address answered
/// or when another did not.
pub(crate) fn lab(workspace: &Path, seconds: Option<u64>) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("catching the signals that end the lab")?;
    }
    world::sweep();

    let naikon = built("release", "naikon")?;
    let rules = Rules::read(workspace, &naikon)?;
    say("lab", "building client, gateway and server as network namespaces; nothing leaves this machine");
    let world = World::build(&rules)?;
    traffic::prove_open(&world, &rules)?;
    say("lab", "without naikon the client reaches every address, listed ones too");

    // In this order: what is dropped first ends first, and nothing may outlive the namespaces.
    let mut daemon = Daemon::start(&world, workspace, &naikon)?;
    daemon.wait_until_ready(&world, &stop)?;
    let watching =
        if rules.watched.is_empty() { String::new() } else { format!(" and watches {}", rules.watched.len()) };
    say("lab", format_args!("naikon is on both interfaces of the gateway, drops {} prefixes{watching}", rules.dropped));
    tell_how_to_look(&world, &naikon);
    let traffic = Traffic::start(&world, &rules)?;
    say("lab", "pings go to listed and other addresses, and from a listed one; Ctrl-C ends it");
    let totals = watch(&world, &mut daemon, seconds.map(Duration::from_secs), &stop)?;
    let account = traffic.finish()?;
    daemon.stop()?;
    drop(world);
    say("lab", &account);
    say("lab", "namespaces, processes and files are removed");
    account.judge(&totals)
}

/// What the lists say, as naikon itself reads them.
struct Rules {
    /// Hosts to drop.
    listed: Vec<Ipv4Addr>,
    /// One host of each range to watch.
    watched: Vec<Ipv4Addr>,
    /// Prefixes to drop, hosts among them.
    dropped: usize,
}

impl Rules {
    fn read(workspace: &Path, naikon: &Path) -> Result<Self> {
        let text = output_of(Command::new(naikon).current_dir(workspace).args(["check", "--print"]).args(LISTS))
            .context("reading the lists of this repository")?;
        let rules = Self::parse(&text);
        if rules.listed.is_empty() {
            bail!("no IPv4 host to drop in the lists of this repository; see `naikon check lists/drop`");
        }
        Ok(rules)
    }

    fn parse(text: &str) -> Self {
        let mut rules = Rules { listed: Vec::new(), watched: Vec::new(), dropped: 0 };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some(action), Some(prefix)) = (words.next(), words.next()) else { continue };
            let (address, length) = prefix.split_once('/').unwrap_or((prefix, "32"));
            let address = address.parse::<Ipv4Addr>().ok();
            match action {
                "drop" => {
                    rules.dropped += 1;
                    rules.listed.extend(address.filter(|_| length == "32"));
                }
                "monitor" => rules.watched.extend(address.map(|address| Ipv4Addr::from_bits(address.to_bits() | 1))),
                _ => {}
            }
        }
        rules
    }
}

/// naikon in the gateway.
struct Daemon {
    process: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts it with a bpffs of its own, which nobody else sees and which is gone when it ends.
    fn start(world: &World, workspace: &Path, naikon: &Path) -> Result<Self> {
        let folder = world.folder();
        let (bpffs, state, log) = (folder.join("bpf"), folder.join("state"), folder.join("naikon.log"));
        for folder in [&bpffs, &state] {
            fs::create_dir(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        let output = File::create(&log).with_context(|| format!("making {}", log.display()))?;
        let mut command = world.program("gateway");
        command
            .current_dir(workspace)
            .args(["unshare", "--mount", "--propagation", "private", "sh", "-c"])
            .args(["mount -t bpf bpf \"$1\" && shift && exec \"$@\"", "sh"])
            .arg(&bpffs)
            .arg(naikon)
            .args(["run", "--interface", "lan", "--interface", "wan"])
            .args(LISTS)
            .args(["--listen", METRICS, "--on-exit", "detach"])
            .arg("--pin-dir")
            .arg(bpffs.join("naikon"))
            .arg("--state-dir")
            .arg(&state)
            .arg("--control")
            .arg(control(world))
            .stdout(output.try_clone().context("sharing the daemon's log")?)
            .stderr(output);
        // Not in our process group: Ctrl-C is for us, and we end the daemon in its turn.
        let process = command.process_group(0).spawn().context("starting naikon in the gateway")?;
        Ok(Daemon { process, log })
    }

    fn wait_until_ready(&mut self, world: &World, stop: &AtomicBool) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        while fetch(&world.namespace("gateway"), METRICS, "/readyz").is_err() {
            self.check_alive()?;
            if stop.load(Ordering::Relaxed) {
                bail!("stopped before naikon was ready");
            }
            if Instant::now() > deadline {
                bail!("naikon is not ready after {} s; {}", START_TIMEOUT.as_secs(), self.last_words());
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn check_alive(&mut self) -> Result<()> {
        match self.process.try_wait().context("watching naikon")? {
            None => Ok(()),
            Some(status) => bail!("naikon ended by itself ({status}); {}", self.last_words()),
        }
    }

    /// Ends it as an administrator would; it must obey and call that success.
    fn stop(mut self) -> Result<()> {
        signal(&self.process, Signal::TERM);
        let deadline = Instant::now() + STOP_TIMEOUT;
        loop {
            match self.process.try_wait().context("waiting for naikon to end")? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("naikon did not end well ({status}); {}", self.last_words()),
                None if Instant::now() > deadline => {
                    bail!("naikon does not end on SIGTERM within {} s; {}", STOP_TIMEOUT.as_secs(), self.last_words())
                }
                None => thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default();
        if last.is_empty() { "it said nothing".to_owned() } else { format!("its last words:\n{}", last.join("\n")) }
    }
}

impl Drop for Daemon {
    /// Reached alive only after an error.
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            let _gone_already = self.process.kill();
            let _not_a_child = self.process.wait();
        }
    }
}

/// Sends a signal to a process that may have ended already.
fn signal(process: &Child, signal: Signal) {
    if let Some(pid) = i32::try_from(process.id()).ok().and_then(Pid::from_raw) {
        let _gone_already = kill_process(pid, signal);
    }
}

fn control(world: &World) -> PathBuf {
    world.folder().join("control.sock")
}

/// Lines to paste into another shell.
fn tell_how_to_look(world: &World, naikon: &Path) {
    let sudo = if env::var_os("SUDO_USER").is_some() { "sudo " } else { "" };
    let gateway = format!("{sudo}nsenter --net={}", world.namespace("gateway").display());
    say("lab", "to look at it from another shell:");
    if find("curl").is_some() {
        println!("  {gateway} curl -s http://{METRICS}/metrics");
    } else {
        let address = METRICS.replace(':', "/");
        println!(
            "  {gateway} bash -c 'exec 3<>/dev/tcp/{address}; printf \"GET /metrics HTTP/1.0\\r\\n\\r\\n\" >&3; cat <&3'"
        );
    }
    println!("  {sudo}{} status --control {}", naikon.display(), control(world).display());
}

/// Shows the counters until the end; gives the last ones.
fn watch(world: &World, daemon: &mut Daemon, limit: Option<Duration>, stop: &AtomicBool) -> Result<Totals> {
    /// Seconds between two lines where they cannot overwrite each other.
    const LOG_EVERY: u64 = 5;
    let terminal = std::io::stdout().is_terminal();
    let began = Instant::now();
    let mut next_line = 0;
    loop {
        let ended = stop.load(Ordering::Relaxed) || limit.is_some_and(|limit| began.elapsed() >= limit);
        daemon.check_alive()?;
        let text = fetch(&world.namespace("gateway"), METRICS, "/metrics").context("asking naikon for its metrics")?;
        let totals = Totals::parse(&text);
        let second = began.elapsed().as_secs();
        if terminal {
            print!("\r\x1b[K{second:5} s  {totals}{}", if ended { "\n" } else { "" });
            std::io::stdout().flush().context("writing to the terminal")?;
        } else if ended || second >= next_line {
            println!("{second:5} s  {totals}");
            next_line = second + LOG_EVERY;
        }
        if ended {
            return Ok(totals);
        }
        for _ in 0..10 {
            if !stop.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_from_the_output_of_check() {
        let rules = Rules::parse(
            "drop 192.0.2.7/32 a,b\ndrop 198.51.100.0/24 a\npass 192.0.2.9/32 allow\nmonitor 203.0.113.0/24 c\n\
             drop 2001:db8::/32 a\n",
        );
        assert_eq!(rules.listed, [Ipv4Addr::new(192, 0, 2, 7)]);
        assert_eq!(rules.watched, [Ipv4Addr::new(203, 0, 113, 1)]);
        assert_eq!(rules.dropped, 3);
    }
}
