//! Client, gateway and server: three network namespaces with two links between them and none to anywhere else.
//!
//! ```text
//! client 10.77.0.2 ── lan [gateway] wan ── 203.0.113.2 server, to whom the listed addresses belong
//! ```
//!
//! All of it is gone when [`World`] is dropped. SIGKILL alone leaves something behind; the next lab removes it.

use super::Rules;
use crate::shell::{find, output_of, run};
use anyhow::{Context as _, Result, bail};
use std::{
    env,
    fs::{self, DirBuilder},
    io::Write as _,
    net::Ipv4Addr,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Starts the names of our namespaces and of our folder; the process id follows.
const NAME: &str = "naikon-lab-";
/// Where `ip netns` keeps its namespaces.
const NAMESPACES: &str = "/run/netns";
const PARTIES: [&str; 3] = ["client", "gateway", "server"];

/// The client, a private address.
pub(super) const CLIENT: &str = "10.77.0.2";
/// Addresses of the server that are on no list (RFC 5737, RFC 3849).
pub(super) const CLEAN_V4: &str = "198.51.100.1";
pub(super) const CLEAN_V6: &str = "2001:db8:51::1";

/// The NAT64 form of an address (RFC 6052): a listed address by another spelling.
pub(super) fn nat64(address: Ipv4Addr) -> String {
    format!("64:ff9b::{address}")
}

/// The namespaces, and a folder for what runs in them.
pub(super) struct World {
    id: String,
    folder: PathBuf,
}

impl World {
    pub(super) fn build(rules: &Rules) -> Result<Self> {
        let id = format!("{NAME}{}", std::process::id());
        let folder = env::temp_dir().join(&id);
        // Closed to others: it will hold the daemon's state and its control socket.
        DirBuilder::new().mode(0o700).create(&folder).with_context(|| format!("making {}", folder.display()))?;
        let world = World { id, folder };
        for party in PARTIES {
            ip(&["netns", "add", &world.name(party)]).context(
                "making a network namespace; it needs root, and in a container the capability to administer the system",
            )?;
            // Addresses are usable at once: there is nobody to collide with.
            world.set(party, "net/ipv6/conf/default/accept_dad", "0")?;
            world.configure(party, "link set lo up")?;
        }
        world.set("gateway", "net/ipv4/ip_forward", "1")?;
        world.set("gateway", "net/ipv6/conf/all/forwarding", "1")?;
        for (link, party) in [("lan", "client"), ("wan", "server")] {
            let (gateway, other) = (world.name("gateway"), world.name(party));
            ip(&["link", "add", link, "netns", &gateway, "type", "veth", "peer", "name", "eth0", "netns", &other])
                .context("making a veth link")?;
        }
        world.configure(
            "client",
            &format!(
                "link set eth0 up\n\
                 addr add {CLIENT}/24 dev eth0\n\
                 addr add 2001:db8:77::2/64 dev eth0\n\
                 route add default via 10.77.0.1\n\
                 route add default via 2001:db8:77::1"
            ),
        )?;
        world.configure(
            "gateway",
            "link set lan up\n\
             link set wan up\n\
             addr add 10.77.0.1/24 dev lan\n\
             addr add 2001:db8:77::1/64 dev lan\n\
             addr add 203.0.113.1/24 dev wan\n\
             addr add 2001:db8:113::1/64 dev wan\n\
             route add default via 203.0.113.2\n\
             route add default via 2001:db8:113::2",
        )?;
        world.configure("server", &server(rules))?;
        Ok(world)
    }

    /// For what must not outlive the lab.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file that stands for a party's namespace.
    pub(super) fn namespace(&self, party: &str) -> PathBuf {
        Path::new(NAMESPACES).join(self.name(party))
    }

    /// The start of a command in a party's namespace, which ends when we end, however that happens. It is not
    /// `ip netns exec`, which hides what is mounted below /sys.
    pub(super) fn program(&self, party: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "nsenter"]).arg(format!("--net={}", self.namespace(party).display()));
        command.stdin(Stdio::null());
        command
    }

    fn name(&self, party: &str) -> String {
        format!("{}-{party}", self.id)
    }

    /// Hands lines to `ip` in a party's namespace: one process for hundreds of addresses.
    fn configure(&self, party: &str, lines: &str) -> Result<()> {
        let mut child = Command::new(ip_program()?)
            .args(["-netns", &self.name(party), "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting `ip`")?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(lines.as_bytes()).and_then(|()| input.write_all(b"\n")).context("writing to `ip`")?;
        }
        let output = child.wait_with_output().context("waiting for `ip`")?;
        if !output.status.success() {
            bail!("`ip` cannot set up the {party}: {}", String::from_utf8_lossy(&output.stderr).trim_end());
        }
        Ok(())
    }

    /// Sets a variable of the kernel for a party. /proc/sys/net shows the namespace of who opens it.
    fn set(&self, party: &str, variable: &str, value: &str) -> Result<()> {
        let script = format!("echo {value} > /proc/sys/{variable}");
        run(self.program(party).args(["sh", "-c", &script]))
            .with_context(|| format!("setting {variable} to {value} in the {party}"))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        remove(&self.id);
    }
}

/// The server answers for every listed address.
fn server(rules: &Rules) -> String {
    let mut lines = format!(
        "link set eth0 up\n\
         addr add 203.0.113.2/24 dev eth0\n\
         addr add 2001:db8:113::2/64 dev eth0\n\
         route add default via 203.0.113.1\n\
         route add default via 2001:db8:113::1\n\
         addr add {CLEAN_V4}/32 dev lo\n\
         addr add {CLEAN_V6}/128 dev lo\n"
    );
    for address in rules.listed.iter().chain(&rules.watched) {
        // Not `add`: an address may be listed and lie in a watched range.
        lines.push_str(&format!("addr replace {address}/32 dev lo\n"));
    }
    if let Some(address) = rules.listed.first() {
        lines.push_str(&format!("addr add {}/128 dev lo\n", nat64(*address)));
    }
    lines
}

/// Removes what labs left behind that were killed with SIGKILL.
pub(super) fn sweep() {
    let Ok(entries) = fs::read_dir(NAMESPACES) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let Some((process, _party)) = name.strip_prefix(NAME).and_then(|rest| rest.split_once('-')) else { continue };
        if !Path::new("/proc").join(process).exists() {
            remove(&format!("{NAME}{process}"));
        }
    }
}

/// Removes one lab: its processes, namespaces and folder. Says nothing about what is gone already.
fn remove(id: &str) {
    for party in PARTIES {
        let name = format!("{id}-{party}");
        if !Path::new(NAMESPACES).join(&name).exists() {
            continue;
        }
        let processes = ip(&["netns", "pids", &name]).unwrap_or_default();
        for process in processes.lines().filter_map(|line| line.trim().parse().ok()) {
            if let Some(process) = rustix::process::Pid::from_raw(process) {
                let _gone_already = rustix::process::kill_process(process, rustix::process::Signal::KILL);
            }
        }
        if let Err(error) = ip(&["netns", "delete", &name]) {
            eprintln!("warning: {error:#}");
        }
    }
    let folder = env::temp_dir().join(id);
    if folder.exists()
        && let Err(error) = fs::remove_dir_all(&folder)
    {
        eprintln!("warning: cannot remove {}: {error}", folder.display());
    }
}

fn ip(arguments: &[&str]) -> Result<String> {
    output_of(Command::new(ip_program()?).args(arguments))
}

fn ip_program() -> Result<PathBuf> {
    find("ip").context("there is no `ip`; cure: cargo xtask setup")
}
