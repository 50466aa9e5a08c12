//! Poisoned lists on a gateway: what keeps its people and itself connected is never dropped, as it changes.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use nix::mount::{MsFlags, mount};

use crate::harness::{C2, C2_NEIGHBOUR, CLIENT, DEADLINE, Daemon, Lab, SERVER, eventually, needs_root};
use crate::packets::{ipv4, udp};

const RESOLVER: &str = "198.51.100.53";

/// Everything that a gateway lives on, spelled out and in wider prefixes.
const POISON: &str = "192.0.2.1\n192.0.2.129\n2001:db8:1::1\n192.0.2.10\n192.0.2.130\n198.51.100.53\n\
                      192.0.2.0/24\n192.0.0.0/8\n198.51.100.0/24\n198.0.0.0/8\n2001:db8::/32\n";

/// Puts a file with `content` in the place of the gateway's /etc/resolv.conf.
fn resolve_by(lab: &Lab, content: &str) {
    let file = lab.write("resolv.conf", content);
    let real = fs::canonicalize("/etc/resolv.conf").unwrap();
    let none = None::<&str>;
    lab.gateway.enter(|| mount(Some(&file), &real, none, MsFlags::MS_BIND, none)).unwrap();
}

/// A login from the client, as sshd would hold it: a process of its name and title with the connection.
struct Session {
    process: Child,
    /// It goes on listening, as sshd does.
    _listener: TcpListener,
    client: TcpStream,
}

impl Session {
    fn open(lab: &Lab) -> Self {
        let program = lab.path("sshd");
        fs::copy("/bin/cat", &program).unwrap();
        let listener = lab.gateway.enter(|| TcpListener::bind("192.0.2.1:22")).unwrap();
        let address: SocketAddr = "192.0.2.1:22".parse().unwrap();
        let client = lab.client.enter(|| TcpStream::connect_timeout(&address, DEADLINE)).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let mut command = Command::new(program);
        command.arg0("sshd: operator@pts/0");
        command.stdin(OwnedFd::from(accepted.try_clone().unwrap())).stdout(OwnedFd::from(accepted));
        // A process that another test starts at this moment may still hold the file open for writing.
        let process = eventually("a fresh copy of cat should start", || match lab.gateway.enter(|| command.spawn()) {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => None,
            started => Some(started.unwrap()),
        });
        Session { process, _listener: listener, client }
    }

    /// Types something and sees it.
    fn works(&mut self) {
        self.client.write_all(b"uptime\n").unwrap();
        let mut seen = [0; 7];
        self.client.read_exact(&mut seen).unwrap_or_else(|error| panic!("the session should answer: {error}"));
        assert_eq!(&seen, b"uptime\n");
    }

    fn close(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A query of the gateway to its resolver, and the answer.
fn resolves(lab: &Lab, server: &std::net::UdpSocket) {
    let asking = lab.gateway.udp("0.0.0.0:0".parse::<SocketAddr>().unwrap());
    asking.set_read_timeout(Some(DEADLINE)).unwrap();
    asking.send_to(b"query", (RESOLVER, 53)).unwrap();
    let mut bytes = [0; 16];
    let (_, from) = server.recv_from(&mut bytes).unwrap();
    server.send_to(b"answer", from).unwrap();
    let (length, _) = asking.recv_from(&mut bytes).unwrap_or_else(|error| panic!("DNS should answer: {error}"));
    assert_eq!(&bytes[..length], b"answer");
}

/// Fault: poisoning.
#[test]
fn poisoned_list_costs_the_gateway_no_packet() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.gateway.ip(&format!("route add default via {SERVER}"));
    resolve_by(&lab, &format!("nameserver {RESOLVER}\n"));
    let mut session = Session::open(&lab);
    let server = lab.server.udp(format!("{RESOLVER}:53").parse::<SocketAddr>().unwrap());
    let list = lab.write("poison.txt", &format!("203.0.113.9\n{POISON}"));
    let daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap()]);
    for address in ["192.0.2.1", "192.0.2.129", "2001:db8:1::1", "192.0.2.10", "192.0.2.130", RESOLVER] {
        assert_eq!(daemon.verdict(address), "pass", "{address}");
    }
    for _ in 0..20 {
        session.works();
        resolves(&lab, &server);
    }
    let dropped = |metrics: &crate::harness::Metrics| metrics.sum("naikon_dropped_packets_total", &[]);
    assert_eq!(dropped(&daemon.metrics()), 0.0, "no packet of the session, of DNS and of the next hop should go");
    let rejected =
        |reason| daemon.metrics().sum("naikon_list_rejected_entries", &[("list", "poison"), ("reason", reason)]);
    assert_eq!(rejected("own_address"), 3.0);
    assert_eq!(rejected("session"), 1.0);
    assert_eq!(rejected("gateway"), 1.0);
    assert_eq!(rejected("resolver"), 1.0);
    // The control: what stands beside each of them is dropped.
    let client = lab.client.wire("eth0");
    for address in [C2, C2_NEIGHBOUR] {
        client.send(&Lab::from_client(ipv4(CLIENT, address).carry(udp(40_000, 443, b"control"))));
    }
    daemon.expect_count("dropped packets", 2.0, dropped);
    session.works();
    session.close();
    // Nobody is logged in from there any more.
    daemon.await_verdict("192.0.2.10", "drop");
    assert_eq!(daemon.metrics().sum("naikon_reloads_total", &[]), 1.0, "no file was read again for that");
}

/// Fault: poisoning.
#[test]
fn guards_follow_routes_and_resolvers() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    resolve_by(&lab, "nameserver 203.0.113.53\n");
    let list = lab.write("c2.txt", &format!("{SERVER}\n{RESOLVER}\n203.0.113.53\n203.0.113.9\n"));
    let daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap()]);
    assert_eq!(daemon.verdict("203.0.113.53"), "pass");
    assert_eq!(daemon.verdict(&SERVER.to_string()), "drop");
    lab.gateway.ip(&format!("route add default via {SERVER}"));
    daemon.await_verdict(&SERVER.to_string(), "pass");
    lab.gateway.ip("route del default");
    daemon.await_verdict(&SERVER.to_string(), "drop");
    // Another file in its place would not be seen behind the mount.
    lab.overwrite("resolv.conf", &format!("nameserver {RESOLVER}\n"));
    daemon.await_verdict(RESOLVER, "pass");
    daemon.await_verdict("203.0.113.53", "drop");
    assert_eq!(daemon.verdict("203.0.113.9"), "drop", "others stay as they are");
}

#[test]
fn login_sessions_of_logind_and_utmp_are_spared() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", "203.0.113.7\n203.0.113.8\n203.0.113.9\n");
    let daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap()]);
    assert_eq!(daemon.verdict("203.0.113.7"), "drop");
    lab.gateway.enter(|| {
        fs::create_dir_all("/run/systemd/sessions").unwrap();
        fs::write("/run/systemd/sessions/7", "UID=1000\nREMOTE=1\nREMOTE_HOST=203.0.113.7\n").unwrap();
        let mut record = [0_u8; 384];
        record[..2].copy_from_slice(&7_u16.to_ne_bytes());
        record[4..8].copy_from_slice(&(std::process::id() as i32).to_ne_bytes());
        record[348..352].copy_from_slice(&[203, 0, 113, 8]);
        // What nobody cleaned up behind a session: there is no such process.
        let mut stale = record;
        stale[4..8].copy_from_slice(&i32::MAX.to_ne_bytes());
        stale[348..352].copy_from_slice(&[203, 0, 113, 9]);
        fs::write("/run/utmp", [record, stale].concat()).unwrap();
    });
    daemon.await_verdict("203.0.113.7", "pass");
    daemon.await_verdict("203.0.113.8", "pass");
    assert_eq!(daemon.verdict("203.0.113.9"), "drop");
    lab.gateway.enter(|| fs::remove_file("/run/systemd/sessions/7")).unwrap();
    daemon.await_verdict("203.0.113.7", "drop");
}

/// A connection that was accepted at `at`, held by a process with a title, run as a user; it must not spare its peer.
fn is_not_spared(lab: &Lab, daemon: &Daemon<'_>, title: &str, user: u32, listen: &str) {
    let program = lab.path("sshd");
    fs::copy("/bin/cat", &program).unwrap();
    let list = lab.write("c2.txt", "203.0.113.10\n");
    daemon.await_verdict(&CLIENT.to_string(), "pass");
    let listener = lab.gateway.enter(|| TcpListener::bind(listen)).unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let client = lab.client.enter(|| TcpStream::connect_timeout(&address, DEADLINE)).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let mut command = Command::new(&program);
    command.arg0(title).uid(user).stdin(OwnedFd::from(accepted)).stdout(Stdio::null());
    let mut process = lab.gateway.enter(|| command.spawn()).unwrap();
    fs::write(list, format!("{CLIENT}\n")).unwrap();
    daemon.await_verdict(&CLIENT.to_string(), "drop");
    process.kill().unwrap();
    process.wait().unwrap();
    drop(client);
}

#[test]
fn who_only_knocks_or_forges_a_session_is_not_spared() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", "203.0.113.10\n");
    let daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap()]);
    // Before authentication.
    is_not_spared(&lab, &daemon, "sshd: operator [priv]", 0, "192.0.2.1:22");
    is_not_spared(&lab, &daemon, "sshd: [accepted]", 0, "192.0.2.1:22");
    // A user's process that calls itself a session; its parent is no sshd.
    is_not_spared(&lab, &daemon, "sshd: operator@pts/0", 65534, "192.0.2.1:22");
    // The control: with root's own session it is spared.
    fs::write(&list, "203.0.113.10\n").unwrap();
    daemon.await_verdict(&CLIENT.to_string(), "pass");
    let mut session = Session::open(&lab);
    fs::write(&list, format!("{CLIENT}\n203.0.113.11\n")).unwrap();
    daemon.await_verdict("203.0.113.11", "drop");
    assert_eq!(daemon.verdict(&CLIENT.to_string()), "pass");
    session.works();
}
