//! Writes pcapng: the packets of hits, with what is known of each in its comment.

use std::{borrow::Cow, io};

use pcap_parser::{
    EnhancedPacketBlock, InterfaceDescriptionBlock, Linktype, OptionCode, PcapNGOption, SectionHeaderBlock, ToVec,
};

/// Nanoseconds, as a negative power of ten.
const NANOSECONDS: u8 = 9;
/// `if_tsresol` is one byte in four.
const RESOLUTION: [u8; 4] = [NANOSECONDS, 0, 0, 0];
/// `epb_flags` (draft-ietf-opsawg-pcapng, 4.3.1), which the parser's own codes lack.
const PACKET_FLAGS: OptionCode = OptionCode(2);
/// The longest value of an option, padded.
const OPTION_MAX: usize = 65_532;

/// An interface as a capture describes it.
#[derive(Clone, Copy, Debug)]
pub struct Interface<'a> {
    /// Its name.
    pub name: &'a str,
    /// The number of its link type.
    pub link: u16,
    /// Bytes of a packet that are kept at most.
    pub snaplen: u32,
}

/// Which way a packet went through its interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// It came in.
    In,
    /// It left.
    Out,
}

/// A packet to be written.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// What [`Writer::describe`] gave.
    pub interface: u32,
    /// Nanoseconds since 1970-01-01 UTC.
    pub time_ns: u64,
    /// What was captured of it.
    pub bytes: &'a [u8],
    /// Its length.
    pub length: u32,
    /// Which way it went.
    pub direction: Direction,
    /// What to say of it.
    pub comment: &'a str,
}

/// Writes one section.
pub struct Writer<W> {
    out: W,
    interfaces: u32,
    written: u64,
}

impl<W: io::Write> Writer<W> {
    /// Begins with the head of a section.
    ///
    /// # Errors
    ///
    /// When nothing can be written.
    pub fn new(out: W, program: &str) -> io::Result<Self> {
        let mut writer = Writer { out, interfaces: 0, written: 0 };
        writer.block(&mut SectionHeaderBlock {
            block_type: 0,
            block_len1: 0,
            bom: 0,
            major_version: 1,
            minor_version: 0,
            // Not known in advance.
            section_len: -1,
            options: vec![text(OptionCode::ShbUserAppl, program)],
            block_len2: 0,
        })?;
        Ok(writer)
    }

    /// Describes an interface. Its number in this file.
    ///
    /// # Errors
    ///
    /// When nothing can be written.
    pub fn describe(&mut self, interface: Interface<'_>) -> io::Result<u32> {
        let resolution = PcapNGOption { code: OptionCode::IfTsresol, len: 1, value: Cow::Borrowed(&RESOLUTION) };
        self.block(&mut InterfaceDescriptionBlock {
            block_type: 0,
            block_len1: 0,
            linktype: Linktype(interface.link.into()),
            reserved: 0,
            snaplen: interface.snaplen,
            options: vec![text(OptionCode::IfName, interface.name), resolution],
            block_len2: 0,
            if_tsresol: NANOSECONDS,
            if_tsoffset: 0,
        })?;
        self.interfaces += 1;
        Ok(self.interfaces - 1)
    }

    /// Writes a packet.
    ///
    /// # Errors
    ///
    /// When nothing can be written.
    pub fn write(&mut self, record: Record<'_>) -> io::Result<()> {
        let way: u32 = match record.direction {
            Direction::In => 1,
            Direction::Out => 2,
        };
        let flags = PcapNGOption { code: PACKET_FLAGS, len: 4, value: Cow::Owned(way.to_le_bytes().to_vec()) };
        self.block(&mut EnhancedPacketBlock {
            block_type: 0,
            block_len1: 0,
            if_id: record.interface,
            ts_high: (record.time_ns >> 32) as u32,
            ts_low: record.time_ns as u32,
            caplen: record.bytes.len() as u32,
            origlen: record.length,
            data: record.bytes,
            options: vec![text(OptionCode::Comment, record.comment), flags],
            block_len2: 0,
        })
    }

    /// Bytes so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Hands everything on.
    ///
    /// # Errors
    ///
    /// When nothing can be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn block(&mut self, block: &mut impl ToVec) -> io::Result<()> {
        let bytes = block.to_vec().map_err(io::Error::other)?;
        self.out.write_all(&bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

/// An option of text, cut to what it can hold.
fn text(code: OptionCode, text: &str) -> PcapNGOption<'_> {
    let text = text.get(..text.floor_char_boundary(OPTION_MAX)).unwrap_or_default();
    PcapNGOption { code, len: text.len() as u16, value: Cow::Borrowed(text.as_bytes()) }
}
