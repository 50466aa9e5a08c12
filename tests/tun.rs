//! The other side of a tun interface: what is written here comes in there, with nothing before the IP header.

#![expect(
    unsafe_code,
    reason = "no safe crate makes the ioctls that tie a descriptor to an interface and say what it is"
)]

use std::fs::File;
use std::io::{Read as _, Write as _};

use rustix::fs::{Mode, OFlags};
use rustix::ioctl::{IntegerSetter, Opcode, Updater, ioctl, opcode};

use crate::harness::Host;

/// `TUNSETIFF` (include/uapi/linux/if_tun.h), `_IOW('T', 202, int)`.
const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
/// `TUNSETLINK`, `_IOW('T', 205, int)`, which takes the number itself.
const TUNSETLINK: Opcode = opcode::write::<i32>(b'T', 205);
/// `IFF_TUN | IFF_NO_PI`: packets of IP, without four bytes in front that tell the protocol.
const BARE_IP: u16 = 0x0001 | 0x1000;

/// `struct ifreq` (include/uapi/linux/if.h) as `TUNSETIFF` reads it.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Whoever is at the other end of the tunnel.
pub(crate) struct Tun(File);

impl Tun {
    /// Makes the interface on this host; it goes when this does.
    pub(crate) fn new(host: &Host, name: &str) -> Self {
        Self::with_link_type(host, name, None)
    }

    /// The same with another link type (`ARPHRD_*`) than that of tun.
    pub(crate) fn with_link_type(host: &Host, name: &str, link_type: Option<usize>) -> Self {
        let device = host.enter(|| {
            let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let device = rustix::fs::open("/dev/net/tun", flags, Mode::empty()).expect("tun should be there");
            let mut request = Request { name: [0; 16], flags: BARE_IP, rest: [0; 22] };
            request.name[..name.len()].copy_from_slice(name.as_bytes());
            // SAFETY: the kernel reads and writes one `struct ifreq`, which is what this is.
            unsafe { ioctl(&device, Updater::<TUNSETIFF, _>::new(&mut request)) }.expect("a tun interface is made");
            if let Some(link_type) = link_type {
                // SAFETY: the kernel takes the number as it is, and reads nothing.
                unsafe { ioctl(&device, IntegerSetter::<TUNSETLINK>::new_usize(link_type)) }
                    .expect("it has a link type");
            }
            device
        });
        host.ip(&format!("link set {name} addrgenmode none\nlink set {name} up"));
        Tun(device.into())
    }

    /// A packet comes in by the interface.
    pub(crate) fn send(&mut self, packet: &[u8]) {
        let length = self.0.write(packet).expect("the interface should be up");
        assert_eq!(length, packet.len(), "a packet is sent whole");
    }

    /// Takes all packets that went out by the interface, and counts those that `wanted` takes.
    pub(crate) fn take(&mut self, mut wanted: impl FnMut(&[u8]) -> bool) -> usize {
        let mut buffer = [0; 65536];
        let mut count = 0;
        loop {
            match self.0.read(&mut buffer) {
                Ok(length) => count += usize::from(wanted(&buffer[..length])),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return count,
                Err(error) => panic!("receiving: {error}"),
            }
        }
    }
}
