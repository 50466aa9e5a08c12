//! Every kind of interface that a kernel can make: where its frames are judged, or why it is refused.
//!
//! A kind that this kernel has not is left out and named; in the virtual machines of `cargo xtask kernels`, which load the
//! modules, `NAIKON_ALL_KINDS=1` makes that a failure.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};

use aya::util::KernelVersion;

use crate::harness::{C2, C2_6, CLIENT, CLIENT6, Daemon, Lab, RANGE, RANGE6, eventually, needs_root, run_command};
use crate::packets::{DOT1Q, Packet, ipv4, ipv6, raw, udp};

/// The gateway's address on the LAN, where tunnels end.
const LAN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// An address of the gateway on the interface under test.
const OWN: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// A host behind it.
const FAR: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// The first kernel whose tunnels take all outer headers off.
const BARE_TUNNELS: KernelVersion = KernelVersion::new(5, 14, 0);

/// One kind, made as `up0` on the gateway.
struct Kind {
    /// What `ip link add` wants.
    make: &'static str,
    /// Another `ip` command.
    then: &'static str,
    /// Further flags of `run -i up0`.
    flags: &'static [&'static str],
    /// A frame of the client with the address of that family in it.
    frame: fn(Ipv4Addr, Ipv6Addr) -> Packet,
    told: Told,
}

/// What naikon should do with it.
enum Told {
    /// It counts the listed frame on this interface.
    Counted(&'static str),
    /// It refuses the interface and says this.
    Refused(&'static str),
    /// It attaches; nobody sends frames.
    Taken,
}

fn data() -> crate::packets::Transport {
    udp(40_000, 9, b"of this kind")
}

fn plain(source: Ipv4Addr, _: Ipv6Addr) -> Packet {
    ipv4(source, OWN).carry(data())
}

fn tagged(source: Ipv4Addr, _: Ipv6Addr) -> Packet {
    ipv4(source, OWN).carry(data()).tagged(DOT1Q, 7)
}

fn in_ipv4(source: Ipv4Addr, _: Ipv6Addr) -> Packet {
    ipv4(CLIENT, LAN).carry(ipv4(source, FAR).carry(data()).inside())
}

fn in_gre(source: Ipv4Addr, _: Ipv6Addr) -> Packet {
    let inner = ipv4(source, FAR).carry(data()).bare();
    ipv4(CLIENT, LAN).carry(raw(47, &[&[0, 0, 0x08, 0x00], &inner[..]].concat()))
}

fn v6_in_ipv4(_: Ipv4Addr, source: Ipv6Addr) -> Packet {
    ipv4(CLIENT, LAN).carry(ipv6(source, CLIENT6).carry(data()).inside())
}

fn kinds() -> Vec<Kind> {
    let kind = |make, then, flags, frame, told| Kind { make, then, flags, frame, told };
    let port = "link set lan0 down\nlink set lan0 master up0\nlink set lan0 up";
    let none: &[&str] = &[];
    let tunnel = |name| match KernelVersion::current().unwrap() >= BARE_TUNNELS {
        true => Told::Counted(name),
        false => Told::Refused("before Linux 5.14"),
    };
    let vlan = "link lan0 name up0 type vlan id 7";
    let (ipvlan, bond) = ("link lan0 name up0 type ipvlan mode l2", "name up0 type bond mode active-backup");
    let (bridge, team, vrf) = ("name up0 type bridge", "name up0 type team", "name up0 type vrf table 7");
    let address = "addr add 198.18.0.1/24 dev up0";
    let sit = "name up0 type sit local 192.0.2.1 remote 192.0.2.10";
    let ipip = "name up0 type ipip local 192.0.2.1 remote 192.0.2.10";
    let gre = "name up0 type gre local 192.0.2.1 remote 192.0.2.10";
    let vti = "name up0 type vti local 192.0.2.1 remote 192.0.2.10";
    vec![
        kind(vlan, "", none, tagged, Told::Counted("up0")),
        kind(vlan, "", &["-i", "lan0"], tagged, Told::Counted("lan0")),
        kind(ipvlan, address, none, plain, Told::Counted("up0")),
        kind(bond, port, none, plain, Told::Counted("up0")),
        kind(bond, port, &["-i", "lan0"], plain, Told::Counted("up0")),
        kind(bond, port, &["--ports"], plain, Told::Counted("lan0")),
        kind(bridge, port, none, plain, Told::Refused("lan0")),
        kind(bridge, port, &["--ports"], plain, Told::Counted("lan0")),
        kind(team, port, none, plain, Told::Refused("lan0")),
        kind(team, port, &["--ports"], plain, Told::Counted("lan0")),
        kind(vrf, port, none, plain, Told::Refused("lan0")),
        kind(vrf, port, &["--ports"], plain, Told::Counted("lan0")),
        kind(sit, "", none, v6_in_ipv4, tunnel("up0")),
        kind(ipip, "", none, in_ipv4, tunnel("up0")),
        kind(gre, "", none, in_gre, tunnel("up0")),
        kind("name up0 type gre local 192.0.2.1", "", none, in_gre, Told::Refused("many ends")),
        kind(vti, "", none, plain, Told::Refused("link header of the carrier")),
        kind("name up0 type wireguard", "", none, plain, Told::Taken),
    ]
}

impl Kind {
    /// Runs the daemon and sends frames.
    fn hold(&self, lab: &Lab) {
        lab.write("c2.txt", &format!("{C2}\n{C2_6}\n"));
        lab.write("watched.txt", &format!("{RANGE}\n{RANGE6}\n"));
        let lists = ["-l", "c2.txt", "-m", "watched.txt", "--egress", "off"];
        let arguments = [&["-i", "up0"], self.flags, &lists].concat();
        let name = match self.told {
            Told::Refused(why) => return drop(lab.run(run_command(lab, &arguments)).exits(5).says(why)),
            Told::Taken => return drop(Daemon::start_on(lab, &arguments)),
            Told::Counted(name) => name,
        };
        let daemon = Daemon::start_on(lab, &arguments);
        let client = lab.client.wire("eth0");
        let hits = |what: &str| {
            let rows = daemon.metrics().rows(&format!("naikon_{what}_packets_total"), ["interface"]);
            rows.into_iter().map(|([interface], count)| (interface, count)).collect::<Vec<_>>()
        };
        // The link needs a moment after its port came up; what is watched passes and shows where it is seen.
        eventually(&format!("{}, {:?}: a watched frame should be seen", self.make, self.flags), || {
            client.try_send(&Lab::from_client((self.frame)(RANGE, RANGE6)).bytes);
            (!hits("monitored").is_empty()).then_some(())
        });
        assert_eq!(hits("monitored").len(), 1, "{}, {:?}: by one interface", self.make, self.flags);
        client.send(&Lab::from_client((self.frame)(C2, C2_6)));
        eventually(&format!("{}, {:?}: the listed frame should be dropped", self.make, self.flags), || {
            (!hits("dropped").is_empty()).then_some(())
        });
        assert_eq!(hits("dropped"), [(name.to_owned(), 1.0)], "{}, {:?}", self.make, self.flags);
    }
}

#[test]
fn every_kind_is_judged_where_its_frames_are_first_seen_or_refused_with_the_reason() {
    if needs_root() {
        return;
    }
    let mut left_out = BTreeSet::new();
    for kind in kinds() {
        let lab = Lab::new();
        // Not `println!`, whose text the test runner keeps to itself: a console should show where a machine stopped.
        io::stdout().write_all(format!("kind: {} {:?}\n", kind.make, kind.flags).as_bytes()).unwrap();
        if lab.gateway.makes(kind.make) {
            lab.gateway.ip(&format!("{}\nlink set up0 up", kind.then));
            kind.hold(&lab);
        } else {
            left_out.insert(kind.make);
        }
    }
    let told = format!("interfaces that this kernel has not: {left_out:?}\n");
    io::stdout().write_all(told.as_bytes()).unwrap();
    let all = std::env::var_os("NAIKON_ALL_KINDS").is_some_and(|value| value == "1");
    assert!(!all || left_out.is_empty(), "{told}");
}
