//! Packets of capture files: pcap in both byte orders, of micro- and nanoseconds, and pcapng; read as a stream, a block at a time.
//! What is judged of a packet stands in [`crate::replay`].
//!
//! Files come from strangers: whatever their bytes are, it ends, and takes no more memory than a block may.

use std::{
    cell::{Cell, RefCell},
    fmt,
    io::{self, Cursor, Read},
    rc::Rc,
};

use pcap_parser::{
    Block, LegacyPcapReader, Linktype, PcapBlockOwned, PcapError, PcapNGReader,
    traits::{PcapNGPacketBlock as _, PcapReaderIterator},
};

mod writer;

pub use writer::{Interface, Record, Way, Writer};

/// Read at once; and the longest block: a frame of any length that Linux makes takes far less.
const BUFFER: usize = 1 << 18;
const BLOCK_MAX: usize = 32 << 20;
/// Interfaces of a section: more than any machine has, and little memory.
const INTERFACES_MAX: usize = 1 << 16;

/// First bytes of pcapng in either byte order (its section header is a palindrome).
const SECTION: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
/// How captures begin: pcapng, and pcap with microseconds or nanoseconds in either byte order.
const MAGICS: [[u8; 4]; 5] =
    [SECTION, [0xa1, 0xb2, 0xc3, 0xd4], [0xd4, 0xc3, 0xb2, 0xa1], [0xa1, 0xb2, 0x3c, 0x4d], [0x4d, 0x3c, 0xb2, 0xa1]];
/// Types of blocks that tell of packets (draft-ietf-opsawg-pcapng, 4.2 to 4.4); the second newer files have no more.
const INTERFACE: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;
/// Type, length, and the length again.
const BLOCK_MIN: usize = 12;
/// The bits of a file's link type that tell it; the others tell of check sequences.
const LINK_BITS: u32 = 0x03ff_ffff;

/// One packet of a capture.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Packet<'a> {
    /// The number of its link type (LINKTYPE_...).
    pub link: u32,
    /// As much of it as was captured.
    pub bytes: &'a [u8],
    /// Its length when it was captured.
    pub length: u32,
    /// When, in nanoseconds since 1970-01-01 UTC, where the file tells.
    pub time_ns: Option<i128>,
}

/// How reading ended.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct End {
    /// What ended it before the file's end: what stands in front of that was read.
    pub fault: Option<Fault>,
    /// Packets that nobody can read: of an interface that the file does not describe, or in blocks of an old kind.
    pub unread: u64,
}

/// Why a capture could not be read to its end, or not at all.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fault {
    /// It begins with something else.
    NoCapture,
    /// It ends in the middle of a block, which begins at this byte.
    CutOff(u64),
    /// At this byte stands what cannot be.
    Broken(u64),
    /// Reading it was refused.
    Read(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::NoCapture => {
                formatter.write_str("it is neither pcap nor pcapng; unpack or convert it first (zcat, editcap)")
            }
            Fault::CutOff(at) => write!(formatter, "it is cut off in the middle of a packet, at byte {at}"),
            Fault::Broken(at) => write!(formatter, "what stands at byte {at} is no block of a capture"),
            Fault::Read(cause) => write!(formatter, "reading it: {cause}"),
        }
    }
}

/// Gives each packet to `take`, in the order of the file.
pub fn read(mut source: impl Read, mut take: impl FnMut(Packet<'_>)) -> End {
    let mut magic = Vec::new();
    if let Err(error) = source.by_ref().take(SECTION.len() as u64).read_to_end(&mut magic) {
        return End { fault: Some(Fault::Read(error.to_string())), unread: 0 };
    }
    let refused = Rc::default();
    // Short text is no capture that was cut off.
    if !MAGICS.iter().any(|known| known.starts_with(&magic)) {
        return End { fault: Some(Fault::NoCapture), unread: 0 };
    }
    let is_section = magic == SECTION;
    let whole = Whole { source: Cursor::new(magic).chain(source), refused: Rc::clone(&refused) };
    let mut end = if is_section {
        match PcapNGReader::new(BUFFER, whole) {
            Ok(mut reader) => sections(&mut reader, &mut take),
            Err(error) => End { fault: Some(fault_of_head(&error)), unread: 0 },
        }
    } else {
        match LegacyPcapReader::new(BUFFER, whole) {
            Ok(mut reader) => records(&mut reader, &mut take),
            Err(error) => End { fault: Some(fault_of_head(&error)), unread: 0 },
        }
    };
    if let Some(error) = refused.take() {
        end.fault = Some(Fault::Read(error));
    }
    end
}

fn fault_of_head(error: &PcapError<&[u8]>) -> Fault {
    match error {
        // Fewer bytes than any head has are no capture that was cut off, as far as anybody can tell.
        PcapError::Incomplete(_) | PcapError::UnexpectedEof => Fault::CutOff(0),
        _ => Fault::NoCapture,
    }
}

/// Fills what it is given, or has nothing more to give: a pipe hands over little at a time. A refusal is kept aside, since the
/// parser would forget what it was.
struct Whole<R> {
    source: R,
    refused: Rc<RefCell<Option<String>>>,
}

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, mut buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while !buffer.is_empty() {
            match self.source.read(buffer) {
                Ok(0) => break,
                Ok(count) => {
                    filled += count;
                    buffer = buffer.get_mut(count..).unwrap_or_default();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    *self.refused.borrow_mut() = Some(error.to_string());
                    break;
                }
            }
        }
        Ok(filled)
    }
}

/// What to do with the block that begins here.
enum Next {
    /// The parser knows, or wants to see more of it.
    Parse,
    /// Nobody wants it; so long it is.
    Skip(usize),
    /// It is none.
    Broken,
}

/// Gives each block to `take`, which says whether it can be. What the parser is not to see `look` says of the bytes in front of it.
fn blocks(
    reader: &mut dyn PcapReaderIterator,
    look: impl Fn(&[u8]) -> Next,
    mut take: impl FnMut(PcapBlockOwned<'_>) -> bool,
) -> Option<Fault> {
    let mut capacity = BUFFER;
    // As long as it is in front of this, another look may tell more.
    let mut looked_at = None;
    loop {
        let (at, available) = (reader.consumed() as u64, reader.data().len());
        let is_small = match look(reader.data()) {
            Next::Broken => return Some(Fault::Broken(at)),
            Next::Skip(length) if length <= available => {
                reader.consume(length);
                continue;
            }
            Next::Skip(_) if reader.reader_exhausted() => return Some(Fault::CutOff(at)),
            Next::Skip(length) => length > capacity,
            Next::Parse => match reader.next() {
                Ok((length, block)) => {
                    // A block of no length would be there for ever.
                    if !take(block) || length == 0 {
                        return Some(Fault::Broken(at));
                    }
                    reader.consume(length);
                    continue;
                }
                Err(PcapError::Eof) => return None,
                Err(PcapError::UnexpectedEof) => return Some(Fault::CutOff(at)),
                Err(PcapError::Incomplete(_)) => false,
                Err(PcapError::BufferTooSmall) => true,
                Err(_) => return Some(Fault::Broken(at)),
            },
        };
        if is_small {
            if capacity >= BLOCK_MAX {
                return Some(Fault::Broken(at));
            }
            capacity *= 2;
            reader.grow(capacity);
        }
        let before = (at, available, capacity, reader.reader_exhausted());
        if looked_at == Some(before) || reader.refill().is_err() {
            return Some(Fault::Broken(at));
        }
        looked_at = Some(before);
    }
}

/// The records of a pcap file.
fn records(reader: &mut dyn PcapReaderIterator, take: &mut dyn FnMut(Packet<'_>)) -> End {
    let (mut link, mut unit_ns) = (0, 1000);
    let fault = blocks(
        reader,
        |_| Next::Parse,
        |block| {
            match block {
                PcapBlockOwned::LegacyHeader(header) => {
                    link = number(header.network) & LINK_BITS;
                    unit_ns = if header.is_nanosecond_precision() { 1 } else { 1000 };
                }
                PcapBlockOwned::Legacy(record) => {
                    let time_ns = i128::from(record.ts_sec) * 1_000_000_000 + i128::from(record.ts_usec) * unit_ns;
                    take(Packet { link, bytes: record.data, length: record.origlen, time_ns: Some(time_ns) });
                }
                PcapBlockOwned::NG(_) => {}
            }
            true
        },
    );
    End { fault, unread: 0 }
}

/// What a section of pcapng says of an interface.
struct Described {
    link: u32,
    snaplen: u32,
    /// Units of its clock in a second; none where that is beyond reason.
    units: Option<u128>,
    offset_seconds: i64,
}

impl Described {
    fn time_ns(&self, high: u32, low: u32) -> Option<i128> {
        let units = u128::from(u64::from(high) << 32 | u64::from(low));
        let since = i128::try_from(units * 1_000_000_000 / self.units?).ok()?;
        Some(since + i128::from(self.offset_seconds) * 1_000_000_000)
    }
}

/// The packets of a pcapng file.
fn sections(reader: &mut dyn PcapReaderIterator, take: &mut dyn FnMut(Packet<'_>)) -> End {
    let mut interfaces: Vec<Described> = Vec::new();
    let (is_big_endian, mut unread) = (Cell::new(false), 0);
    let look = |data: &[u8]| look(data, is_big_endian.get());
    let fault = blocks(reader, look, |block| {
        match block {
            PcapBlockOwned::NG(Block::SectionHeader(section)) => {
                is_big_endian.set(section.big_endian());
                interfaces.clear();
            }
            PcapBlockOwned::NG(Block::InterfaceDescription(_)) if interfaces.len() >= INTERFACES_MAX => return false,
            PcapBlockOwned::NG(Block::InterfaceDescription(told)) => {
                // The parser reads it as if every file were of little-endian order.
                let offset = if is_big_endian.get() { told.if_tsoffset.swap_bytes() } else { told.if_tsoffset };
                interfaces.push(Described {
                    link: number(told.linktype),
                    snaplen: told.snaplen,
                    units: units(told.if_tsresol),
                    offset_seconds: offset,
                });
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                match usize::try_from(packet.if_id).ok().and_then(|id| interfaces.get(id)) {
                    Some(on) => take(Packet {
                        link: on.link,
                        bytes: packet.packet_data(),
                        length: packet.origlen,
                        time_ns: on.time_ns(packet.ts_high, packet.ts_low),
                    }),
                    None => unread += 1,
                }
            }
            PcapBlockOwned::NG(Block::SimplePacket(packet)) => match interfaces.first() {
                Some(on) => {
                    let most = if on.snaplen == 0 { u32::MAX } else { on.snaplen };
                    let captured = usize::try_from(packet.origlen.min(most)).unwrap_or(usize::MAX);
                    let bytes = packet.data.get(..captured).unwrap_or(packet.data);
                    take(Packet { link: on.link, bytes, length: packet.origlen, time_ns: None });
                }
                None => unread += 1,
            },
            PcapBlockOwned::NG(Block::Unknown(block)) if is_obsolete(block.block_type) => unread += 1,
            _ => {}
        }
        true
    });
    End { fault, unread }
}

/// The parser takes lengths on trust, and knows many kinds of block that nobody asks for here: it gets those that matter, with
/// a length that can be.
fn look(data: &[u8], is_big_endian: bool) -> Next {
    let word = |place: usize| -> Option<u32> {
        let bytes: [u8; 4] = data.get(place..place + 4)?.try_into().ok()?;
        Some(if is_big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    };
    let Some((kind, length)) = word(0).zip(word(4)) else { return Next::Parse };
    // It may be of the other byte order.
    if data.starts_with(&SECTION) {
        return Next::Parse;
    }
    match (usize::try_from(length), kind) {
        (Ok(length), _) if length < BLOCK_MIN || length % 4 != 0 => Next::Broken,
        (Ok(_), INTERFACE | OBSOLETE_PACKET | SIMPLE_PACKET | ENHANCED_PACKET) => Next::Parse,
        (Ok(length), _) => Next::Skip(length),
        (Err(_), _) => Next::Broken,
    }
}

/// Types are read as if every file were of little-endian order, too.
const fn is_obsolete(kind: u32) -> bool {
    kind == OBSOLETE_PACKET || kind == OBSOLETE_PACKET.swap_bytes()
}

/// `if_tsresol`: a negative power of ten, or of two where the highest bit is set.
fn units(resolution: u8) -> Option<u128> {
    let exponent = u32::from(resolution & 0x7f);
    if resolution & 0x80 == 0 { 10_u128.checked_pow(exponent) } else { 1_u128.checked_shl(exponent) }
}

fn number(link: Linktype) -> u32 {
    link.0.cast_unsigned()
}

#[cfg(test)]
mod tests;
