//! Map names, keys, values and their meaning: everything that outlives one process or crosses into the kernel.
//!
//! Rules: integers and byte arrays only; addresses are `[u8; 4]` or `[u8; 16]` in network order; no padding. Any
//! change of a name, a layout or a meaning of a pinned map raises [`ABI_VERSION`], which is part of their path. The tables in
//! front of the tries belong to one load of the program and are not pinned: whoever adopts the pins makes tables of its own.
//!
//! # What every ABI keeps
//!
//! An upgrade, and a downgrade, meets the pins of another ABI, and knows of it only what is the same for ever:
//!
//! * Names of directories and links: `v<ABI_VERSION>/<MAP>`, `<hook>-<ifindex>`, those of [`PROGRAMS_CONNECT`]; and the lock.
//! * A map's name and layout (type, key size, value size, entries, flags) say what is in it. A new meaning takes a new name, or
//!   another layout. So [`HANDED_ON`] of another ABI that have our layout are ours as they are.
//! * Ids and slots belong to a name in [`NAMES`], which has a key of 256 bytes and a `u32`, with however many entries.
//! * [`META`] is an array of `u64` that begins with the generation.
//! * [`COUNTERS`] of another layout are read where they begin as ours do: [`HITS`] has the key of [`hits_key`] and a value that begins
//!   with packets and bytes, [`CONNECTS`] an id and our counters first, both values of up to [`COUNTER_WORDS_MAX`] words;
//!   [`FRAMES`] counts in `u64` by [`frames_index`]. What else they count is not ours to tell. Where that cannot be kept, the
//!   counter takes a new name, and the code that knows both reads the old one for as long as there may be any.

/// Version of the pinned maps. Not the product's version.
pub const ABI_VERSION: u32 = 1;

/// LPM trie, `[u8; 4]` to [`Action`]: every IPv4 prefix. The source of truth for IPv4.
pub const RULES_V4: &str = "RULES_V4";
/// LPM trie, `[u8; 16]` to [`Action`]: every IPv6 prefix. The source of truth for IPv6.
pub const RULES_V6: &str = "RULES_V6";
/// Array of words, mapped by its writer: [`crate::subnets`] of IPv4. This and the following up to [`ACTIONS`] are not
/// pinned and get their size at load.
pub const SUBNETS_V4: &str = "SUBNETS_V4";
/// As [`SUBNETS_V4`], of IPv6.
pub const SUBNETS_V6: &str = "SUBNETS_V6";
/// Array of words, mapped: [`crate::bloom`] in front of [`HOSTS`].
pub const BLOOM_V4: &str = "BLOOM_V4";
/// Array of words, mapped: [`crate::bloom`] in front of [`PREFIXES`].
pub const BLOOM_V6: &str = "BLOOM_V6";
/// Array of lines, mapped: [`crate::hosts`].
pub const HOSTS: &str = "HOSTS";
/// Hash, address as `u32` number to class (`u32`): hosts that found their line full.
pub const HOSTS_SPILL: &str = "HOSTS_SPILL";
/// Array of words, mapped: the directory of [`crate::networks`].
pub const NETWORKS: &str = "NETWORKS";
/// Array of words, mapped: the pages of [`crate::networks`].
pub const PAGES: &str = "PAGES";
/// Array of lines, mapped: [`crate::prefixes`].
pub const PREFIXES: &str = "PREFIXES";
/// Hash, [`spill_key`] to class (`u32`): IPv6 prefixes that found their line full.
pub const PREFIXES_SPILL: &str = "PREFIXES_SPILL";
/// Array of [`CLASSES`] words, mapped: the [`Action`] of each class.
pub const ACTIONS: &str = "ACTIONS";
/// Array of [`INTERFACES_LEN`] `u64`, see [`interface_entry`]: which counter slot an interface uses, and whether what comes
/// in there has been judged.
pub const INTERFACES: &str = "INTERFACES";
/// Per-CPU array of `u64`, by [`frames_index`]: frames that passed or could not be read, by interface slot.
pub const FRAMES: &str = "FRAMES";
/// Per-CPU hash, [`hits_key`] to packets and bytes (`[u64; 2]`). User space makes the entries before the first frame
/// can need them, the kernel only adds; hence a hit is never lost to a failed allocation. What is counted stands in
/// the key, not at an offset in the value: without CAP_PERFMON the verifier refuses offsets that differ by path
/// (`sanitize_ptr_alu`).
pub const HITS: &str = "HITS";
/// Per-CPU hash, id of a list (`u32`) to [`crate::report::CONNECT_CELLS`] counters: calls of local processes that were
/// refused or reported. User space makes the entries, as it does those of [`HITS`].
pub const CONNECTS: &str = "CONNECTS";
/// Ring buffer of [`crate::report::Report`]: who called whom. It belongs to one load of the programs.
pub const REPORTS: &str = "REPORTS";
/// Per-CPU array, one `u64`: reports that found no room in [`REPORTS`] of the same load.
pub const REPORTS_LOST: &str = "REPORTS_LOST";
/// LRU hash, [`PairKey`](crate::pair::PairKey) to [`Pair`](crate::pair::Pair): internal hosts that called an indicator. Its number of
/// entries is the operator's choice when it is made.
pub const PAIRS_TO: &str = "PAIRS_TO";
/// As [`PAIRS_TO`]: internal hosts that an indicator called or answered.
pub const PAIRS_FROM: &str = "PAIRS_FROM";
/// Ring buffer of [`Event`](crate::event::Event), pinned: what nobody has read yet outlives who should have.
pub const EVENTS: &str = "EVENTS";
/// Per-CPU array of [`EVENT_COUNTS_LEN`](crate::event::EVENT_COUNTS_LEN) `u64`: what became of the events of hits.
pub const EVENT_COUNTS: &str = "EVENT_COUNTS";
/// Perf event array: an [`Event`](crate::event::Event) and the packet's first bytes, of every hit while [`CAPTURE`] asks for them.
pub const CAPTURES: &str = "CAPTURES";
/// Array of one `u32`: how many bytes of a packet are captured at most, 0 for none at all.
pub const CAPTURE: &str = "CAPTURE";
/// Hash, [`NameKey`] to `u32`: the id of a list or the slot of an interface, by name, for ever (until detach).
/// Only user space reads it; it is pinned so that counters keep their names over a crash. Beside them stand the programs that are
/// naikon's.
pub const NAMES: &str = "NAMES";
/// Array of [`META_LEN`] `u64`: generation and the mark of an unfinished apply. Only user space reads it.
pub const META: &str = "META";

/// Maps that the next ABI goes on with, if they have the same layout. The rules are not among them: they follow from the lists.
pub const HANDED_ON: [&str; 10] =
    [META, NAMES, INTERFACES, HITS, FRAMES, CONNECTS, PAIRS_TO, PAIRS_FROM, EVENTS, EVENT_COUNTS];
/// Maps whose content cannot be made again. Those of another layout are kept for their counts, as `<MAP>-<kernel id>`.
pub const COUNTERS: [&str; 3] = [HITS, FRAMES, CONNECTS];
/// Most words of a value of [`HITS`] and [`CONNECTS`], in whatever ABI.
pub const COUNTER_WORDS_MAX: usize = 8;

/// Where a program stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// XDP; frames of several buffers come from kernel 5.18 on.
    Xdp {
        /// Such frames are taken.
        frags: bool,
    },
    /// TC ingress.
    Ingress,
    /// TC egress.
    Egress,
}

/// The name of the program for a place, for packets that begin with their IP header (`raw`) or with an Ethernet header, with
/// a log of every decision (`trace`) or without.
#[must_use]
pub const fn entry_point(place: Place, raw: bool, trace: bool) -> &'static str {
    match (place, raw, trace) {
        (Place::Xdp { frags: true }, false, false) => "naikon_frags",
        (Place::Xdp { frags: false }, false, false) => "naikon",
        (Place::Ingress, false, false) => "ingress",
        (Place::Egress, false, false) => "egress",
        (Place::Xdp { frags: true }, true, false) => "raw_frags",
        (Place::Xdp { frags: false }, true, false) => "raw",
        (Place::Ingress, true, false) => "raw_ingress",
        (Place::Egress, true, false) => "raw_egress",
        (Place::Xdp { frags: true }, false, true) => "trace_frags",
        (Place::Xdp { frags: false }, false, true) => "trace",
        (Place::Ingress, false, true) => "trace_ingress",
        (Place::Egress, false, true) => "trace_egress",
        (Place::Xdp { frags: true }, true, true) => "trace_raw_frags",
        (Place::Xdp { frags: false }, true, true) => "trace_raw",
        (Place::Ingress, true, true) => "trace_raw_ingress",
        (Place::Egress, true, true) => "trace_raw_egress",
    }
}

/// As [`entry_point`], the program that follows tunnels, labels and routes.
#[must_use]
pub const fn deep_entry_point(place: Place, raw: bool, trace: bool) -> &'static str {
    match (place, raw, trace) {
        (Place::Xdp { frags: true }, false, false) => "deep_frags",
        (Place::Xdp { frags: false }, false, false) => "deep",
        (Place::Ingress, false, false) => "deep_ingress",
        (Place::Egress, false, false) => "deep_egress",
        (Place::Xdp { frags: true }, true, false) => "deep_raw_frags",
        (Place::Xdp { frags: false }, true, false) => "deep_raw",
        (Place::Ingress, true, false) => "deep_raw_ingress",
        (Place::Egress, true, false) => "deep_raw_egress",
        (Place::Xdp { frags: true }, false, true) => "deep_trace_frags",
        (Place::Xdp { frags: false }, false, true) => "deep_trace",
        (Place::Ingress, false, true) => "deep_trace_ingress",
        (Place::Egress, false, true) => "deep_trace_egress",
        (Place::Xdp { frags: true }, true, true) => "deep_trace_raw_frags",
        (Place::Xdp { frags: false }, true, true) => "deep_trace_raw",
        (Place::Ingress, true, true) => "deep_trace_raw_ingress",
        (Place::Egress, true, true) => "deep_trace_raw_egress",
    }
}

/// Read-only global `u32`: how many NAT64 prefixes of the operator's own there are.
pub const NAT64_COUNT: &str = "NAT64_COUNT";
/// Read-only global, `u64`: the [`words`](crate::embedded::Nat64::words) of each of them, [`NAT64_MAX`](crate::embedded::NAT64_MAX) times.
pub const NAT64: &str = "NAT64";
/// Entry points at a cgroup, each named as its hook: connect(2) and sendmsg(2) of both families.
pub const PROGRAMS_CONNECT: [&str; 4] = ["connect4", "connect6", "sendmsg4", "sendmsg6"];
/// The same, for naikon without `CAP_PERFMON`, to whom newer kernels do not tell the process's name.
pub const PROGRAMS_NAMELESS: [&str; 4] = ["nameless_c4", "nameless_c6", "nameless_s4", "nameless_s6"];

/// Read-only global `u8`: 1 looks for ISATAP addresses in calls of local processes, as `--deep` does in frames.
pub const ISATAP: &str = "ISATAP";

/// Read-only global `u8`: 1 drops the frames that the walk cannot read, 0 passes them.
pub const UNPARSED_DROP: &str = "UNPARSED_DROP";

/// Read-only globals `u32`: the seeds and shifts of the tables, drawn and measured at load. Not set, as the
/// sizes of the tables are not, nothing is found.
pub const SUBNETS_SEED: &str = "SUBNETS_SEED";
/// See [`SUBNETS_SEED`].
pub const SUBNETS_V4_SHIFT: &str = "SUBNETS_V4_SHIFT";
/// See [`SUBNETS_SEED`].
pub const SUBNETS_V6_SHIFT: &str = "SUBNETS_V6_SHIFT";
/// See [`SUBNETS_SEED`]; `u64`.
pub const HASH_SEED_A: &str = "HASH_SEED_A";
/// See [`SUBNETS_SEED`]; `u64`.
pub const HASH_SEED_B: &str = "HASH_SEED_B";
/// See [`SUBNETS_SEED`]; 0 switches the filter off.
pub const BLOOM_V4_SHIFT: &str = "BLOOM_V4_SHIFT";
/// See [`SUBNETS_SEED`].
pub const BLOOM_V6_SHIFT: &str = "BLOOM_V6_SHIFT";
/// See [`SUBNETS_SEED`].
pub const HOSTS_SEED_A: &str = "HOSTS_SEED_A";
/// See [`SUBNETS_SEED`].
pub const HOSTS_SEED_B: &str = "HOSTS_SEED_B";
/// See [`SUBNETS_SEED`].
pub const HOSTS_SHIFT: &str = "HOSTS_SHIFT";
/// See [`SUBNETS_SEED`].
pub const PREFIXES_SHIFT: &str = "PREFIXES_SHIFT";

/// Classes that stand for an action, nothing or the trie, see [`crate::lookup`].
pub const CLASSES: u32 = 128;
/// Most entries of each spill map. Entries are allocated when they are made, but 16 bytes for each of the bound at once
/// (`htab_map_alloc`), so loads that can be replaced by larger ones take less.
pub const SPILL_MAX: u32 = 1 << 20;

/// Most prefixes of one family. The tries take memory per entry, not for this bound; it is as high as kernel
/// 5.10 allows, which charges the whole bound to RLIMIT_MEMLOCK (`trie_alloc`, below 4 GiB).
pub const RULES_MAX: u32 = 1 << 24;
/// Interfaces are found by the low 16 bits of their index.
pub const INTERFACES_LEN: u32 = 1 << 16;
/// Slots of interface names between two detaches; 64 bytes per CPU each, see [`frames_index`].
pub const SLOTS_MAX: u32 = 1024;
/// The last slot: what has no counter of its own is counted there, so that no verdict waits for one. Interfaces whose name came
/// after all other slots were given, those without an entry in [`INTERFACES`], and pairs of a list and an interface without cells
/// in [`HITS`].
pub const SLOT_OTHERS: u16 = SLOTS_MAX as u16 - 1;
/// The name of [`SLOT_OTHERS`]. No interface can bear it: the kernel allows neither blanks nor 16 bytes (`dev_valid_name`).
pub const OTHERS: &str = "other interfaces";
/// Most list names between two detaches; bounded by the 16 bits of [`Action::list`].
pub const LISTS_MAX: u32 = 1 << 16;
/// Most cells of [`HITS`]: 65536 pairs of a list and an interface. A cell takes 16 bytes per CPU, and only when it
/// exists.
pub const HITS_MAX: u32 = (1 << 16) * HIT_CELLS as u32;
/// Most of these pairs that have cells of their own; the rest is for those of lists with [`SLOT_OTHERS`].
pub const OWN_PAIRS_MAX: usize = 3 << 14;

/// A page, the least that there is, where no program writes to [`REPORTS`].
pub const REPORTS_BYTES_LEAST: u32 = 1 << 12;
/// Room for over two thousand reports, which the daemon takes within milliseconds.
pub const REPORTS_BYTES: u32 = 1 << 18;

/// Room for some nine thousand events: those of seconds of the worst flood.
pub const EVENTS_BYTES: u32 = 1 << 20;

/// Counters of one interface slot in [`FRAMES`]; the rest is spare.
pub const FRAME_KINDS: u32 = 8;
/// Kind of the frames that passed, for whatever reason.
pub const FRAME_PASSED: u32 = 0;
/// First of the four unparsed kinds, in the order of [`packet::Unparsed`](crate::packet::Unparsed).
pub const FRAME_UNPARSED: u32 = 1;

/// Cells of a (list, interface) pair in [`HITS`]: action x direction x family.
pub const HIT_CELLS: u16 = 8;

/// Words of [`META`].
pub const META_LEN: u32 = 2;
/// Index in [`META`]: sets applied so far.
pub const META_GENERATION: u32 = 0;
/// Index in [`META`]: the generation that an apply leads to while it is under way, or that it led to when its process died.
/// Zero, and a generation that has been reached, mean that none is.
pub const META_APPLYING: u32 = 1;

/// Key of [`NAMES`]: the kind, then the name, then zeros.
pub type NameKey = [u8; 256];
/// First byte of a [`NameKey`] of a list.
pub const NAME_LIST: u8 = 1;
/// First byte of a [`NameKey`] of an interface.
pub const NAME_INTERFACE: u8 = 2;
/// First byte of a [`NameKey`] of a program: its kernel id in decimal digits, as long as a pinned link may hold it. The value means
/// nothing. By these a link of ours is told from one that somebody else pinned under its name.
pub const NAME_PROGRAM: u8 = 3;

/// The stored answer for a prefix: what to do, and on account of which list.
///
/// A `u32` because the value follows the key in the kernel's trie node, where a `u64` after a 4-byte key would be
/// misaligned (`struct lpm_trie_node`). The kind stands in the high half, so kinds compare as integers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Action(u32);

impl Action {
    /// No prefix holds the address. Never stored.
    pub const NONE: Action = Action(0);
    /// No answer although a wider prefix has one: what must not be dropped for this form of an address, but may be for
    /// another one. Guards are such holes.
    pub const HOLE: Action = Action(1);
    /// Never dropped, whatever else holds any form of the address: allowlists.
    pub const PASS: Action = Action(3 << 16);

    /// Count and let pass on account of `list`.
    #[must_use]
    #[inline(always)]
    pub const fn monitor(list: u16) -> Self {
        Action((1 << 16) | list as u32)
    }

    /// Drop on account of `list`.
    #[must_use]
    #[inline(always)]
    pub const fn drop(list: u16) -> Self {
        Action((2 << 16) | list as u32)
    }

    /// The stored form.
    #[must_use]
    #[inline(always)]
    pub const fn to_raw(self) -> u32 {
        self.0
    }

    /// Back from the stored form; what this version never wrote is `None`.
    #[must_use]
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw >> 16 {
            1 | 2 => Some(Action(raw)),
            0 if raw == Self::HOLE.0 => Some(Self::HOLE),
            3 if raw == Self::PASS.0 => Some(Self::PASS),
            _ => None,
        }
    }

    /// Back from a value of the tries, which only [`Action::to_raw`] fills.
    #[must_use]
    #[inline(always)]
    pub const fn from_trie(raw: u32) -> Self {
        Action(raw)
    }

    /// Strength: pass 3 beats drop 2 beats monitor 1 beats none and hole 0.
    #[must_use]
    #[inline(always)]
    pub const fn rank(self) -> u32 {
        self.0 >> 16
    }

    /// The list on whose account a drop or monitor happens.
    #[must_use]
    #[inline(always)]
    pub const fn list(self) -> u16 {
        (self.0 & 0xffff) as u16
    }

    /// Whether frames are dropped.
    #[must_use]
    #[inline(always)]
    pub const fn is_drop(self) -> bool {
        self.rank() == 2
    }

    /// Whether frames are counted and let pass.
    #[must_use]
    #[inline(always)]
    pub const fn is_monitor(self) -> bool {
        self.rank() == 1
    }

    /// Whether the address is allowed.
    #[must_use]
    #[inline(always)]
    pub const fn is_pass(self) -> bool {
        self.rank() == 3
    }

    /// The stronger of two forms of one address; `self` where they are equally strong, so the first form that
    /// decides names the list.
    #[must_use]
    #[inline(always)]
    pub const fn or_stronger(self, other: Self) -> Self {
        if other.rank() > self.rank() { other } else { self }
    }
}

/// Which endpoint of the frame is the indicator.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// The destination is listed: an internal host calls it.
    To,
    /// The source is listed: it calls, or answers, an internal host.
    From,
}

/// Family of the frame's (outer) IP header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Which of the [`HIT_CELLS`] counts such a hit.
#[must_use]
#[inline(always)]
pub const fn hit_cell(action: Action, direction: Direction, family: Family) -> u16 {
    let monitored = if action.is_monitor() { 4 } else { 0 };
    let from = match direction {
        Direction::To => 0,
        Direction::From => 2,
    };
    let v6 = match family {
        Family::V4 => 0,
        Family::V6 => 1,
    };
    monitored + from + v6
}

/// Key of [`HITS`]: list, slot and cell, 16 bits each.
#[must_use]
#[inline(always)]
pub const fn hits_key(list: u16, slot: u16, cell: u16) -> u64 {
    ((list as u64) << 32) | ((slot as u64) << 16) | cell as u64
}

/// The list, slot and cell of a key of [`HITS`].
#[must_use]
pub const fn hits_parts(key: u64) -> (u16, u16, u16) {
    ((key >> 32) as u16, (key >> 16) as u16, key as u16)
}

/// Key of [`PREFIXES_SPILL`]: the halves of the prefix, then its level.
#[must_use]
#[inline(always)]
pub const fn spill_key(key: crate::prefixes::Key) -> [u64; 3] {
    let [high, low] = key.halves;
    [high, low, key.level as u64]
}

/// Index of [`FRAMES`]. `kind` is below [`FRAME_KINDS`].
#[must_use]
#[inline(always)]
pub const fn frames_index(slot: u16, kind: u32) -> u32 {
    slot as u32 * FRAME_KINDS + kind
}

/// Index of an interface in [`INTERFACES`].
#[must_use]
#[inline(always)]
pub const fn interface_index(ifindex: u32) -> u32 {
    ifindex & (INTERFACES_LEN - 1)
}

/// Slot of an interface that carries no program of ours.
pub const NO_SLOT: u16 = u16::MAX;
/// Bit of an entry of [`INTERFACES`]: what comes in here has been judged and counted, here or on a device below. It decides of
/// counts alone: another network namespace has other interfaces of these indexes, and its packets come by, too.
const JUDGED: u64 = 1 << 16;

/// Value of [`INTERFACES`]: the whole interface index, so that an index which shares the low bits is told apart, whether what
/// comes in there has been judged, and the slot. Zero is free (no interface has index 0).
#[must_use]
#[inline(always)]
pub const fn interface_entry(ifindex: u32, slot: u16, judged: bool) -> u64 {
    ((ifindex as u64) << 32) | if judged { JUDGED } else { 0 } | slot as u64
}

/// The slot of `ifindex` in its entry of [`INTERFACES`], if the entry is its own and it has one.
#[must_use]
#[inline(always)]
pub const fn slot_of(entry: u64, ifindex: u32) -> Option<u16> {
    if entry >> 32 == ifindex as u64 && entry as u16 != NO_SLOT { Some(entry as u16) } else { None }
}

/// Whether what came in on `ifindex` has been judged, by its entry of [`INTERFACES`].
#[must_use]
#[inline(always)]
pub const fn is_judged(entry: u64, ifindex: u32) -> bool {
    entry & JUDGED != 0 && entry >> 32 == ifindex as u64
}

const _: () = {
    assert!(size_of::<NameKey>() == 256);
    assert!(SLOTS_MAX <= NO_SLOT as u32);
    assert!(OTHERS.len() > 15);
    assert!(OWN_PAIRS_MAX * (HIT_CELLS as usize) < HITS_MAX as usize);
    assert!(hit_cell(Action::monitor(0), Direction::From, Family::V6) < HIT_CELLS);
    assert!(FRAME_UNPARSED + crate::packet::Unparsed::COUNT as u32 <= FRAME_KINDS);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stronger_action_wins_and_the_first_of_equals_names_the_list() {
        let (monitor, drop) = (Action::monitor(1), Action::drop(2));
        assert_eq!(Action::NONE.or_stronger(monitor), monitor);
        assert_eq!(monitor.or_stronger(drop), drop);
        assert_eq!(drop.or_stronger(Action::PASS), Action::PASS);
        assert_eq!(drop.or_stronger(Action::drop(7)), drop);
    }

    #[test]
    fn raw_form_round_trips_and_foreign_values_are_refused() {
        for action in [Action::PASS, Action::HOLE, Action::drop(0), Action::drop(u16::MAX), Action::monitor(9)] {
            assert_eq!(Action::from_raw(action.to_raw()), Some(action));
        }
        for raw in [0, 2, (3 << 16) | 1, 4 << 16, u32::MAX] {
            assert_eq!(Action::from_raw(raw), None, "{raw:#x}");
        }
    }

    #[test]
    fn hit_cells_are_disjoint() {
        let mut seen = [false; HIT_CELLS as usize];
        for action in [Action::drop(0), Action::monitor(0)] {
            for direction in [Direction::To, Direction::From] {
                for family in [Family::V4, Family::V6] {
                    let cell = hit_cell(action, direction, family);
                    assert!(!core::mem::replace(&mut seen[usize::from(cell)], true), "cell {cell} is used twice");
                }
            }
        }
        assert_eq!(hits_parts(hits_key(7, 1023, 5)), (7, 1023, 5));
    }

    #[test]
    fn interface_that_shares_the_low_bits_is_told_apart() {
        let entry = interface_entry(7, 3, true);
        assert_eq!((slot_of(entry, 7), is_judged(entry, 7)), (Some(3), true));
        assert!(
            !is_judged(entry, 7 + INTERFACES_LEN) && !is_judged(interface_entry(7, 3, false), 7) && !is_judged(0, 0)
        );
        assert_eq!(slot_of(interface_entry(7, NO_SLOT, true), 7), None);
        assert_eq!(slot_of(entry, 7 + INTERFACES_LEN), None);
        assert_eq!(interface_index(7), interface_index(7 + INTERFACES_LEN));
        assert_eq!(slot_of(0, 7), None);
    }
}
