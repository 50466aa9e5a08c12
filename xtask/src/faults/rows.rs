//! Every kind of fault that naikon is made for, and what its user then gets: the rows of `docs/faults.md`.
//!
//! A row is a promise. Which tests keep it, they say themselves, above their names; a row that no test can keep yet says here why.

/// One kind of fault.
pub(super) struct Row {
    /// What tests call it: `/// Fault: id.`
    pub(super) id: &'static str,
    /// What goes wrong.
    pub(super) fault: &'static str,
    /// What the user gets.
    pub(super) gets: &'static str,
    /// Why no test covers it; none when one does.
    pub(super) untested: Option<&'static str>,
}

const fn row(id: &'static str, fault: &'static str, gets: &'static str) -> Row {
    Row { id, fault, gets, untested: None }
}

/// Headlines and what stands below.
pub(super) const GROUPS: [(&str, &[Row]); 3] = [
    (
        "Lists",
        &[
            row(
                "cut-write",
                "a list is read while somebody writes it in place",
                "the old set, until the writer closes the file or two looks see the same",
            ),
            row("replaced", "a list is renamed over, or swapped behind a link", "the new set within 2 s"),
            row(
                "unreadable",
                "a list is gone, unreadable, a dangling link, a pipe, a device or a directory",
                "the last good content; `naikon_list_up` 0 and a growing age; a daemon that never waits for it",
            ),
            row(
                "empty-list",
                "a list is empty, has comments or a header only, or no object",
                "a refusal, unless `allow_empty` is set",
            ),
            row(
                "not-text",
                "a list is binary, packed, UTF-16, an error page, or of another format than it was",
                "a refusal that names the place, or the list that was meant",
            ),
            row(
                "oversized",
                "a list is endless, or has too many lines, a line too long, or nests too deep",
                "an early refusal, in bounded memory",
            ),
            row(
                "spellings",
                "NUL, byte order mark, carriage returns, invalid UTF-8, odd spellings of addresses",
                "what was surely meant, with a notice; the rest is refused and named",
            ),
            row(
                "duplicates",
                "an address stands twice, in networks of the same list or in two lists",
                "it stays enforced while any list has it",
            ),
            row(
                "poisoning",
                "a list holds the gateway's own addresses, its routers and resolvers, private or special space",
                "these entries are refused and counted; the gateway's connections hold",
            ),
            row(
                "not-a-block",
                "an indicator is withdrawn, expired, not for detection, or a pattern that says more than an address",
                "only what surely is an address to block is taken; the rest is named",
            ),
            row("back-in-time", "a list gets an older content or an older time", "its content decides, not its time"),
            row(
                "big-change",
                "a new version removes most of a list, or covers far more addresses",
                "a refusal, unless it is forced",
            ),
        ],
    ),
    (
        "Kernel",
        &[
            row(
                "overflow",
                "more prefixes than the kernel's map holds",
                "a refusal of the whole; never the first so many",
            ),
            row(
                "no-memory",
                "the kernel has no memory in the middle of a change",
                "the old set; the change is tried again, and counted",
            ),
            row(
                "killed",
                "the daemon is killed at any moment",
                "enforcement goes on from the pins; the next start takes over, and finishes or undoes",
            ),
            row(
                "interrupted",
                "signals come while the kernel looks at a program, or the process is stopped",
                "SIGHUP waits until the program is loaded; one that was cut short is offered again, five times in all",
            ),
            row("terminated", "the daemon is told to end", "what `--on-exit` says"),
            row("two-daemons", "a second daemon starts", "it exits 7 and has touched nothing"),
            row(
                "other-abi",
                "pins of an older or newer version are there",
                "new maps and programs take over without a gap; the old ones go last",
            ),
            row(
                "foreign-pin",
                "somebody else's pin, or a corrupt one, has our name",
                "exit 8 that names it; it is left alone",
            ),
            row(
                "interface-churn",
                "an interface goes, comes back, changes its name, goes down and up",
                "it is protected again within a second, and `naikon_attached` tells",
            ),
            row("foreign-program", "somebody else's XDP program is there", "exit 8 that names it; it is left alone"),
            row(
                "link-detached",
                "somebody detaches our program behind our back",
                "it is attached again within 5 s, and counted",
            ),
            row("no-native-xdp", "the driver has no XDP", "generic mode, said; or exit 5 with `--mode native`"),
            row("no-capability", "a capability is missing", "exit 3 that names it, before anything changes"),
            row(
                "old-kernel",
                "the kernel lacks what newer ones have",
                "naikon does without and says so in `status`; below 5.10 exit 4",
            ),
            row("no-bpffs", "there is no file system for pins, or it is read-only", "exit 4 with the cure"),
        ],
    ),
    (
        "Metrics, control and the machine",
        &[
            row("port-taken", "the port of the metrics is taken", "enforcement without it; the port is tried again"),
            row(
                "hostile-scraper",
                "scrapers that are slow, many, half open or send without end",
                "limits and deadlines; reloads as fast as before",
            ),
            row("many-indicators", "very long lists", "no more metric series than with short ones"),
            row(
                "event-flood",
                "more reports or events than anybody reads",
                "verdicts that depend on none of them, and exact counts of what was lost",
            ),
            row("clock-jump", "the clock jumps by years", "no entry expires at once; counters go on"),
            row(
                "disk-full",
                "the disk is full, or nobody reads the log",
                "enforcement and reloads go on; lost lines are counted",
            ),
            row("reload-storm", "requests to reload, or changes, without end", "one reload runs and one waits"),
            row(
                "reload-under-flood",
                "reloads while listed and clean packets pour in",
                "no packet of an unchanged indicator passes, no clean one is dropped",
            ),
            row(
                "hostile-client",
                "nonsense, masses, half requests and strangers at the control socket",
                "limits, deadlines, and only those served who may ask",
            ),
            row(
                "wrong-config",
                "the configuration is wrong at a reload",
                "it is refused whole; the old one stays, and it is told until one is taken",
            ),
            row(
                "power-loss",
                "the machine stops while state is written, and starts without network",
                "the state is the old or the new one; the last good lists are enforced",
            ),
        ],
    ),
];
