//! The machine: an emulated computer with two cards, a disk whose changes are forgotten and a port over which it is told what
//! to do. Decides nothing about what is tried on it.

use super::image::Image;
use crate::kernels;
use anyhow::{Context as _, Result, bail};
use rustix::io::{FdFlags, fcntl_setfd};
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::net::UnixStream},
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

/// For a boot, emulated and on a busy computer.
const BOOT: Duration = Duration::from_secs(240);
/// What an answer may take beyond the time that the script itself has.
const SLACK: Duration = Duration::from_secs(30);

/// A running machine; it ends with this value.
pub(super) struct Machine {
    process: Child,
    /// Ours of the port's two ends.
    port: BufReader<UnixStream>,
    asked: u64,
}

/// What a script said.
pub(super) struct Said {
    pub(super) code: i32,
    pub(super) text: String,
}

impl Said {
    /// The last lines, for a message.
    pub(super) fn end(&self) -> String {
        let lines: Vec<&str> = self.text.lines().collect();
        lines.get(lines.len().saturating_sub(12)..).unwrap_or_default().join("\n")
    }
}

impl Machine {
    /// Switches it on and waits until it takes orders. Gives also our ends of lan0 and wan0.
    pub(super) fn start(image: &Image, files: &Path, console: &Path) -> Result<(Self, UnixStream, UnixStream)> {
        let mut command = kernels::emulator();
        command.args(["-m", "1024"]).arg("-kernel").arg(image.file("vmlinuz")).arg("-initrd").arg(image.file("initrd"));
        command.args(["-append", "console=ttyS0 root=/dev/vda rw quiet panic=-1 no_timer_check"]);
        command.arg("-serial").arg(format!("file:{}", console.display()));
        for (name, disk, other) in
            [("disk", image.file("disk"), "snapshot=on"), ("files", files.to_owned(), "readonly=on")]
        {
            command.arg("-drive").arg(format!("if=none,id={name},format=raw,{other},file={}", disk.display()));
            command.arg("-device").arg(format!("virtio-blk-pci,drive={name}"));
        }
        let (lan, lan_of_machine) = link()?;
        let (wan, wan_of_machine) = link()?;
        let (port, port_of_machine) = link()?;
        for (number, name, end) in [(1, "lan", &lan_of_machine), (2, "wan", &wan_of_machine)] {
            command
                .arg("-netdev")
                .arg(format!("stream,id={name},server=off,addr.type=fd,addr.str={}", end.as_raw_fd()));
            command.arg("-device").arg(format!("virtio-net-pci,netdev={name},mac=02:00:00:00:00:0{number}"));
        }
        command.arg("-chardev").arg(format!("socket,id=port,fd={}", port_of_machine.as_raw_fd()));
        command.args(["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=port,name=trial"]);
        command.args(["-device", "virtio-rng-pci"]);
        // Of the machine's own ends it alone has one, so that all of them close with it.
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("starting qemu")?;
        let mut machine = Machine { process, port: BufReader::new(port), asked: 0 };
        drop((lan_of_machine, wan_of_machine, port_of_machine));
        machine.wait_for_boot().with_context(|| format!("booting; {} has its console", console.display()))?;
        Ok((machine, lan, wan))
    }

    fn wait_for_boot(&mut self) -> Result<()> {
        let line = self.line(BOOT)?;
        if !line.starts_with("ready ") {
            bail!("the machine said {line:?} in place of being ready");
        }
        Ok(())
    }

    /// Runs a script of bash as root and waits for its end.
    pub(super) fn ask(&mut self, script: &str, limit: Duration) -> Result<Said> {
        self.asked += 1;
        let order = format!("{} {} {}\n{script}", self.asked, script.len(), limit.as_secs());
        self.port.get_mut().write_all(order.as_bytes()).context("the machine takes no orders any more")?;
        let line = self.line(limit + SLACK)?;
        let words: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
        let [number, code, length] = words.as_slice() else { bail!("the machine answered {line:?}") };
        if *number != self.asked {
            bail!("the machine answered {number} when asked {}", self.asked);
        }
        let mut text = vec![0; usize::try_from(*length)?];
        self.port.read_exact(&mut text).context("an answer was cut short")?;
        Ok(Said { code: i32::try_from(*code)?, text: String::from_utf8_lossy(&text).into_owned() })
    }

    /// Boots it anew, in the ordinary way.
    pub(super) fn reboot(&mut self) -> Result<()> {
        self.port.get_mut().write_all(b"0 0 0\n")?;
        self.wait_for_boot()
    }

    fn line(&mut self, limit: Duration) -> Result<String> {
        self.port.get_mut().set_read_timeout(Some(limit))?;
        let start = Instant::now();
        let mut line = String::new();
        match self.port.read_line(&mut line) {
            Ok(0) => bail!("the machine has ended"),
            Ok(_) => Ok(line),
            Err(error) => {
                Err(error).with_context(|| format!("the machine was silent for {} s", start.elapsed().as_secs()))
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It has no more to lose: its disk forgets all.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Two ends, of which the second may be inherited.
fn link() -> Result<(UnixStream, UnixStream)> {
    let (ours, theirs) = UnixStream::pair().context("making a pair of sockets")?;
    fcntl_setfd(&theirs, FdFlags::empty()).context("handing on a socket")?;
    Ok((ours, theirs))
}
