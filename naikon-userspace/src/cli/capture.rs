//! `naikon capture`: writes the packets of hits to a file, for as long as it runs.
//!
//! The daemon lends the switch over the control socket; the packets come from the kernel, straight to this process.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, OpenOptions},
    io::{self, BufReader, BufWriter, IsTerminal, Write},
    net::Shutdown,
    os::{
        fd::AsFd,
        unix::{fs::OpenOptionsExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use naikon_ebpf::abi::{Action, SLOT_OTHERS};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::{
    client,
    exit::{Code, Failure},
    hits::ActionArg,
    output,
    pipe::{self, Patient},
    place::Socket,
};
use crate::{
    captured::{self, Filter, Frame},
    daemon::boot_time,
    hits::{BootTime, Told},
    kernel::{Capture, Caught, SNAPLEN_MAX},
    pcap::{Interface, Record, Writer},
    prefix::Prefix,
    protocol::{Request, Response},
};

/// In place of a file: standard output.
const STDOUT: &str = "-";
/// Fewer bytes hold no headers.
const SNAPLEN_MIN: u32 = 96;
/// Indicators of which is remembered what the lists tell.
const REMEMBERED: usize = 4096;
/// Between two looks whether it is time to end.
const LOOK: Duration = Duration::from_secs(1);
/// For the daemon to notice the end: it needs some milliseconds, and one that stands still must not keep this command.
const GIVE_BACK_TIMEOUT: Duration = Duration::from_secs(1);
/// So far the clock may go apart from that of the kernel before times follow it: what is read twice differs by less.
const CLOCK_STEP_NS: u128 = 1_000_000;

#[derive(Debug, Args)]
pub(super) struct Command {
    /// File to write, as pcapng; '-' is standard output
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
    /// Write over a file that exists
    #[arg(long)]
    force: bool,
    #[arg(long, value_name = "BYTES", default_value_t = SNAPLEN_MAX, value_parser = clap::value_parser!(u32).range(i64::from(SNAPLEN_MIN)..),
        help = format!("Bytes of a packet to keep, {SNAPLEN_MIN} to {SNAPLEN_MAX}"), hide_default_value = true)]
    snaplen: u32,
    /// End after so many packets
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End before the file is larger
    #[arg(long, value_name = "BYTES")]
    size: Option<u64>,
    /// End after so many seconds
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Only hits of this list
    #[arg(long, value_name = "NAME")]
    list: Option<String>,
    /// Only internal hosts in here: an address or a prefix
    #[arg(long, value_name = "IP")]
    host: Option<Prefix>,
    /// Only indicators in here: an address or a prefix
    #[arg(long, value_name = "IP")]
    indicator: Option<Prefix>,
    /// Only those of 'drop', or of 'monitor'
    #[arg(long, value_enum, hide_possible_values = true)]
    action: Option<ActionArg>,
    #[command(flatten)]
    socket: Socket,
}

/// Why a capture ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Ending {
    /// What was asked for is there, or somebody asked for the end.
    Asked,
    /// There is no room for one more packet.
    Full,
    /// The daemon ended.
    NoDaemon,
}

pub(super) fn run(command: &Command) -> Result<Code, Failure> {
    let to_stdout = command.write == Path::new(STDOUT);
    if to_stdout && io::stdout().is_terminal() {
        return Err(Failure::new(
            Code::Usage,
            "a terminal cannot show packets; name a file, or pipe them to 'tcpdump -r -'",
        ));
    }
    if !to_stdout {
        require_free(&command.write, command.force)?;
    }
    let snaplen = command.snaplen.min(SNAPLEN_MAX);
    let control = command.socket.control()?;
    let (response, lease) = client::converse(&control, &Request::Capture { bytes: snaplen })?;
    let lease = Lease(lease);
    let maps = match response {
        Response::Capture(maps) => maps,
        other => return Err(client::unexpected(&other)),
    };
    let asked = asked_to_end()?;
    let end = command.seconds.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds)));
    let capture = Capture::open(maps, snaplen)?;
    let out: Box<dyn Write> = if to_stdout {
        let patient = Patient::new([lease.0.get_ref(), &asked], end);
        Box::new(patient.map_err(|error| Failure::new(Code::No, format!("opening standard output: {error}")))?)
    } else {
        Box::new(create(&command.write, command.force)?)
    };
    let writing = |error: io::Error| match error.kind() {
        // Who read it has seen enough.
        io::ErrorKind::BrokenPipe => Failure::new(Code::Done, ""),
        _ => Failure::new(Code::No, format!("writing {}: {error}", place(command))),
    };
    let mut session = Session::new(command, &control, snaplen, capture, out, end).map_err(writing)?;
    session.say_begun();
    client::tell_unknown_list(&control, command.list.as_deref());
    let ended = session.follow(lease.0.get_ref(), &asked);
    // Who has no lease any more would end the capture of who has it now; without a daemon there is none. It must answer: the
    // socket of one that is killed lives on for a moment.
    let is_ours = !is_told(lease.0.get_ref()) || client::ask(&control, &Request::Status).is_err();
    if is_ours && let Err(error) = session.capture.stop() {
        output::error(&format!("{error}; the daemon does it when this process has gone"));
    }
    let ended = ended.and_then(|ending| session.finish(ending).map(|()| ending));
    session.say_ended();
    let ended = match ended {
        Err(error) if error.kind() == io::ErrorKind::TimedOut && is_told(lease.0.get_ref()) => {
            output::error(&writing(error).message);
            Ending::NoDaemon
        }
        ended => ended.map_err(writing)?,
    };
    match ended {
        Ending::Asked | Ending::Full => Ok(Code::Done),
        Ending::NoDaemon => Err(Failure::new(
            Code::NoDaemon,
            "the daemon has ended, and the capture with it; start it and capture anew",
        )),
    }
}

/// The loan of the switch: a connection for as long as it lasts.
struct Lease(BufReader<UnixStream>);

impl Drop for Lease {
    /// Who captures next may do so when this command has ended: the daemon hangs up once it has noticed.
    fn drop(&mut self) {
        let stream = self.0.get_ref();
        let asked = stream.shutdown(Shutdown::Write).and_then(|()| stream.set_read_timeout(Some(GIVE_BACK_TIMEOUT)));
        // A daemon that has gone or stands still notices later, or never has to.
        let _noticed = asked.and_then(|()| io::copy(&mut self.0, &mut io::sink()));
    }
}

fn place(command: &Command) -> String {
    if command.write == Path::new(STDOUT) { "standard output".into() } else { command.write.display().to_string() }
}

/// Nothing is written over by mistake, and never what is no file.
fn require_free(path: &Path, force: bool) -> Result<(), Failure> {
    let refused = |why: &str| Err(Failure::new(Code::Usage, format!("{}: {why}", path.display())));
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_file() => {
            refused("what stands there is no regular file; write to another place, or to '-'")
        }
        Ok(_) if !force => refused("it exists; name another file, or write over it with --force"),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => refused(&format!("looking at it: {error}")),
    }
}

/// A new file that nobody else may read: it holds addresses and packets whatever their marking.
fn create(path: &Path, force: bool) -> Result<File, Failure> {
    let failed = |error: io::Error| Failure::new(Code::Usage, format!("{}: creating it: {error}", path.display()));
    if force
        && let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(failed(error));
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)
}

/// Readable when a signal asks for the end.
fn asked_to_end() -> Result<UnixStream, Failure> {
    let make = || -> io::Result<UnixStream> {
        let (asked, told) = UnixStream::pair()?;
        for signal in [SIGINT, SIGTERM] {
            signal_hook::low_level::pipe::register(signal, told.try_clone()?)?;
        }
        Ok(asked)
    };
    make().map_err(|error| Failure::new(Code::No, format!("catching the signals that end a capture: {error}")))
}

/// Whether there is something to read, or the end of it.
fn is_told(stream: &UnixStream) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut told = [PollFd::new(stream, PollFlags::IN)];
    poll(&mut told, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|count| count > 0)
}

/// What is known of names and indicators.
struct Known {
    control: PathBuf,
    lists: BTreeMap<u16, String>,
    interfaces: BTreeMap<u16, String>,
    /// By indicator and stored action.
    told: HashMap<([u8; 16], u32), Option<Told>>,
}

impl Known {
    /// The names that were given since the last look, if there is one that is not known.
    fn refresh(&mut self, capture: &Capture, list: u16, slot: u16) {
        if self.lists.contains_key(&list) && (slot == SLOT_OTHERS || self.interfaces.contains_key(&slot)) {
            return;
        }
        match capture.names() {
            Ok([lists, interfaces]) => (self.lists, self.interfaces) = (lists, interfaces),
            Err(error) => output::error(&format!("{error}; some names are missing in the capture")),
        }
        self.lists.entry(list).or_insert_with(|| "unknown".into());
        self.interfaces.entry(slot).or_default();
    }

    /// What the list tells of an indicator, asked once.
    fn told(&mut self, caught: &Caught, list: &str) -> Option<&Told> {
        let key = (caught.event.indicator, caught.event.action);
        if self.told.len() >= REMEMBERED {
            self.told.clear();
        }
        let control = &self.control;
        let told = self.told.entry(key).or_insert_with(|| {
            let address = std::net::Ipv6Addr::from(caught.event.indicator).to_canonical();
            let asked = client::ask(control, &Request::Lookup { addresses: vec![address.to_string()] });
            // Without an answer the packet is written all the same.
            let Ok(Response::Lookup(answers)) = asked else { return None };
            let answer = answers.into_iter().find(|answer| answer.lists.iter().any(|name| name == list))?;
            let contexts = answer.context.iter().filter(|told| told.list == list).map(|told| &told.context);
            Some(Told::of(answer.prefix.as_ref()?.parse().ok()?, contexts))
        });
        told.as_ref()
    }
}

/// A capture that is under way.
struct Session<'a> {
    command: &'a Command,
    filter: Filter,
    snaplen: u32,
    capture: Capture,
    writer: Writer<BufWriter<Box<dyn Write>>>,
    known: Known,
    /// Interfaces that were described, by name and link type.
    described: HashMap<(String, u16), u32>,
    boot: BootTime,
    packets: u64,
    bytes: u64,
    /// Hits that the filters leave out.
    others: u64,
    end: Option<Instant>,
}

impl<'a> Session<'a> {
    fn new(
        command: &'a Command,
        control: &Path,
        snaplen: u32,
        capture: Capture,
        out: Box<dyn Write>,
        end: Option<Instant>,
    ) -> io::Result<Self> {
        let program = format!("naikon {}", env!("CARGO_PKG_VERSION"));
        Ok(Session {
            filter: Filter {
                host: command.host,
                indicator: command.indicator,
                list: command.list.clone(),
                action: command.action.map(ActionArg::action),
            },
            snaplen,
            writer: Writer::new(BufWriter::new(out), &program)?,
            known: Known {
                control: control.to_owned(),
                lists: BTreeMap::new(),
                interfaces: BTreeMap::new(),
                told: HashMap::new(),
            },
            described: HashMap::new(),
            boot: boot_time(),
            packets: 0,
            bytes: 0,
            others: 0,
            end,
            command,
            capture,
        })
    }

    fn say_begun(&self) {
        output::notice(&format!("capturing the packets of hits to {}; SIGINT ends it", place(self.command)));
    }

    fn say_ended(&self) {
        let [packets, bytes] = [self.packets, self.bytes].map(output::thousands);
        let lost = match self.capture.lost() {
            0 if self.capture.may_owe() => "perhaps some".to_owned(),
            0 => "0".to_owned(),
            lost => format!("at least {}", output::thousands(lost)),
        };
        let others = if self.others > 0 {
            format!("; {} other hits are left out", output::thousands(self.others))
        } else {
            String::new()
        };
        let told = format!(
            "captured {packets} packets, {bytes} bytes, to {}; {lost} lost for want of room{others}",
            place(self.command)
        );
        // Packets that are missing are wrong.
        if lost == "0" { output::notice(&told) } else { output::error(&told) }
    }

    /// Writes what comes until something ends it.
    fn follow(&mut self, lease: &UnixStream, asked: &UnixStream) -> io::Result<Ending> {
        self.writer.flush()?;
        loop {
            if let Some(ending) = self.write_all()? {
                return Ok(ending);
            }
            let now = Instant::now();
            let is_unread = self.command.write == Path::new(STDOUT) && pipe::is_gone();
            if is_unread || is_told(asked) || self.end.is_some_and(|end| now >= end) {
                return Ok(Ending::Asked);
            }
            if is_told(lease) {
                return Ok(Ending::NoDaemon);
            }
            let rest = self.end.map_or(LOOK, |end| (end - now).min(LOOK));
            self.capture.wait(&[lease.as_fd(), asked.as_fd()], rest)?;
        }
    }

    /// What lies in the buffers still, unless there is room for no more; then the file is whole.
    fn finish(&mut self, ending: Ending) -> io::Result<()> {
        let is_reached = self.command.count.is_some_and(|count| self.packets >= count);
        if ending != Ending::Full && !is_reached {
            self.write_all()?;
        }
        self.writer.flush()
    }

    /// Everything that has come so far.
    fn write_all(&mut self) -> io::Result<Option<Ending>> {
        let caught = self.capture.take();
        if caught.is_empty() {
            return Ok(None);
        }
        let boot = boot_time();
        if boot.0.abs_diff(self.boot.0) > CLOCK_STEP_NS {
            self.boot = boot;
        }
        let mut ending = None;
        for caught in caught {
            ending = self.write(caught)?;
            if ending.is_some() {
                break;
            }
        }
        self.writer.flush()?;
        Ok(ending)
    }

    fn write(&mut self, caught: Caught) -> io::Result<Option<Ending>> {
        let (action, slot) = (Action::from_trie(caught.event.action), caught.event.slot as u16);
        self.known.refresh(&self.capture, action.list(), slot);
        let list = self.known.lists.get(&action.list()).cloned().unwrap_or_default();
        if !self.filter.wants(&caught.event, &list) {
            self.others += 1;
            return Ok(None);
        }
        let comment = captured::comment(&caught.event, &list, self.known.told(&caught, &list));
        let event = caught.event;
        let frame = Frame::of(&event, caught.bytes);
        let name = match self.known.interfaces.get(&slot).filter(|name| !name.is_empty()) {
            Some(name) => name.clone(),
            None => format!("index {}", event.ifindex),
        };
        // More than a block takes beside its packet and its comment, and than a description of its interface.
        let most = (frame.bytes.len() + comment.len() + 2 * name.len()) as u64 + 128;
        if self.command.size.is_some_and(|size| self.writer.written() + most > size) {
            return Ok(Some(Ending::Full));
        }
        let key = (name, frame.link);
        let interface = match self.described.get(&key) {
            Some(interface) => *interface,
            None => {
                let told = Interface { name: &key.0, link: frame.link, snaplen: self.snaplen };
                let interface = self.writer.describe(told)?;
                self.described.insert(key, interface);
                interface
            }
        };
        let time_ns = self.boot.0 + i128::from(event.boot_ns);
        self.writer.write(Record {
            interface,
            time_ns: u64::try_from(time_ns).unwrap_or_default(),
            bytes: &frame.bytes,
            length: frame.length,
            way: captured::way(&event),
            comment: &comment,
        })?;
        self.packets += 1;
        self.bytes += u64::from(frame.length);
        Ok(self.command.count.is_some_and(|count| self.packets >= count).then_some(Ending::Asked))
    }
}
