//! What each program of the object may cost the verifier and the kernel: instructions walked, stack, machine code.
//!
//! Decides the budget, and that growth above it is a decision. It does not look at verdicts. Every program is loaded
//! under exactly the capabilities that the service unit grants, and again with `CAP_PERFMON`: without that one the
//! verifier also walks what a CPU may run ahead of a branch, and adds masking, so the first set is what counts.
//! Both policies for unparsed frames, and tables with and without a filter in front of the hosts, are tried: sizes and
//! seeds are constants to the verifier, so programs are loaded with those that the product would choose.
//!
//! The kernel tells some of it about a loaded program, the rest only in the verifier's log, which aya hands out with
//! a failure alone. So each program is loaded twice: once where no descriptor is left for it, which the kernel finds
//! out after all else is done and logged, and once for good. Such a limit, as capabilities, is a matter of a whole
//! process: this test starts itself again for each set.

use std::env;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::Command;

use aya::programs::{Program, ProgramError, ProgramInfo};
use aya::util::KernelVersion;
use aya::{Ebpf, VerifierLogLevel};
use naikon_ebpf::abi::{
    PROGRAMS_CONNECT, PROGRAMS_NAMELESS, Place,
    Place::{Egress, Ingress},
    deep_entry_point, entry_point,
};
use naikon_userspace::kernel::{OBJECT, loader};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::enforcement::{CAPABILITIES, FRAGS, LEAST};
use crate::harness::{needs_root, slowness};
use crate::verdict::{fitting, oversized};

/// The most that one program may take, whatever the capabilities and the policy.
struct Budget {
    program: &'static str,
    /// Instructions that the verifier walks. Users wait for it at each start; a million is the kernel's own bound.
    verified: u32,
    /// Bytes of stack of all functions together, which no chain of calls exceeds; 512 is the kernel's own bound.
    stack: u32,
    /// Bytes of machine code: what a frame drags through the instruction cache.
    jitted: u32,
    /// The first kernel seen to take it without `CAP_PERFMON`, if any does.
    least: Option<KernelVersion>,
}

/// The first kernel seen to take the programs of `--deep` without CAP_PERFMON; 6.12 gives up.
const LEAST_DEEP: KernelVersion = KernelVersion::new(6, 18, 0);

/// The first kernel seen to take the programs that log without CAP_PERFMON; 6.18 does not.
const LEAST_TRACE: KernelVersion = KernelVersion::new(7, 2, 0);

/// With what words the verifier refuses a program that needs `CAP_PERFMON`, to which alone it shows addresses.
const SECRETS: [&str; 8] = [
    // The length of a frame, from its start and end.
    "pointer -= pointer prohibited",
    // Whether a header ends inside the frame; allowed to all since 6.6 and in what was mended after it.
    "pointer comparison prohibited",
    // Arguments of the log that the compiler copies in pieces.
    "attempt to corrupt spilled pointer on stack",
    // A place in a frame that varies, where no helper copies headers out.
    "pointer arithmetic with it prohibited for !root",
    // What a CPU may run ahead of a branch, on top of all else.
    "jumps is too complex",
    // A place in a frame that varies, copied to the stack in a way that only addresses would show to be right.
    "min value is outside of the allowed memory range",
    // A pointer that came back from the stack as a number.
    "invalid mem access 'inv'",
    "invalid mem access 'scalar'",
];

/// One row a program, each number some 20 % above what the costliest way to load it takes on kernel 6.18: room for another
/// compiler or verifier, not for one more thing that a frame is asked. Growth is a decision: raise a number in the commit that
/// needs it, and say there why.
const BUDGETS: [Budget; 40] = [
    // The walk of tags and PPPoE is unrolled, so each of its ends is verified with what stands behind it: the sieve for both
    // addresses in line, the call of what examines those that it holds back, the counters. A lookup of IPv6 is sifted in line
    // for each address and then compares up to three lines of seven slots without branches. Without CAP_PERFMON, what a CPU
    // may run ahead of a branch adds a fifth.
    Budget {
        program: entry_point(FRAGS_XDP, false, false),
        verified: 64_000,
        stack: 440,
        jitted: 23_000,
        least: Some(LEAST),
    },
    // The same code but for the length of the frame, which needs CAP_PERFMON, so without what its absence adds.
    Budget {
        program: entry_point(LINEAR_XDP, false, false),
        verified: 14_000,
        stack: 424,
        jitted: 21_000,
        least: None,
    },
    // The walk stands in them twice: what seems cut short is looked at again in one piece.
    Budget {
        program: entry_point(Ingress, false, false),
        verified: 84_000,
        stack: 472,
        jitted: 24_000,
        least: Some(LEAST),
    },
    Budget {
        program: entry_point(Egress, false, false),
        verified: 83_000,
        stack: 472,
        jitted: 22_000,
        least: Some(LEAST),
    },
    // No tags to step over.
    Budget {
        program: entry_point(FRAGS_XDP, true, false),
        verified: 29_000,
        stack: 400,
        jitted: 19_000,
        least: Some(LEAST),
    },
    Budget { program: entry_point(LINEAR_XDP, true, false), verified: 12_000, stack: 408, jitted: 18_000, least: None },
    Budget {
        program: entry_point(Ingress, true, false),
        verified: 29_000,
        stack: 416,
        jitted: 19_000,
        least: Some(LEAST),
    },
    Budget {
        program: entry_point(Egress, true, false),
        verified: 29_000,
        stack: 416,
        jitted: 19_000,
        least: Some(LEAST),
    },
    // The log is written for three verdicts and two families at each end of the walk. It is for looking into a problem, not
    // for frames in a hurry.
    Budget {
        program: entry_point(FRAGS_XDP, false, true),
        verified: 70_000,
        stack: 512,
        jitted: 27_000,
        least: Some(LEAST_TRACE),
    },
    Budget { program: entry_point(LINEAR_XDP, false, true), verified: 55_000, stack: 512, jitted: 27_000, least: None },
    Budget {
        program: entry_point(Ingress, false, true),
        verified: 100_000,
        stack: 512,
        jitted: 27_000,
        least: Some(LEAST_TRACE),
    },
    Budget {
        program: entry_point(Egress, false, true),
        verified: 100_000,
        stack: 512,
        jitted: 27_000,
        least: Some(LEAST_TRACE),
    },
    Budget {
        program: entry_point(FRAGS_XDP, true, true),
        verified: 69_000,
        stack: 512,
        jitted: 23_000,
        least: Some(LEAST_TRACE),
    },
    Budget { program: entry_point(LINEAR_XDP, true, true), verified: 54_000, stack: 512, jitted: 22_000, least: None },
    Budget {
        program: entry_point(Ingress, true, true),
        verified: 54_000,
        stack: 512,
        jitted: 23_000,
        least: Some(LEAST_TRACE),
    },
    Budget {
        program: entry_point(Egress, true, true),
        verified: 57_000,
        stack: 512,
        jitted: 23_000,
        least: Some(LEAST_TRACE),
    },
    // The deep walk, with up to six addresses. What an address weighs, the options of IPv4 and the extension headers of IPv6 are
    // verified apart, once. Where no helper copies headers out, places are parts of pointers, and the verifier tells them apart.
    Budget {
        program: deep_entry_point(FRAGS_XDP, false, false),
        verified: 65_000,
        stack: 512,
        jitted: 23_000,
        least: Some(LEAST_DEEP),
    },
    Budget {
        program: deep_entry_point(LINEAR_XDP, false, false),
        verified: 300_000,
        stack: 456,
        jitted: 21_000,
        least: None,
    },
    Budget {
        program: deep_entry_point(Ingress, false, false),
        verified: 69_000,
        stack: 544,
        jitted: 23_000,
        least: Some(LEAST_DEEP),
    },
    Budget {
        program: deep_entry_point(Egress, false, false),
        verified: 69_000,
        stack: 544,
        jitted: 23_000,
        least: Some(LEAST_DEEP),
    },
    Budget {
        program: deep_entry_point(FRAGS_XDP, true, false),
        verified: 47_000,
        stack: 472,
        jitted: 20_000,
        least: Some(LEAST_DEEP),
    },
    Budget {
        program: deep_entry_point(LINEAR_XDP, true, false),
        verified: 300_000,
        stack: 440,
        jitted: 19_000,
        least: None,
    },
    Budget {
        program: deep_entry_point(Ingress, true, false),
        verified: 47_000,
        stack: 488,
        jitted: 19_000,
        least: Some(LEAST_DEEP),
    },
    Budget {
        program: deep_entry_point(Egress, true, false),
        verified: 48_000,
        stack: 496,
        jitted: 20_000,
        least: Some(LEAST_DEEP),
    },
    Budget {
        program: deep_entry_point(FRAGS_XDP, false, true),
        verified: 83_000,
        stack: 584,
        jitted: 28_000,
        least: Some(LEAST_DEEP),
    },
    Budget {
        program: deep_entry_point(LINEAR_XDP, false, true),
        verified: 300_000,
        stack: 504,
        jitted: 27_000,
        least: None,
    },
    Budget {
        program: deep_entry_point(Ingress, false, true),
        verified: 86_000,
        stack: 616,
        jitted: 28_000,
        least: Some(LEAST_DEEP),
    },
    Budget {
        program: deep_entry_point(Egress, false, true),
        verified: 86_000,
        stack: 616,
        jitted: 28_000,
        least: Some(LEAST_DEEP),
    },
    Budget {
        program: deep_entry_point(FRAGS_XDP, true, true),
        verified: 68_000,
        stack: 536,
        jitted: 25_000,
        least: Some(LEAST_DEEP),
    },
    Budget {
        program: deep_entry_point(LINEAR_XDP, true, true),
        verified: 300_000,
        stack: 470,
        jitted: 23_000,
        least: None,
    },
    Budget {
        program: deep_entry_point(Ingress, true, true),
        verified: 68_000,
        stack: 552,
        jitted: 25_000,
        least: Some(LEAST_DEEP),
    },
    Budget {
        program: deep_entry_point(Egress, true, true),
        verified: 68_000,
        stack: 552,
        jitted: 25_000,
        least: Some(LEAST_DEEP),
    },
    // One lookup, then the counter and the report of a hit. Newer kernels tell the name of a process only to those with
    // CAP_PERFMON; the others go without.
    Budget { program: "connect4", verified: 820, stack: 80, jitted: 2_700, least: None },
    Budget { program: "connect6", verified: 7_800, stack: 280, jitted: 8_400, least: None },
    Budget { program: "sendmsg4", verified: 820, stack: 80, jitted: 2_700, least: None },
    Budget { program: "sendmsg6", verified: 7_800, stack: 280, jitted: 8_400, least: None },
    Budget { program: "nameless_c4", verified: 820, stack: 72, jitted: 2_700, least: Some(LEAST) },
    Budget { program: "nameless_c6", verified: 7_800, stack: 272, jitted: 8_400, least: Some(LEAST) },
    Budget { program: "nameless_s4", verified: 820, stack: 72, jitted: 2_700, least: Some(LEAST) },
    Budget { program: "nameless_s6", verified: 7_800, stack: 272, jitted: 8_400, least: Some(LEAST) },
];

const FRAGS_XDP: Place = Place::Xdp { frags: true };
const LINEAR_XDP: Place = Place::Xdp { frags: false };

/// In `/proc/PID/status` (include/uapi/linux/capability.h).
const CAP_PERFMON: u64 = 1 << 38;

/// Names the file for the results, in the process that measures.
const MEASURE: &str = "NAIKON_TEST_MEASURE";
/// What this test is called, for starting it again.
const TEST: &str = "budget::every_program_stays_within_its_budget_under_the_capabilities_of_the_unit";

/// One way to load the object.
#[derive(Clone, Copy)]
struct Way {
    perfmon: bool,
    unparsed_drops: bool,
    /// A bloom filter stands in front of the hosts.
    filters: bool,
}

/// What loading one program cost.
struct Cost {
    verified: u32,
    stack: u32,
    translated: u32,
    jitted: u32,
    microseconds: u32,
}

#[test]
fn every_program_stays_within_its_budget_under_the_capabilities_of_the_unit() {
    if let Some(file) = env::var_os(MEASURE) {
        return measure_into(Path::new(&file));
    }
    if needs_root() {
        return;
    }
    let mut table =
        "| granted | program | unparsed | hosts | verified | stack | translated | jitted | us | |\n".to_owned();
    table += "|---|---|---|---|---|---|---|---|---|---|\n";
    let mut breaches = Vec::new();
    for (name, capabilities) in CAPABILITIES {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("measured");
        let child = Command::new("setpriv")
            .args(["--bounding-set", capabilities, "--inh-caps", "-all", "--no-new-privs", "--"])
            .arg(env::current_exe().unwrap())
            .args(["--exact", TEST])
            .env(MEASURE, &file)
            .output()
            .expect("setpriv should be installed (util-linux)");
        let told = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success(), "the object should load with {capabilities}: {told}");
        for line in fs::read_to_string(&file).unwrap().lines() {
            if !line.starts_with('|') {
                breaches.push(line.to_owned());
                continue;
            }
            table += &format!("| {name} {line}\n");
            if !line.ends_with(WITHIN) {
                breaches.push(format!("{name} {line}"));
            }
        }
    }
    // Not `println!`, whose text the test runner keeps to itself unless the test fails.
    io::stdout().write_all(table.as_bytes()).unwrap();
    assert!(breaches.is_empty(), "the budget says otherwise:\n{}", breaches.join("\n"));
}

/// How a line ends when all is as budgeted.
const WITHIN: &str = "| |";

/// What is said of a refusal that no row tells of.
const UNEXPECTED: &str = "unexpected";

/// Loads every program in every way and writes a line for each; what is not as budgeted stands in its last column.
fn measure_into(file: &Path) {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = u64::from_str_radix(after(&status, "CapEff:"), 16).unwrap();
    let perfmon = effective & CAP_PERFMON != 0;
    let mut lines = String::new();
    // What an emulated machine verifies takes minutes: it tries the costliest way alone.
    let ways = [(false, true), (false, false), (true, false), (true, true)];
    for (unparsed_drops, filters) in ways.into_iter().take(if slowness() > 1 { 1 } else { ways.len() }) {
        let way = Way { perfmon, unparsed_drops, filters };
        let mut ebpf = object(way, VerifierLogLevel::STATS);
        let mut programs: Vec<String> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
        programs.retain(|name| !name.ends_with("frags") || KernelVersion::current().unwrap() >= FRAGS);
        // Without CAP_PERFMON naikon loads the nameless ones, where it starts at all.
        let may_load = perfmon || KernelVersion::current().unwrap() >= LEAST;
        programs.retain(|name| perfmon || !PROGRAMS_CONNECT.contains(&name.as_str()));
        programs.retain(|name| may_load || !PROGRAMS_NAMELESS.contains(&name.as_str()));
        programs.sort();
        for program in programs {
            let budget = BUDGETS.iter().find(|budget| budget.program == program);
            let budget = budget.unwrap_or_else(|| panic!("{program} should have a row in BUDGETS"));
            let (cost, breach) = match cost(&mut ebpf, &program) {
                Ok(cost) => (cost.to_string(), budget.breach(way, &cost)),
                Err(refusal) => {
                    // The statistics follow the verifier's last word.
                    let word = refusal.lines().take_while(|line| !line.starts_with("verification time")).last();
                    let word = word.unwrap_or_default();
                    (format!("refused: {word} | | | |"), budget.surprise(way, &refusal))
                }
            };
            let unparsed = if unparsed_drops { "drop" } else { "pass" };
            let hosts = if filters { "filtered" } else { "plain" };
            let breach = breach.map_or(WITHIN.to_owned(), |breach| format!("| {breach} |"));
            lines += &format!("| {program} | {unparsed} | {hosts} | {cost} {breach}\n");
            if breach.contains(UNEXPECTED) {
                lines += &last_steps(way, &program);
            }
        }
    }
    fs::write(file, lines).unwrap();
}

impl fmt::Display for Cost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cost { verified, stack, translated, jitted, microseconds } = self;
        write!(formatter, "{verified} | {stack} | {translated} | {jitted} | {microseconds}")
    }
}

impl Budget {
    /// Whether it is known that the verifier refuses it so.
    fn refused(&self, way: Way) -> bool {
        !way.perfmon && self.least.is_none_or(|least| KernelVersion::current().unwrap() < least)
    }

    /// What of a cost is not as this row says.
    fn breach(&self, way: Way, cost: &Cost) -> Option<String> {
        if self.refused(way) {
            return Some("loads without CAP_PERFMON: say so in its row".to_owned());
        }
        let found = [
            ("verified instructions", cost.verified, self.verified),
            ("bytes of stack", cost.stack, self.stack),
            ("bytes of machine code", cost.jitted, self.jitted),
        ];
        let above = found.into_iter().find(|(_, found, most)| found > most);
        above.map(|(what, found, most)| format!("{found} {what}, above {most}"))
    }

    /// What of a refusal is not as this row says.
    fn surprise(&self, way: Way, refusal: &str) -> Option<String> {
        let known = self.refused(way) && SECRETS.iter().any(|secret| refusal.contains(secret));
        (!known).then(|| UNEXPECTED.to_owned())
    }
}

fn object(way: Way, log_level: VerifierLogLevel) -> Ebpf {
    let shape = if way.filters { oversized(&[]) } else { fitting(&[]) };
    loader(way.unparsed_drops, &shape)
        .verifier_log_level(log_level)
        .load(OBJECT)
        .expect("the maps of the object should load")
}

/// Loads a program and tells what that cost, or what the verifier says against it.
fn cost(ebpf: &mut Ebpf, program: &str) -> Result<Cost, String> {
    let log = verifier_log(ebpf, program)?;
    let info = load(ebpf, program).map_err(|error| error.to_string())?;
    Ok(Cost {
        // Kernels before 5.16 tell it in the log alone.
        verified: info.verified_instruction_count().unwrap_or_else(|| number(&log, "processed ")),
        // A number for each function, as in "24+0+8".
        stack: after(&log, "stack depth ").split('+').map(|depth| depth.parse::<u32>().unwrap()).sum(),
        translated: info.size_translated().unwrap_or(0),
        jitted: info.size_jitted(),
        microseconds: number(&log, "verification time "),
    })
}

/// What the verifier says of a program that it accepts, or against one that it does not.
fn verifier_log(ebpf: &mut Ebpf, program: &str) -> Result<String, String> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // Descriptors are given from below.
    let next = File::open("/dev/null").unwrap().as_raw_fd();
    setrlimit(Resource::RLIMIT_NOFILE, next.try_into().unwrap(), hard).unwrap();
    let loaded = load(ebpf, program);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    match loaded {
        Err(ProgramError::LoadError { io_error, verifier_log })
            if io_error.raw_os_error() == Some(Errno::EMFILE as i32) =>
        {
            Ok(verifier_log.to_string())
        }
        Err(ProgramError::LoadError { verifier_log, .. }) => Err(verifier_log.to_string()),
        Err(error) => Err(error.to_string()),
        Ok(_) => panic!("{program} should not load without a descriptor"),
    }
}

/// The last instructions that the verifier walked before it refused a program.
fn last_steps(way: Way, program: &str) -> String {
    const STEPS: usize = 20;
    let mut ebpf = object(way, VerifierLogLevel::DEBUG | VerifierLogLevel::STATS);
    let Err(ProgramError::LoadError { verifier_log, .. }) = load(&mut ebpf, program) else { return String::new() };
    let log = verifier_log.to_string();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(STEPS)..].iter().map(|line| format!("    {line}\n")).collect()
}

fn load(ebpf: &mut Ebpf, name: &str) -> Result<ProgramInfo, ProgramError> {
    match ebpf.program_mut(name).unwrap() {
        Program::Xdp(program) => {
            program.load()?;
            program.info()
        }
        Program::CgroupSockAddr(program) => {
            program.load()?;
            program.info()
        }
        Program::SchedClassifier(program) => {
            program.load()?;
            program.info()
        }
        other => panic!("{name} is of a type that this test cannot load yet: {:?}", other.prog_type()),
    }
}

/// The word that follows `label`.
fn after<'a>(text: &'a str, label: &str) -> &'a str {
    let (_, rest) = text.split_once(label).unwrap_or_else(|| panic!("{label:?} should be told: {text}"));
    rest.split_whitespace().next().unwrap_or_default()
}

fn number(text: &str, label: &str) -> u32 {
    after(text, label).parse().unwrap_or_else(|_| panic!("a number should follow {label:?}: {text}"))
}
