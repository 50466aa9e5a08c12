//! `cargo xtask kernels`: does the product work on other kernels? Boots Debian's kernels in virtual machines, runs a few
//! system tests in each and writes what they tell to `docs/kernels.md`.
//!
//! Decides which kernels and which tests; what the tests look at is theirs. Daemon and tests are the programs that were just
//! built, with the libraries of this machine beside them: no kernel minds how new what runs on it is.
//!
//! ```text
//! target/kernels/SUITE/apt/      package lists of that suite alone; nothing of this machine's apt is changed
//! target/kernels/SUITE/PACKAGE/  its kernel, unpacked and not installed
//! target/kernels/SUITE/initramfs what the machine sees: busybox, the daemon, the tests, their libraries
//! target/kernels/SUITE/console   what the machine said
//! ```

pub(crate) mod apt;
mod report;

use self::{
    apt::Apt,
    report::{END, Report, VERSION, document},
};
use crate::{
    setup::{provide, setup},
    shell::{built, cargo, find, output_of, run, say},
};
use anyhow::{Context as _, Result, anyhow, bail};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Debian's suites, oldest first: each has one kernel, that of its security archive where it has one.
const SUITES: [&str; 4] = ["bullseye", "bookworm", "trixie", "sid"];
/// The kernel of a suite for virtual machines: a third of the size of the one for all hardware.
const META_PACKAGE: &str = "linux-image-cloud-amd64";
/// How the names of all packages of such a kernel end.
const FLAVOUR: &str = "-cloud-amd64";
/// Modules that the tests need; those that they need in turn are found.
const MODULES: [&str; 15] = [
    "veth",
    "tun",
    "8021q",
    "ipvlan",
    "bonding",
    "bridge",
    "team",
    "vrf",
    "sit",
    "ipip",
    "ip_gre",
    "ip_vti",
    "wireguard",
    "sch_ingress",
    "cls_bpf",
];
/// Tests of the system test binary that run in the machine: what kernels differ in, and what must hold on all of them.
const TESTS: [&str; 14] = [
    "budget::",
    "capture::packets_of_hits",
    "enforcement::",
    "verdict::every_frame",
    "verdict::bytes",
    "verdict::frame_without",
    "deep::every_frame_of_the_deep_column",
    "kinds::",
    "interfaces::tun_",
    "traffic::listed_addresses_are_dropped",
    "paths::egress_outlives",
    "connect::processes_are_refused",
    "connect::crash_and_restart",
    "lifecycle::detach_command",
];
/// What the tests call. Perl's own modules come along.
const GUEST_TOOLS: [&str; 3] = ["ip", "setpriv", "perl"];
/// What making and running the machine takes, and the Debian packages that bring it.
const HOST_TOOLS: [(&str, &str); 6] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("xz", "xz-utils"),
    ("dpkg-deb", "dpkg"),
    ("setpriv", "util-linux"),
];
/// Without acceleration a machine takes some minutes; a busy computer takes longer.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Where the result is kept.
const DOCUMENT: &str = "docs/kernels.md";

/// Runs the tests on the kernels of these suites, of all by default; fails unless all of them pass.
pub(crate) fn kernels(workspace: &Path, suites: &[String], tests: &[String]) -> Result<ExitCode> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("this boots x86-64 kernels with this machine's own programs, which are for {}", std::env::consts::ARCH);
    }
    if let Some(unknown) = suites.iter().find(|suite| !SUITES.contains(&suite.as_str())) {
        bail!("{unknown} is no suite of {}", SUITES.join(", "));
    }
    setup(workspace, false)?;
    provide(&HOST_TOOLS, "virtual machines")?;
    let programs = Programs::build(workspace)?;
    let chosen = if tests.is_empty() { TESTS.map(str::to_owned).to_vec() } else { tests.to_vec() };
    let wanted = SUITES.into_iter().filter(|suite| suites.is_empty() || suites.iter().any(|wanted| wanted == suite));
    let mut kernels = Vec::new();
    for suite in wanted {
        let folder = workspace.join("target/kernels").join(suite);
        let kernel = Kernel::fetch(suite, &folder).with_context(|| format!("fetching the kernel of {suite}"))?;
        kernels.push((kernel, folder));
    }
    let mut reports = Vec::new();
    // What runs in a machine keeps little more than one processor busy.
    for together in kernels.chunks(thread::available_parallelism().map_or(1, usize::from)) {
        let tried: Vec<Result<Report>> = thread::scope(|scope| {
            let machines: Vec<_> = together
                .iter()
                .map(|(kernel, folder)| scope.spawn(|| kernel.try_out(folder, &programs, &chosen)))
                .collect();
            let ended = |machine: thread::ScopedJoinHandle<'_, _>| {
                machine.join().unwrap_or_else(|_| Err(anyhow!("the thread that ran the machine has ended")))
            };
            machines.into_iter().map(ended).collect()
        });
        for ((kernel, _), report) in together.iter().zip(tried) {
            let report = report.with_context(|| format!("trying {}", kernel.version))?;
            print!("{}", report.summary());
            say("kernels", report.result());
            reports.push(report);
        }
    }
    let all = suites.is_empty() && tests.is_empty();
    if all {
        let path = workspace.join(DOCUMENT);
        fs::write(&path, document(&made(workspace)?, &reports))
            .with_context(|| format!("writing {}", path.display()))?;
        say("kernels", format_args!("written to {DOCUMENT}"));
    }
    let passed = reports.iter().all(|report| report.code == Some(0));
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A computer without anything but processors.
pub(crate) fn emulator() -> Command {
    let mut command = Command::new("setpriv");
    // It ends with who started it, however that ends.
    command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
    // Never KVM: a machine in a machine is slow or hangs where acceleration is only pretended.
    command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none"]);
    command
}

/// The day, and what was tried.
pub(crate) fn made(workspace: &Path) -> Result<String> {
    let git = |arguments: &[&str]| output_of(Command::new("git").current_dir(workspace).args(arguments));
    let changed = if git(&["status", "--porcelain"])?.is_empty() { "" } else { " with changes" };
    let (day, commit) = (output_of(Command::new("date").args(["-u", "+%F"]))?, git(&["rev-parse", "--short", "HEAD"])?);
    Ok(format!("{day} at commit {commit}{changed}"))
}

/// What runs in the machine.
struct Programs {
    naikon: PathBuf,
    tests: PathBuf,
}

impl Programs {
    /// The daemon as it is released, and the system tests.
    fn build(workspace: &Path) -> Result<Self> {
        say("kernels", "building naikon and the tests");
        let build = ["build", "--quiet", "--package", "naikon-userspace", "--bin", "naikon"];
        run(cargo().current_dir(workspace).args(build))?;
        let test = [
            "test",
            "--quiet",
            "--package",
            "naikon-tests",
            "--test",
            "system",
            "--no-run",
            "--message-format",
            "json",
        ];
        let messages = output_of(cargo().current_dir(workspace).args(test))?;
        let tests = messages
            .lines()
            // The programs of the package are built along.
            .filter(|line| line.contains("\"kind\":[\"test\"]"))
            .filter_map(|line| line.split_once("\"executable\":\"")?.1.split('"').next())
            .next_back()
            .context("cargo names no test binary")?;
        Ok(Programs { naikon: built("debug", "naikon")?, tests: tests.into() })
    }
}

/// An unpacked kernel package.
struct Kernel {
    /// As `uname -r` says.
    version: String,
    image: PathBuf,
    /// Names and contents, each behind those that it needs.
    modules: Vec<(String, Vec<u8>)>,
}

impl Kernel {
    /// The newest one of a suite; what was fetched before is taken again.
    fn fetch(suite: &str, folder: &Path) -> Result<Self> {
        let apt = Apt::new(suite, &folder.join("apt"))?;
        let packages = apt.dependencies(META_PACKAGE, FLAVOUR)?;
        let first = packages.first().with_context(|| format!("{META_PACKAGE} depends on nothing"))?;
        let unpacked = folder.join(first);
        for package in &packages {
            let done = folder.join(format!("{package}.unpacked"));
            if done.exists() {
                continue;
            }
            say("kernels", format_args!("fetching {package}"));
            run(apt.command("apt-get").args(["-qq", "download", package]).current_dir(folder))?;
            let archive = files_below(folder)?
                .into_iter()
                .find(|file| name_of(file).starts_with(&format!("{package}_")) && name_of(file).ends_with(".deb"))
                .context("apt-get left no package")?;
            run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&unpacked))?;
            fs::remove_file(archive)?;
            fs::write(done, "")?;
        }
        let files = files_below(&unpacked)?;
        // /boot/vmlinuz-VERSION, in newer suites /usr/lib/modules/VERSION/vmlinuz.
        let image = files.iter().find(|file| name_of(file).starts_with("vmlinuz")).context("it has no kernel")?;
        let version = match name_of(image).strip_prefix("vmlinuz-") {
            Some(version) => version.to_owned(),
            None => name_of(image.parent().unwrap_or(image)),
        };
        let mut modules = Vec::new();
        for name in MODULES {
            add_module(&files, name, &mut modules)?;
        }
        Ok(Kernel { version, image: image.clone(), modules })
    }

    /// Boots it, runs the tests and reads what they tell.
    fn try_out(&self, folder: &Path, programs: &Programs, tests: &[String]) -> Result<Report> {
        say("kernels", format_args!("booting {}", self.version));
        let start = Instant::now();
        let initramfs = self.pack(folder, programs, tests)?;
        let console = folder.join("console");
        let _ = fs::remove_file(&console);
        let mut machine = emulator()
            .args(["-m", "1536", "-no-reboot"])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .arg("-kernel")
            .arg(&self.image)
            .arg("-initrd")
            .arg(&initramfs)
            // On a busy computer an emulated timer is too late for the kernel's look whether it ticks.
            .args(["-append", "console=ttyS0 quiet panic=-1 no_timer_check"])
            .stdin(Stdio::null())
            .spawn()
            .context("starting qemu")?;
        let deadline = start + PATIENCE;
        let mut in_time = true;
        while machine.try_wait()?.is_none() {
            if Instant::now() > deadline {
                in_time = false;
                machine.kill()?;
            }
            thread::sleep(Duration::from_millis(200));
        }
        let text = fs::read(&console).context("the machine said nothing")?;
        let report = Report::read(&self.version, &String::from_utf8_lossy(&text), start.elapsed());
        if report.code.is_none() {
            let how = if in_time { "ended without a result" } else { "took too long" };
            bail!("the machine {how}; see {}", console.display());
        }
        Ok(report)
    }

    /// Packs all that the machine sees.
    fn pack(&self, folder: &Path, programs: &Programs, tests: &[String]) -> Result<PathBuf> {
        let root = folder.join("root");
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        for part in ["bin", "dev", "modules", "proc", "run", "sys", "tests", "tmp", "var/lib"] {
            fs::create_dir_all(root.join(part))?;
        }
        let mut tools = vec![(find("busybox").context("there is no busybox")?, "bin/busybox".to_owned())];
        for tool in GUEST_TOOLS {
            tools.push((find(tool).with_context(|| format!("there is no {tool}"))?, format!("bin/{tool}")));
        }
        tools.push((programs.naikon.clone(), "tests/naikon".to_owned()));
        tools.push((programs.tests.clone(), "tests/system".to_owned()));
        for (program, place) in &tools {
            fs::copy(program, root.join(place)).with_context(|| format!("copying {}", program.display()))?;
            for library in libraries(program)? {
                let place = root.join(library.strip_prefix("/").unwrap_or(&library));
                fs::create_dir_all(place.parent().context("a library lies in no folder")?)?;
                fs::copy(&library, place).with_context(|| format!("copying {}", library.display()))?;
            }
        }
        let modules = output_of(Command::new("perl").args(["-e", "print grep { /perl-base$/ } @INC"]))?;
        run(Command::new("cp").args(["--recursive", "--parents", &modules]).arg(&root))?;
        symlink("busybox", root.join("bin/sh"))?;
        for (number, (name, content)) in self.modules.iter().enumerate() {
            // The machine loads them in the order of their names.
            fs::write(root.join("modules").join(format!("{number:02}-{name}.ko")), content)?;
        }
        let init = root.join("init");
        fs::write(&init, INIT.replace("TESTS", &tests.join(" ")).replace("VERSION", VERSION).replace("END", END))?;
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
        let initramfs = folder.join("initramfs");
        let script = "find . | cpio --quiet -o -H newc --owner 0:0 > \"$1\"";
        run(Command::new("sh").args(["-c", script, "sh"]).arg(&initramfs).current_dir(&root))?;
        fs::remove_dir_all(&root)?;
        Ok(initramfs)
    }
}

/// The first process of the machine. The console goes to both: the tests' output is what we read.
const INIT: &str = "#!/bin/sh
/bin/busybox --install -s /bin
export PATH=/bin RUST_BACKTRACE=0 NAIKON_REQUIRE_ROOT=1 NAIKON_ALL_KINDS=1 NAIKON_SLOWNESS=60 NAIKON_BIN=/tests/naikon
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs tmpfs /tmp
exec >/dev/ttyS0 2>&1
for module in /modules/*; do insmod $module; done
ip link set lo up
cd /tmp
echo
echo \"VERSION$(uname -v)\"
# As the unit has it: before 5.11 maps count as locked memory.
ulimit -l unlimited
/tests/system --test-threads 1 TESTS
code=$?
echo
echo \"END$code\"
poweroff -f
";

/// Adds a module behind those that it needs. What it needs and the package has not is built into the kernel.
fn add_module(files: &[PathBuf], name: &str, modules: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    // Files are named with hyphens or underscores, modules with underscores.
    let plain = |name: &str| name.replace('-', "_");
    if modules.iter().any(|(known, _)| plain(known) == plain(name)) {
        return Ok(());
    }
    let is_it = |file: &&PathBuf| name_of(file).split_once(".ko").is_some_and(|(stem, _)| plain(stem) == plain(name));
    let Some(file) = files.iter().find(is_it) else {
        if MODULES.contains(&name) {
            bail!("it has no module {name}");
        }
        return Ok(());
    };
    let content = match file.extension().is_some_and(|extension| extension == "xz") {
        true => {
            let unpacked = Command::new("xz").arg("-dc").arg(file).output().context("starting xz")?;
            if !unpacked.status.success() {
                bail!("unpacking {} failed ({})", file.display(), unpacked.status);
            }
            unpacked.stdout
        }
        false => fs::read(file)?,
    };
    // In the section .modinfo: "depends=" and names with commas, ended by a zero.
    let key = b"\0depends=";
    let needed =
        content.windows(key.len()).position(|window| window == key).and_then(|at| content.get(at + key.len()..));
    let needed = needed.and_then(|rest| rest.split(|byte| *byte == 0).next()).map(String::from_utf8_lossy);
    for needed in needed.unwrap_or_default().split(',').filter(|needed| !needed.is_empty()) {
        add_module(files, needed, modules)?;
    }
    modules.push((name.to_owned(), content));
    Ok(())
}

/// What a program needs at run time, with the loader.
fn libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("starting ldd")?;
    // A static program is an error to ldd, and needs none.
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(|word| word.trim_end_matches(':').into())
        .collect())
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => found.extend(files_below(&entry.path())?),
            false => found.push(entry.path()),
        }
    }
    Ok(found)
}
