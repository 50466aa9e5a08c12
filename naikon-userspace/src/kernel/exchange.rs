//! One request over netlink and all of its answers (netlink(7)), whatever the protocol.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

/// What to ask for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ask {
    /// One object.
    One,
    /// All objects.
    All,
    /// Those objects that fit the request (`NETLINK_GET_STRICT_CHK`, kernel 4.20): without it the kernel gives all.
    Fitting,
}

/// Asks once. Whether nothing changed meanwhile (`NLM_F_DUMP_INTR`).
///
/// # Errors
///
/// When the kernel does not answer, refuses, or its answer cannot be read.
pub(super) fn exchange<M: NetlinkSerializable + NetlinkDeserializable>(
    protocol: isize,
    ask: Ask,
    request: M,
    mut each: impl FnMut(M),
) -> io::Result<bool> {
    let mut held_still = true;
    let socket = {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket
    };
    if ask == Ask::Fitting {
        socket.set_netlink_get_strict_chk(true)?;
    }
    let mut packet = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(request));
    // One object comes without an end; the acknowledgement behind it is one.
    packet.header.flags = NLM_F_REQUEST | if ask == Ask::One { NLM_F_ACK } else { NLM_F_DUMP };
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    loop {
        let (received, _) = socket.recv_from_full()?;
        let mut rest = received.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<M>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            held_still &= message.header.flags & NLM_F_DUMP_INTR == 0;
            match message.payload {
                NetlinkPayload::Done(done) if done.code < 0 => {
                    return Err(io::Error::from_raw_os_error(-done.code));
                }
                NetlinkPayload::Done(_) => return Ok(held_still),
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(held_still),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(inner) => each(inner),
                _ => {}
            }
            // Messages are padded to four bytes (netlink(7), NLMSG_ALIGN).
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length.max(4)..).unwrap_or_default();
        }
    }
}
