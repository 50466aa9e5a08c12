//! Writes pcapng (draft-ietf-opsawg-pcapng): the packets of hits, with what is known of each in its comment.
//!
//! By hand: three kinds of block are all that is written, and what the parser has for it is experimental and brings the whole of
//! `futures`.

use std::io;

// Types of blocks (4.1, 4.2, 4.3) and their options (3.5, 4.1 to 4.3).
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const COMMENT: u16 = 1;
const APPLICATION: u16 = 4;
const NAME: u16 = 2;
const RESOLUTION: u16 = 9;
const FLAGS: u16 = 2;

/// Nanoseconds, as a negative power of ten.
const NANOSECONDS: u8 = 9;

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
pub enum Way {
    /// It came in.
    In = 1,
    /// It left.
    Out = 2,
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
    pub way: Way,
    /// What to say of it.
    pub comment: &'a str,
}

/// Writes one section.
pub struct Writer<W> {
    out: W,
    interfaces: u32,
    written: u64,
    block: Vec<u8>,
}

impl<W: io::Write> Writer<W> {
    /// Begins with the head of a section.
    ///
    /// # Errors
    ///
    /// When nothing can be written.
    pub fn new(out: W, program: &str) -> io::Result<Self> {
        let mut writer = Writer { out, interfaces: 0, written: 0, block: Vec::new() };
        writer.begin(SECTION);
        writer.word(BYTE_ORDER);
        writer.halves(1, 0);
        // The section's length is not known in advance.
        writer.bytes(&[0xff; 8]);
        writer.option(APPLICATION, program.as_bytes());
        writer.end()?;
        Ok(writer)
    }

    /// Describes an interface. Its number in this file.
    ///
    /// # Errors
    ///
    /// When nothing can be written.
    pub fn describe(&mut self, interface: Interface<'_>) -> io::Result<u32> {
        self.begin(INTERFACE);
        self.halves(interface.link, 0);
        self.word(interface.snaplen);
        self.option(NAME, interface.name.as_bytes());
        self.option(RESOLUTION, &[NANOSECONDS]);
        self.end()?;
        self.interfaces += 1;
        Ok(self.interfaces - 1)
    }

    /// Writes a packet.
    ///
    /// # Errors
    ///
    /// When nothing can be written.
    pub fn write(&mut self, record: Record<'_>) -> io::Result<()> {
        self.begin(PACKET);
        self.word(record.interface);
        self.word((record.time_ns >> 32) as u32);
        self.word(record.time_ns as u32);
        self.word(u32::try_from(record.bytes.len()).map_err(io::Error::other)?);
        self.word(record.length);
        self.bytes(record.bytes);
        self.option(COMMENT, record.comment.as_bytes());
        self.option(FLAGS, &(record.way as u32).to_le_bytes());
        self.end()
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

    /// A block begins with its type and its length, which is known at its end.
    fn begin(&mut self, kind: u32) {
        self.block.clear();
        self.word(kind);
        self.word(0);
    }

    /// Its options end with an empty one, the block with its length once more.
    fn end(&mut self) -> io::Result<()> {
        self.halves(0, 0);
        let length = u32::try_from(self.block.len() + 4).map_err(io::Error::other)?;
        self.word(length);
        if let Some(place) = self.block.get_mut(4..8) {
            place.copy_from_slice(&length.to_le_bytes());
        }
        self.out.write_all(&self.block)?;
        self.written += u64::from(length);
        Ok(())
    }

    fn word(&mut self, word: u32) {
        self.block.extend(word.to_le_bytes());
    }

    fn halves(&mut self, first: u16, second: u16) {
        self.block.extend(first.to_le_bytes());
        self.block.extend(second.to_le_bytes());
    }

    /// Padded to whole words.
    fn bytes(&mut self, bytes: &[u8]) {
        self.block.extend(bytes);
        self.block.resize(self.block.len().next_multiple_of(4), 0);
    }

    /// Cut to what an option can hold; text between characters.
    fn option(&mut self, code: u16, value: &[u8]) {
        let most = usize::from(u16::MAX);
        let value = match std::str::from_utf8(value) {
            Ok(text) => text.get(..text.floor_char_boundary(most)).unwrap_or_default().as_bytes(),
            Err(_) => value.get(..most).unwrap_or(value),
        };
        self.halves(code, value.len() as u16);
        self.bytes(value);
    }
}
