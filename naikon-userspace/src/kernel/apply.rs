//! Applies a delta to the kernel's tables and tries, or undoes it; makes tables anew where they do not serve. In what order
//! stands in [`crate::tables`].

use crate::{
    delta::{Delta, Op},
    hook::Spot,
    ruleset::Rule,
    tables::{Change, Counts, Set, Shape, Tries},
};
use aya::Ebpf;
use naikon_ebpf::abi;

use super::{
    Kernel,
    attach::{Attachment, Hold},
    error::{ErrorKind, KernelError},
    filter, load, load_program,
    memory::Mapped,
    netlink, program, seeds,
    tables::{Tables, require_room, wait_for_readers},
};

/// How much more than now tables hold that can never be made anew.
const HEADROOM: u64 = 4;

/// What is to be done as soon as a change is enforced, before the tries are complete.
pub type Enforced<'a> = &'a mut dyn FnMut(&mut Kernel) -> Result<(), KernelError>;

/// A refused apply.
#[derive(Debug)]
pub struct Refused {
    /// What the kernel refused.
    pub error: KernelError,
    /// The rules lie between the old and the new set: read them back before the next apply.
    pub tables_unknown: bool,
}

/// The tries, written to while programs may read them, or not.
struct Watched<'a> {
    tables: &'a mut Tables,
    has_readers: bool,
}

impl Tries for Watched<'_> {
    type Error = KernelError;

    fn write(&mut self, op: &Op) -> Result<(), KernelError> {
        self.tables.write(op)
    }

    fn write_many(&mut self, ops: &[Op]) -> Result<(), (usize, KernelError)> {
        self.tables.write_many(ops)
    }

    fn wait_for_readers(&mut self) {
        if self.has_readers {
            wait_for_readers();
        }
    }
}

/// Tables for this much. Without pins they may have to hold far more one day.
pub(super) fn shape(counts: &Counts, has_pins: bool) -> Result<Shape, KernelError> {
    let shape = Shape::new(counts, seeds()?, if has_pins { 1 } else { HEADROOM });
    Ok(if has_pins { shape } else { Shape { spill: abi::SPILL_MAX, ..shape } })
}

impl Kernel {
    /// Makes the kernel's rules those that `delta` leads to from `rules_now`, and counts a generation. All or nothing.
    /// `enforced` is called when every address has its new answer, before the tries are complete.
    ///
    /// # Errors
    ///
    /// When the kernel, or `enforced`, refuses. The old rules are enforced again, unless undoing failed too: then
    /// [`Refused::tables_unknown`] says to read the tables back before the next apply.
    pub fn apply(&mut self, delta: &Delta, rules_now: &[Rule], enforced: Enforced<'_>) -> Result<u64, Refused> {
        let refused = |error| Refused { error, tables_unknown: false };
        self.audit = None;
        require_room(delta, rules_now).map_err(refused)?;
        let generation = self.generation().map_err(refused)?;
        self.tables.set_meta(abi::META_APPLYING, generation + 1).map_err(refused)?;
        if let Err(error) = self.make_room(delta, rules_now) {
            self.tables.set_meta(abi::META_APPLYING, 0).map_err(refused)?;
            return Err(refused(error));
        }
        // A program of an earlier process may be on a pinned link, with tables that ask the tries elsewhere.
        // The same rules in place of another ABI's are no new set.
        let is_same = rules_now.is_empty() && self.is_former(delta.ops.iter().filter_map(added));
        let next = if is_same { generation } else { generation + 1 };
        let is_watched = self.pins.is_some() && self.attachments.is_empty() && !rules_now.is_empty();
        let mut change = Change::announce(delta, &mut self.set, is_watched);
        let outcome = self.follow(&mut change, enforced);
        match outcome {
            Ok(()) => {
                self.tables.set_meta(abi::META_GENERATION, next).map_err(refused)?;
                self.tables.set_meta(abi::META_APPLYING, 0).map_err(refused)?;
                Ok(next)
            }
            Err(error) => match self.both(|set, tries| change.undo(set, tries)) {
                Ok(()) => {
                    self.tables.set_meta(abi::META_APPLYING, 0).map_err(refused)?;
                    Err(refused(error))
                }
                Err(second) => {
                    tracing::error!("undoing the change: {second}; every address has its old or its new verdict");
                    self.is_filled = false;
                    Err(Refused { error, tables_unknown: true })
                }
            },
        }
    }

    fn follow(&mut self, change: &mut Change<'_>, enforced: Enforced<'_>) -> Result<(), KernelError> {
        self.both(|set, tries| change.enforce(set, tries))?;
        enforced(self)?;
        self.both(|_, tries| change.complete(tries))
    }

    /// Whether this process has put a program anywhere.
    fn has_attached(&self) -> bool {
        !self.attachments.is_empty() || self.connects.is_some()
    }

    /// Tables and tries, borrowed together.
    fn both<R>(&mut self, work: impl FnOnce(&mut Set<Mapped>, &mut Watched<'_>) -> R) -> R {
        // What is pinned may be the program of an earlier process.
        let has_readers = self.pins.is_some() || self.has_attached();
        work(&mut self.set, &mut Watched { tables: &mut self.tables, has_readers })
    }

    /// Makes the tables say what the tries say, where this process has not done so yet.
    ///
    /// # Errors
    ///
    /// When the kernel refuses new tables.
    pub fn fill(&mut self, rules_now: &[Rule]) -> Result<(), KernelError> {
        if self.is_filled { Ok(()) } else { self.begin(rules_now, &Counts::of(rules_now.iter())) }
    }

    /// Sees to it that the tables serve what the tries hold on the way.
    fn make_room(&mut self, delta: &Delta, rules_now: &[Rule]) -> Result<(), KernelError> {
        let wanted = Counts::of(rules_now.iter()).and(&Counts::of(delta.ops.iter().filter_map(added)));
        if !self.is_filled {
            return self.begin(rules_now, &wanted);
        }
        // Without pins the maps of counters and rules cannot be shared with another load, whether a program is attached now
        // or comes back later.
        if self.pins.is_some() && self.set.is_outgrown(&wanted) {
            // The old ones serve as well, only slower.
            if let Err(error) = self.renew(rules_now, &wanted) {
                tracing::warn!("making larger tables: {error}; lookups get slower");
            }
        }
        Ok(())
    }

    /// Fills the tables that came with the program, or larger ones.
    fn begin(&mut self, rules: &[Rule], wanted: &Counts) -> Result<(), KernelError> {
        if !self.set.is_empty() || self.set.is_outgrown(wanted) {
            // Only after a change that could neither be made nor undone: programs would look into empty maps.
            if self.pins.is_none() && self.has_attached() {
                let cause = "without pins another load cannot share the maps of the one that is attached";
                return Err(KernelError::new("making tables anew", ErrorKind::Other, cause)
                    .cure("restart naikon; until then what is enforced lies between two sets of rules"));
            }
            return self.renew(rules, wanted);
        }
        self.set.fill(rules)?;
        self.is_filled = true;
        Ok(())
    }

    /// Makes tables anew, filled with `rules`, and puts the program that reads them on every interface of this process in
    /// place of the one before: it gives the same answers.
    pub(super) fn renew(&mut self, rules: &[Rule], wanted: &Counts) -> Result<(), KernelError> {
        let shape = shape(wanted, self.pins.is_some())?;
        let mut ebpf = load(&self.settings, self.pins.as_ref(), &shape)?;
        let mut tables = Tables::take(&mut ebpf)?;
        let mut set = Set::new(Mapped::take(&mut ebpf, &shape)?, shape);
        set.fill(rules)?;
        self.loggers.follow(&mut ebpf)?;
        self.reporters.follow(&mut ebpf)?;
        if self.pins.is_none() {
            // These maps are new as well: the names go over, and the rules, which the tables do not all answer for.
            self.carry_names(&mut tables)?;
            let rules: Vec<Op> = rules.iter().map(|rule| Op::Add(*rule)).collect();
            tables.write_many(&rules).map_err(|(_, error)| error)?;
        }
        self.put_connects(&ebpf)?;
        if let Err(error) = self.put_on_links(&mut ebpf) {
            self.put_back_connects(usize::MAX);
            return Err(error);
        }
        (self.ebpf, self.set, self.tables) = (ebpf, set, tables);
        (self.is_filled, self.audit) = (true, None);
        if let Some(Err(error)) = self.pins.as_ref().map(|pins| pins.forget_programs(&self.ebpf)) {
            tracing::warn!("{error}; they are forgotten another time");
        }
        Ok(())
    }

    /// Puts the programs of another load, which give the same answers, at every hook of this process, or at none.
    fn put_on_links(&mut self, ebpf: &mut Ebpf) -> Result<(), KernelError> {
        for (spot, attachment) in &self.attachments {
            load_program(ebpf, self.settings.entry_point(spot.point, attachment.is_raw))?;
        }
        self.pins.as_ref().map_or(Ok(()), |pins| pins.write_down(ebpf))?;
        for (done, (spot, attachment)) in self.attachments.iter().enumerate() {
            let entry = self.settings.entry_point(spot.point, attachment.is_raw);
            let Err(error) = put(ebpf, entry, *spot, attachment) else { continue };
            for (spot, attachment) in self.attachments.iter().take(done) {
                let entry = self.settings.entry_point(spot.point, attachment.is_raw);
                // What looks after the interfaces finds one that does not go back, and attaches it anew.
                if let Err(second) = put(&mut self.ebpf, entry, *spot, attachment) {
                    tracing::error!("{second}; it is attached anew");
                }
            }
            return Err(error);
        }
        if !self.attachments.is_empty() {
            wait_for_readers();
        }
        Ok(())
    }
}

/// The rule that an operation adds.
fn added(op: &Op) -> Option<&Rule> {
    if let Op::Add(rule) = op { Some(rule) } else { None }
}

/// Puts a program at a hook in place of the one that is there.
fn put(ebpf: &mut Ebpf, entry: &'static str, spot: Spot, attachment: &Attachment) -> Result<(), KernelError> {
    load_program(ebpf, entry)?;
    match &attachment.hold {
        Hold::Filter => match netlink::interfaces()?.get(&spot.ifindex) {
            Some(interface) => filter::put(ebpf, entry, &interface.name, spot.point, true),
            // What looks after the interfaces cleans up.
            None => Ok(()),
        },
        Hold::Link(link) => link.update(program(ebpf, entry)?).map_err(|error| {
            KernelError::of(format!("replacing the {} program on {}", spot.point, attachment.interface), &error)
        }),
    }
}
