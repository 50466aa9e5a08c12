//! What every system test stands on: a [`Lab`] of three hosts, and [`Daemon`]s that run in its middle one.
//!
//! ```text
//! client 192.0.2.10 ── lan0 gateway wan0 ── 192.0.2.130 server (198.51.100.0/24, 203.0.113.0/24, 2001:db8:f::/48)
//! ```
//!
//! A host is a network namespace without a name: it lives as long as this process or a child holds it, so even a
//! killed test leaves none behind. The gateway also has its own mounts: /sys of its own namespace, a private bpffs at
//! /sys/fs/bpf, and empty /run and /var/lib, so that no default path ever reaches the machine's own. Dropping a lab
//! asserts that nothing of it is left: processes, programs, links, pins.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket, sockopt,
};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::packets::{Frame, Packet};

/// Longest wait for anything that should happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
/// Pause between two looks at something that should happen.
const POLL: Duration = Duration::from_millis(5);

pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 130);
pub(crate) const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10);
pub(crate) const SERVER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2);

// Addresses of the server that tests put on lists.
pub(crate) const C2: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
pub(crate) const C2_NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 8);
pub(crate) const RANGE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
pub(crate) const C2_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0xbad, 0, 0, 0, 7);
pub(crate) const C2_6_NEIGHBOUR: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0xbad, 0, 0, 0, 8);
pub(crate) const RANGE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0xcafe, 0, 0, 0, 7);

const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 1, 0x10];
const LAN_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
const WAN_MAC: [u8; 6] = [2, 0, 0, 0, 2, 1];
const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 2, 2];

/// Where the metrics are unless a test says otherwise. Every lab has its own loopback.
pub(crate) const METRICS: &str = "127.0.0.1:9887";

/// Whether a test must be left out because it needs root; says so, or fails where skips are not allowed.
pub(crate) fn needs_root() -> bool {
    if nix::unistd::geteuid().is_root() {
        return false;
    }
    assert!(std::env::var_os("NAIKON_REQUIRE_ROOT").is_none_or(|value| value != "1"), "this test needs root");
    println!("skipped: needs root");
    true
}

/// The program under test: `$NAIKON_BIN`, else `naikon` beside the folder of this test's executable.
fn naikon_binary() -> PathBuf {
    let path = std::env::var_os("NAIKON_BIN").map_or_else(
        || std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("naikon"),
        PathBuf::from,
    );
    assert!(path.is_file(), "{} should be the naikon binary: build it, or set NAIKON_BIN", path.display());
    path
}

/// How many times slower this machine is than those that the deadline is for: an emulated one says so.
pub(crate) fn slowness() -> u32 {
    std::env::var("NAIKON_SLOWNESS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Looks until `look` finds something; `what` says what should have happened.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    within(DEADLINE * slowness(), what, &mut look)
}

/// Like [`eventually`], with a deadline that is itself the claim.
pub(crate) fn within<T>(deadline: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "within {deadline:?}: {what}");
        thread::park_timeout(POLL);
    }
}

/// One host: a network namespace, perhaps with mounts of its own.
pub(crate) struct Host {
    network: File,
    mounts: Option<File>,
}

impl Host {
    /// A host with the loopback alone.
    pub(crate) fn new(own_mounts: bool) -> Self {
        let made = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace should be possible");
            if own_mounts {
                unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace should be possible");
                let none = None::<&str>;
                mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
                for (source, target) in
                    [("sysfs", "/sys"), ("bpf", "/sys/fs/bpf"), ("tmpfs", "/run"), ("tmpfs", "/var/lib")]
                {
                    mount(Some(source), target, Some(source), MsFlags::empty(), none)
                        .unwrap_or_else(|error| panic!("mounting {target}: {error}"));
                }
            }
            let open = |name| File::open(format!("/proc/thread-self/ns/{name}")).unwrap();
            Host { network: open("net"), mounts: own_mounts.then(|| open("mnt")) }
        });
        let host = made.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        host.ip("link set lo up");
        host
    }

    /// Runs `work` on this host. What it opens or starts stays there.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                if let Some(mounts) = &self.mounts {
                    // A thread that shares its working directory with others may not change mounts.
                    unshare(CloneFlags::CLONE_FS).unwrap();
                    setns(mounts, CloneFlags::CLONE_NEWNS).unwrap();
                }
                setns(&self.network, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs `ip` commands on this host, one a line.
    pub(crate) fn ip(&self, batch: &str) {
        let mut child = self.enter(|| {
            let mut command = Command::new("ip");
            command.args(["-force", "-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null());
            command.stderr(Stdio::piped()).spawn().expect("iproute2 should be installed")
        });
        child.stdin.take().unwrap().write_all(batch.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip should accept:\n{batch}\n{errors}");
    }

    /// Whether `ip` could make an interface of these words: not every kernel has every kind.
    pub(crate) fn makes(&self, link: &str) -> bool {
        let made = self.enter(|| Command::new("ip").args(["link", "add"]).args(link.split(' ')).output());
        made.expect("iproute2 is installed").status.success()
    }

    /// What `ip -json` says on this host.
    pub(crate) fn ip_json(&self, arguments: &[&str]) -> Value {
        let output =
            self.enter(|| Command::new("ip").arg("-json").args(arguments).output()).expect("iproute2 is installed");
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// Writes below /proc/sys/net.
    fn sysctl(&self, path: &str, value: &str) {
        self.enter(|| fs::write(Path::new("/proc/sys/net").join(path), value))
            .unwrap_or_else(|error| panic!("{path} = {value}: {error}"));
    }

    /// Sees and sends raw frames on an interface of this host.
    pub(crate) fn wire(&self, interface: &str) -> Wire {
        self.enter(|| Wire::open(interface))
    }

    /// A UDP socket of this host.
    pub(crate) fn udp(&self, address: impl Into<SocketAddr>) -> UdpSocket {
        let address = address.into();
        let socket = self.enter(|| UdpSocket::bind(address)).unwrap_or_else(|error| panic!("{address}: {error}"));
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
    }

    /// Where `ip` finds this host's network namespace.
    pub(crate) fn namespace(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.network.as_raw_fd())
    }

    /// Frames that an interface of this host sent and that found no room where they should have come in: what the driver
    /// of a pair tells of its own end (`veth_xmit`). From /proc, since /sys is that of another namespace here.
    pub(crate) fn no_room(&self, interface: &str) -> u64 {
        let text = self.enter(|| fs::read_to_string("/proc/thread-self/net/dev")).unwrap();
        let line = text.lines().find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'));
        // Eight columns of what was received stand before packets, errors and drops of what was sent.
        let dropped = line.and_then(|numbers| numbers.split_whitespace().nth(11)?.parse().ok());
        dropped.unwrap_or_else(|| panic!("{interface} should have counters: {text}"))
    }

    /// Identity of the network namespace.
    fn inode(&self) -> u64 {
        self.network.metadata().unwrap().ino()
    }

    /// Kernel ids of the XDP programs on this host's interfaces.
    pub(crate) fn xdp_programs(&self) -> Vec<u64> {
        let links = self.ip_json(&["-details", "link", "show"]);
        let links = links.as_array().cloned().unwrap_or_default();
        links.iter().filter_map(|link| link["xdp"]["prog"]["id"].as_u64()).collect()
    }
}

/// A raw socket on one interface. It sees what comes in, addressed to the interface; not what goes out, such as the
/// host's ICMP errors that quote a frame.
pub(crate) struct Wire {
    socket: OwnedFd,
    own: [u8; 6],
}

impl Wire {
    fn open(interface: &str) -> Self {
        let socket =
            socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll).unwrap();
        // A frame that finds no room here would look as if it had been dropped.
        setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20)).unwrap();
        let address = link_address(interface);
        bind(socket.as_raw_fd(), &address).unwrap();
        let wire = Wire { socket, own: address.addr().expect("an Ethernet interface has an address") };
        // What came in from elsewhere before the socket was bound to one interface.
        wire.take(|_| true);
        wire
    }

    /// Sends one frame; false when the queue is full and the frame is gone.
    pub(crate) fn try_send(&self, frame: &[u8]) -> bool {
        match send(self.socket.as_raw_fd(), frame, MsgFlags::empty()) {
            Ok(length) => {
                assert_eq!(length, frame.len(), "a frame is sent whole");
                true
            }
            Err(nix::errno::Errno::ENOBUFS | nix::errno::Errno::EAGAIN) => false,
            Err(error) => panic!("sending {} bytes: {error}", frame.len()),
        }
    }

    /// Sends one frame that must arrive: one that the other end had no room for was seen by no program, and is sent once
    /// more. That end's queue is emptied by a processor that others may keep.
    pub(crate) fn send(&self, frame: &Frame) {
        let end = Instant::now() + DEADLINE * slowness();
        while !self.try_send(&frame.bytes) {
            assert!(Instant::now() < end, "the queue should have room");
            thread::yield_now();
        }
    }

    /// Sends many frames. One that the receiving end has no room for is told by [`Host::no_room`] alone. Each is sent by
    /// a call of its own, since a call for many (`sendmmsg`) does not say why it took fewer, and what the driver of the
    /// pair has counted as gone would be sent once more.
    pub(crate) fn send_all<'a>(&self, frames: impl Iterator<Item = &'a [u8]>) {
        for frame in frames {
            let end = Instant::now() + DEADLINE * slowness();
            loop {
                match send(self.socket.as_raw_fd(), frame, MsgFlags::empty()) {
                    // No room at the other end: `veth_xmit` drops and counts, and says so since 6.6.
                    Ok(_) | Err(nix::errno::Errno::ENOBUFS) => break,
                    // What is on its way fills the socket's share of memory.
                    Err(nix::errno::Errno::EAGAIN) if Instant::now() < end => thread::yield_now(),
                    Err(error) => panic!("sending {} bytes: {error}", frame.len()),
                }
            }
        }
    }

    /// Takes all frames that came for this host, and counts those that `wanted` takes.
    pub(crate) fn take(&self, mut wanted: impl FnMut(&[u8]) -> bool) -> usize {
        let mut count = 0;
        self.take_all(|frame| count += usize::from(frame.starts_with(&self.own) && wanted(frame)));
        count
    }

    /// Hands on every frame that came in, multicasts too, and none that went out.
    pub(crate) fn take_all(&self, mut each: impl FnMut(&[u8])) {
        let mut buffer = [0; 65536];
        loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) if buffer[..length].get(6..12).is_some_and(|source| source == self.own) => {}
                Ok(length) => each(&buffer[..length]),
                Err(nix::errno::Errno::EAGAIN) => return,
                // The interface went down, which is told once.
                Err(nix::errno::Errno::ENETDOWN) => {}
                Err(error) => panic!("receiving: {error}"),
            }
        }
    }

    /// Counts the frames that came and hold `mark`.
    pub(crate) fn take_marked(&self, mark: &[u8]) -> usize {
        self.take(|frame| holds(frame, mark))
    }

    /// Waits until `count` frames that hold `mark` have come.
    pub(crate) fn expect_marked(&self, mark: &[u8], count: usize) {
        let mut seen = 0;
        eventually(&format!("{count} frames marked {:?} should arrive", String::from_utf8_lossy(mark)), || {
            seen += self.take_marked(mark);
            (seen >= count).then_some(())
        });
        assert_eq!(seen, count, "no more frames than were sent should arrive");
    }
}

/// Whether `frame` holds the bytes of `mark`.
pub(crate) fn holds(frame: &[u8], mark: &[u8]) -> bool {
    frame.windows(mark.len()).any(|window| window == mark)
}

/// The link-layer address of an interface of the caller's namespace, as getifaddrs(3) makes it: with its index and
/// no protocol, so that binding to it keeps the socket's own.
fn link_address(interface: &str) -> LinkAddr {
    nix::ifaddrs::getifaddrs()
        .unwrap()
        .filter(|address| address.interface_name == interface)
        .find_map(|address| address.address?.as_link_addr().copied())
        .unwrap_or_else(|| panic!("{interface} should exist"))
}

/// Three hosts, and what they leave behind is checked when they go.
pub(crate) struct Lab {
    pub(crate) client: Host,
    pub(crate) gateway: Host,
    pub(crate) server: Host,
    /// Lists, state and logs of this lab.
    pub(crate) folder: TempDir,
    /// Programs that daemons attached here: none may outlive the lab.
    programs: RefCell<Vec<u64>>,
    broken: Option<u64>,
}

impl Lab {
    /// Builds the hosts and the links between them; forwarding works when this returns.
    pub(crate) fn new() -> Self {
        let broken = broken();
        let lab = Lab {
            client: Host::new(false),
            gateway: Host::new(true),
            server: Host::new(false),
            folder: tempfile::Builder::new().prefix("naikon-lab-").tempdir().unwrap(),
            programs: RefCell::default(),
            broken,
        };
        for host in [&lab.client, &lab.gateway, &lab.server] {
            // No duplicate address detection: addresses work at once, and counters see less chatter.
            for (path, value) in [
                ("ipv6/conf/default/accept_dad", "0"),
                ("ipv6/conf/all/accept_dad", "0"),
                ("ipv6/conf/default/accept_ra", "0"),
                ("ipv6/conf/default/router_solicitations", "0"),
                ("ipv4/conf/all/rp_filter", "0"),
                ("ipv4/conf/default/rp_filter", "0"),
            ] {
                host.sysctl(path, value);
            }
        }
        lab.gateway.sysctl("ipv4/ip_forward", "1");
        // The server's networks are local routes, not addresses; sockets may bind to any address in them.
        lab.server.sysctl("ipv6/ip_nonlocal_bind", "1");
        lab.gateway.sysctl("ipv6/conf/all/forwarding", "1");
        lab.plug_lan();
        lab.plug_wan();
        lab
    }

    /// Makes `lan0` and the client behind it.
    pub(crate) fn plug_lan(&self) {
        let (lan, client) = (mac(LAN_MAC), mac(CLIENT_MAC));
        self.gateway.ip(&format!(
            "{}\n\
             addr add 192.0.2.1/25 dev lan0\n\
             addr add 2001:db8:1::1/64 dev lan0\n\
             link set lan0 up\n\
             neigh add {CLIENT} lladdr {client} nud permanent dev lan0\n\
             neigh add {CLIENT6} lladdr {client} nud permanent dev lan0\n",
            veth("lan0", LAN_MAC, CLIENT_MAC, &self.client)
        ));
        self.client.ip(&format!(
            "addr add {CLIENT}/25 dev eth0\n\
             addr add {CLIENT6}/64 dev eth0\n\
             link set eth0 up\n\
             neigh add 192.0.2.1 lladdr {lan} nud permanent dev eth0\n\
             neigh add 2001:db8:1::1 lladdr {lan} nud permanent dev eth0\n\
             route add default via 192.0.2.1\n\
             route add default via 2001:db8:1::1\n"
        ));
        Lab::await_up(&self.gateway, "lan0");
        Lab::await_up(&self.client, "eth0");
    }

    /// Makes `wan0` and the server behind it.
    fn plug_wan(&self) {
        let (wan, server) = (mac(WAN_MAC), mac(SERVER_MAC));
        self.gateway.ip(&format!(
            "{}\n\
             addr add 192.0.2.129/25 dev wan0\n\
             addr add 2001:db8:2::1/64 dev wan0\n\
             link set wan0 up\n\
             neigh add {SERVER} lladdr {server} nud permanent dev wan0\n\
             neigh add {SERVER6} lladdr {server} nud permanent dev wan0\n\
             route add 198.51.100.0/24 via {SERVER}\n\
             route add 203.0.113.0/24 via {SERVER}\n\
             route add 2001:db8:f::/48 via {SERVER6}\n",
            veth("wan0", WAN_MAC, SERVER_MAC, &self.server)
        ));
        // The server answers on every address of its networks.
        self.server.ip(&format!(
            "addr add {SERVER}/25 dev eth0\n\
             addr add {SERVER6}/64 dev eth0\n\
             link set eth0 up\n\
             neigh add 192.0.2.129 lladdr {wan} nud permanent dev eth0\n\
             neigh add 2001:db8:2::1 lladdr {wan} nud permanent dev eth0\n\
             route add default via 192.0.2.129\n\
             route add default via 2001:db8:2::1\n\
             route add local 198.51.100.0/24 dev lo\n\
             route add local 203.0.113.0/24 dev lo\n\
             route add local 2001:db8:f::/48 dev lo\n"
        ));
        Lab::await_up(&self.gateway, "wan0");
        Lab::await_up(&self.server, "eth0");
    }

    /// A path in this lab's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file of this lab: who reads it sees the old or the new one.
    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        // No list: its name begins with a dot.
        let draft = path.with_file_name(format!(".{}.draft~", path.file_name().unwrap().display()));
        let written = fs::write(&draft, content).and_then(|()| fs::rename(&draft, &path));
        written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }

    /// Writes a file of this lab in place, as most programs do: who reads it meanwhile sees a part.
    pub(crate) fn overwrite(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::write(&path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// A `naikon` command on the gateway with the lab's control socket; it must end within [`DEADLINE`].
    pub(crate) fn naikon(&self, arguments: &[&str]) -> Run {
        let socket = self.path("control.sock");
        let mut command = Command::new(naikon_binary());
        command.args(arguments);
        let asks = match arguments.first() {
            Some(&"status" | &"hits" | &"events" | &"top" | &"capture" | &"reload" | &"doctor" | &"detach") => true,
            Some(&"lookup") => !arguments.contains(&"--list"),
            _ => false,
        };
        if asks {
            command.arg("--control").arg(socket);
        }
        self.run(command)
    }

    /// Runs a command on the gateway; it must end within [`DEADLINE`].
    pub(crate) fn run(&self, mut command: Command) -> Run {
        command.current_dir(self.folder.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.gateway.enter(|| command.spawn()).unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || sender.send(child.wait_with_output()));
        match receiver.recv_timeout(DEADLINE * slowness()) {
            Ok(output) => Run::from(output.unwrap()),
            Err(_) => {
                // It may have ended this very moment.
                let _ = kill(pid, Signal::SIGKILL);
                let output = receiver.recv().unwrap().unwrap();
                panic!("{command:?} should end within {DEADLINE:?}: {}", Run::from(output));
            }
        }
    }

    /// The files below the default pin directory, sorted, relative to it.
    pub(crate) fn pins(&self) -> Vec<PathBuf> {
        self.gateway.enter(|| {
            let root = Path::new("/sys/fs/bpf/naikon");
            let mut found = Vec::new();
            let mut folders = vec![root.to_owned()];
            while let Some(folder) = folders.pop() {
                for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                    match entry.file_type().unwrap().is_dir() {
                        true => folders.push(entry.path()),
                        false => found.push(entry.path().strip_prefix(root).unwrap().to_owned()),
                    }
                }
            }
            found.sort();
            found
        })
    }

    /// A frame from the client, addressed to the gateway's LAN side.
    pub(crate) fn from_client(packet: Packet) -> Frame {
        packet.between(CLIENT_MAC, LAN_MAC)
    }

    /// A frame from the server, addressed to the gateway's WAN side.
    pub(crate) fn from_server(packet: Packet) -> Frame {
        packet.between(SERVER_MAC, WAN_MAC)
    }

    /// A frame from the client straight to the server, for a gateway that is a bridge.
    pub(crate) fn across(packet: Packet) -> Frame {
        packet.between(CLIENT_MAC, SERVER_MAC)
    }

    /// The other way across the bridge.
    pub(crate) fn back_across(packet: Packet) -> Frame {
        packet.between(SERVER_MAC, CLIENT_MAC)
    }

    /// Waits until an interface sends and its addresses are in use: the kernel does both a moment after `ip` returned.
    pub(crate) fn await_up(host: &Host, interface: &str) {
        eventually(&format!("{interface} should be up"), || {
            let addresses = host.ip_json(&["addr", "show", "dev", interface]);
            let waits = addresses[0]["addr_info"].as_array()?.iter().any(|address| address["tentative"] == true);
            let link = host.ip_json(&["link", "show", "dev", interface]);
            (!waits && link[0]["operstate"] == "UP").then_some(())
        });
    }

    /// Makes one more interface of the gateway, with its other end at the client.
    pub(crate) fn plug(&self, name: &str, peer: &str) {
        let namespace = self.client.namespace();
        let queues = "numtxqueues 1 numrxqueues 1";
        self.gateway.ip(&format!(
            "link add {name} {queues} type veth peer name {peer} {queues} netns {namespace}\n\
             link set {name} addrgenmode none\n\
             link set {name} up"
        ));
        self.client.ip(&format!("link set {peer} addrgenmode none\nlink set {peer} up"));
    }

    fn remember_programs(&self) {
        self.programs.borrow_mut().extend(self.gateway.xdp_programs());
    }

    /// What is left of the lab although it should be gone.
    fn residue(&self) -> Vec<String> {
        let mut found = Vec::new();
        let hosts = [&self.client, &self.gateway, &self.server].map(Host::inode);
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = process.file_name().to_string_lossy().parse::<u32>() else { continue };
            if pid == std::process::id() {
                continue;
            }
            if fs::metadata(process.path().join("ns/net")).is_ok_and(|network| hosts.contains(&network.ino())) {
                let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                found.push(format!("process {pid} ({})", name.trim()));
            }
        }
        found
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.remember_programs();
        let end = Instant::now() + DEADLINE * slowness();
        let mut left = self.residue();
        while !left.is_empty() && Instant::now() < end {
            thread::park_timeout(POLL);
            left = self.residue();
        }
        // Closing the last handles of the namespaces takes interfaces, links and pins with it.
        for host in [&mut self.client, &mut self.gateway, &mut self.server] {
            host.network = File::open("/dev/null").unwrap();
            host.mounts = None;
        }
        let programs = self.programs.take();
        let end = Instant::now() + DEADLINE * slowness();
        loop {
            let alive: Vec<u64> = aya::programs::loaded_programs()
                .filter_map(Result::ok)
                .map(|program| u64::from(program.id()))
                .filter(|id| programs.contains(id))
                .collect();
            if alive.is_empty() {
                break;
            }
            if Instant::now() >= end {
                left.push(format!("programs {alive:?}"));
                break;
            }
            thread::park_timeout(POLL);
        }
        let broken = broken();
        if broken != self.broken {
            left.push(format!("a kernel whose /proc/sys/kernel/tainted has {broken:x?} instead of {:x?}", self.broken));
        }
        if left.is_empty() {
            return;
        }
        // A second panic would abort and hide the first.
        if thread::panicking() {
            eprintln!("the lab left behind: {left:?}");
        } else {
            panic!("the lab should leave nothing behind: {left:?}");
        }
    }
}

/// What the kernel says of faults of its own: a bad page, an oops, a warning (Documentation/admin-guide/tainted-kernels.rst).
/// Modules and processors that were taken from a virtual machine for long taint it, too.
fn broken() -> Option<u64> {
    const BAD: u64 = 1 << 5 | 1 << 7 | 1 << 9;
    Some(fs::read_to_string("/proc/sys/kernel/tainted").ok()?.trim().parse::<u64>().ok()? & BAD)
}

/// The command that makes a pair of interfaces, one end here, the other as `eth0` there. One queue each keeps frames
/// in order.
fn veth(name: &str, own: [u8; 6], peer: [u8; 6], there: &Host) -> String {
    let namespace = there.namespace();
    let queues = "numtxqueues 1 numrxqueues 1";
    format!(
        "link add {name} address {} {queues} type veth peer name eth0 address {} {queues} netns {namespace}\n\
         link set {name} addrgenmode none",
        mac(own),
        mac(peer)
    )
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// How a command ended.
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Run {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "exit {:?}\nstdout: {}\nstderr: {}", self.code, self.out, self.err)
    }
}

impl Run {
    /// It should have ended with `code`.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "the exit code should be {code}: {self}");
        self
    }

    /// Its messages should hold `text`.
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.err.contains(text) || self.out.contains(text), "{text:?} should be said: {self}");
        self
    }

    /// Its output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("JSON should be printed: {error}: {self}"))
    }
}

/// How to start a daemon: flags in one line, each path relative to the lab's folder.
pub(crate) struct Daemon<'a> {
    lab: &'a Lab,
    child: Child,
    log: PathBuf,
}

/// `naikon run` with everything inside the lab, `arguments` behind; options given twice are left to `arguments`.
pub(crate) fn run_command(lab: &Lab, arguments: &[&str]) -> Command {
    let mut command = Command::new(naikon_binary());
    complete(&mut command, lab, arguments);
    command
}

/// `run` and its options, for a command that may begin with another program.
pub(crate) fn complete(command: &mut Command, lab: &Lab, arguments: &[&str]) {
    command.arg("run");
    let defaults = [("--state-dir", lab.path("state")), ("--control", lab.path("control.sock"))];
    for (option, value) in defaults {
        if !arguments.contains(&option) {
            command.arg(option).arg(value);
        }
    }
    command.args(arguments);
    command.current_dir(lab.folder.path());
}

/// Where the program under test lies, for commands that wrap it.
pub(crate) fn binary() -> PathBuf {
    naikon_binary()
}

impl<'a> Daemon<'a> {
    /// Starts `naikon run` on both interfaces of the gateway and waits until it is ready.
    pub(crate) fn start(lab: &'a Lab, arguments: &[&str]) -> Self {
        let both = ["-i", "lan0", "-i", "wan0"];
        Self::start_on(lab, &[&both, arguments].concat())
    }

    /// Starts `naikon run` and waits until it is ready.
    pub(crate) fn start_on(lab: &'a Lab, arguments: &[&str]) -> Self {
        let mut daemon = Self::spawn(lab, run_command(lab, arguments));
        daemon.await_ready();
        daemon
    }

    /// Starts a command that becomes a daemon, and does not wait.
    pub(crate) fn spawn(lab: &'a Lab, mut command: Command) -> Self {
        let log = lab.path("daemon.log");
        let file = File::options().create(true).append(true).open(&log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        Self::spawn_logging_elsewhere(lab, command)
    }

    /// Like [`Daemon::spawn`], with the standard streams that the command has already.
    pub(crate) fn spawn_logging_elsewhere(lab: &'a Lab, mut command: Command) -> Self {
        let log = lab.path("daemon.log");
        let child = lab.gateway.enter(|| command.spawn()).unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Daemon { lab, child, log }
    }

    /// Waits until `/readyz` answers 200.
    pub(crate) fn await_ready(&mut self) {
        eventually("the daemon should become ready", || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the daemon should run: {status}\n{}", self.log());
            }
            (get(self.lab, METRICS, "/readyz").ok()?.0 == 200).then_some(())
        });
        self.lab.remember_programs();
    }

    /// Everything that daemons of this lab have said so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the log holds `text`.
    pub(crate) fn await_log(&self, text: &str) {
        eventually(&format!("the log should say {text:?}"), || self.log().contains(text).then_some(()));
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it has ended by itself; its exit code, none when a signal ended it.
    pub(crate) fn await_exit(&mut self) -> Option<i32> {
        eventually("the daemon should exit", || self.child.try_wait().unwrap()).code()
    }

    /// Stops it with `signal` and waits.
    pub(crate) fn stop(mut self, signal: Signal) -> Option<i32> {
        self.lab.remember_programs();
        self.signal(signal);
        self.await_exit()
    }

    /// The metrics now.
    pub(crate) fn metrics(&self) -> Metrics {
        Metrics::scrape(self.lab, METRICS)
    }

    /// Waits until the metrics satisfy `check`, and returns them.
    pub(crate) fn await_metrics(&self, what: &str, check: impl Fn(&Metrics) -> bool) -> Metrics {
        eventually(what, || Some(self.metrics()).filter(&check))
    }

    /// Waits until `value` of the metrics is at least `least`; it should then be exactly that.
    #[track_caller]
    pub(crate) fn expect_count(&self, what: &str, least: f64, value: impl Fn(&Metrics) -> f64) -> Metrics {
        let mut last = 0.0;
        let end = Instant::now() + DEADLINE * slowness();
        loop {
            let metrics = self.metrics();
            last = value(&metrics).max(last);
            if last >= least {
                assert_eq!(last, least, "{what} should be exactly {least}");
                return metrics;
            }
            assert!(Instant::now() < end, "{what} should become {least} and is {last}\n{}", metrics.text);
            thread::park_timeout(POLL);
        }
    }

    /// `naikon status --json`.
    pub(crate) fn status(&self) -> Value {
        self.lab.naikon(&["status", "--json"]).exits(0).json()
    }

    /// Generation that the metrics tell.
    pub(crate) fn generation(&self) -> f64 {
        self.metrics().sum("naikon_generation", &[])
    }

    /// The verdict that `naikon lookup` gives.
    pub(crate) fn verdict(&self, address: &str) -> String {
        let run = self.lab.naikon(&["lookup", "--json", address]);
        run.json()[0]["verdict"].as_str().unwrap_or_else(|| panic!("a verdict should be there: {run}")).to_owned()
    }

    /// Waits until `naikon lookup` gives this verdict.
    pub(crate) fn await_verdict(&self, address: &str, verdict: &str) {
        eventually(&format!("the verdict of {address} should become {verdict}"), || {
            (self.verdict(address) == verdict).then_some(())
        });
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the daemon said:\n{}---", self.log());
        }
    }
}

/// One answer of the metrics server: status and body. Anything but a well-formed answer is an error.
pub(crate) fn get(lab: &Lab, address: &str, path: &str) -> io::Result<(u16, String)> {
    let address: SocketAddr = address.parse().unwrap();
    let mut stream = lab.gateway.enter(|| TcpStream::connect_timeout(&address, DEADLINE))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, format!("no HTTP answer: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(malformed)?;
    assert!(!head.to_ascii_lowercase().contains("chunked"), "a body of known length is expected: {head}");
    Ok((status, body.to_owned()))
}

/// One scrape.
pub(crate) struct Metrics {
    series: Vec<(String, BTreeMap<String, String>, f64)>,
    pub(crate) text: String,
}

impl Metrics {
    pub(crate) fn scrape(lab: &Lab, address: &str) -> Self {
        let (status, text) = get(lab, address, "/metrics").unwrap_or_else(|error| panic!("scraping: {error}"));
        assert_eq!(status, 200, "/metrics should answer: {text}");
        Self::parse(text)
    }

    fn parse(text: String) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let series = lines.map(|line| parse_series(line).unwrap_or_else(|| panic!("no series: {line:?}"))).collect();
        Metrics { series, text }
    }

    /// Sum of the series of `name` that have all of `labels`.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).sum()
    }

    /// How many series of `name` have all of `labels`.
    pub(crate) fn count(&self, name: &str, labels: &[(&str, &str)]) -> usize {
        self.matching(name, labels).count()
    }

    /// The series of `name` that are not zero, by the values of these labels.
    pub(crate) fn rows<const N: usize>(&self, name: &str, labels: [&str; N]) -> BTreeMap<[String; N], f64> {
        let rows = self.series.iter().filter(|(found, _, value)| found == name && *value != 0.0);
        rows.map(|(_, has, value)| (labels.map(|label| has.get(label).cloned().unwrap_or_default()), *value)).collect()
    }

    /// The labels of each series of `name`.
    pub(crate) fn labels(&self, name: &str) -> impl Iterator<Item = &BTreeMap<String, String>> {
        self.series.iter().filter(move |(found, ..)| found == name).map(|(_, labels, _)| labels)
    }

    fn matching(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = f64> {
        self.series
            .iter()
            .filter(move |(found, ..)| found == name)
            .filter(move |(_, has, _)| labels.iter().all(|(key, value)| has.get(*key).is_some_and(|has| has == value)))
            .map(|(.., value)| *value)
    }
}

/// `name{label="value",...} number`, labels and escapes as Prometheus' text format has them.
fn parse_series(line: &str) -> Option<(String, BTreeMap<String, String>, f64)> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (label, quoted) = rest.trim_start_matches(',').split_once("=\"")?;
            let mut value = String::new();
            let mut characters = quoted.char_indices();
            let close = loop {
                match characters.next()? {
                    (at, '"') => break at,
                    (_, '\\') => value.push(match characters.next()?.1 {
                        'n' => '\n',
                        other => other,
                    }),
                    (_, other) => value.push(other),
                }
            };
            labels.insert(label.to_owned(), value);
            rest = quoted.get(close + 1..)?;
        }
        rest = rest.strip_prefix('}')?;
    }
    let number = rest.trim_start().split(' ').next()?.parse().ok()?;
    Some((name.to_owned(), labels, number))
}

#[test]
fn series_are_read_with_their_labels_and_escapes() {
    let metrics =
        Metrics::parse("# HELP x\na{l=\"one\\\"\\n\",m=\"}\"} 3\na{l=\"two\",m=\"}\"} 4.5\nb 1e3\n".to_owned());
    assert_eq!(metrics.sum("a", &[("m", "}")]), 7.5);
    assert_eq!(metrics.sum("a", &[("l", "one\"\n")]), 3.0);
    assert_eq!(metrics.sum("b", &[]), 1000.0);
    assert_eq!(metrics.count("a", &[("l", "three")]), 0);
}
