//! Applies a delta to the kernel's tables and tries, or undoes it; makes tables anew where they do not serve. In what order
//! stands in [`crate::tables`].

use std::{collections::BTreeSet, sync::Arc};

use aya::Ebpf;
use naikon_ebpf::abi;

use super::{
    Kernel,
    attach::{Attachment, Hold},
    error::{ErrorKind, KernelError},
    filter, load, load_program,
    memory::Mapped,
    netlink,
    pins::PinDir,
    program, seeds,
    tables::{Tables, require_room, wait_for_readers},
};
use crate::{
    delta::{Delta, Op},
    hook::Spot,
    progress::{Steps, prefixes},
    ruleset::Rule,
    tables::{Change, Counts, Set, Shape, Tries},
};

/// How much more than now tables hold that can never be made anew.
const HEADROOM: u64 = 4;

/// Of an operation: it is announced, written to the tables, and to a trie.
const STEPS_AN_OPERATION: u64 = 3;

/// What is to be done as soon as a change is enforced, before the tries are complete.
pub type Enforced<'a> = &'a mut dyn FnMut(&mut Kernel) -> Result<(), KernelError>;

/// A change of the kernel's rules that could be neither finished nor undone yet.
pub(super) type Unfinished = Change<Arc<Delta>>;

/// A refused apply.
#[derive(Debug)]
pub struct Refused {
    /// What the kernel refused.
    pub error: KernelError,
    /// Each address has its old or its new verdict: undoing was refused as well, and is gone on with before the next apply.
    pub is_between: bool,
    /// The new rules are enforced all the same, for want of a way back: no second attempt.
    pub is_made: bool,
}

impl Refused {
    fn undone(error: KernelError) -> Self {
        Refused { error, is_between: false, is_made: false }
    }

    fn between(error: KernelError) -> Self {
        Refused { error, is_between: true, is_made: false }
    }
}

/// The tries, written to while programs may read them, or not.
struct Watched<'a> {
    tables: &'a mut Tables,
    has_readers: bool,
    steps: Steps,
}

impl Tries for Watched<'_> {
    type Error = KernelError;

    fn write(&mut self, op: &Op) -> Result<(), KernelError> {
        self.steps.step();
        self.tables.write(op)
    }

    fn write_many(&mut self, ops: &[Op]) -> Result<(), (usize, KernelError)> {
        let written = self.tables.write_many(ops);
        self.steps.add(ops.len() as u64);
        written
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
    /// When the kernel, or `enforced`, refuses. The old rules are enforced again, unless undoing was refused too: then
    /// [`Refused::is_between`] says so, and the next call undoes the rest first. At a start that took over programs with other
    /// rules than the tries held, the new rules stay, and [`Refused::is_made`] says so.
    pub fn apply(&mut self, delta: &Arc<Delta>, rules_now: &[Rule], enforced: Enforced<'_>) -> Result<u64, Refused> {
        let refused = Refused::undone;
        self.audit = None;
        self.settle().map_err(Refused::between)?;
        require_room(delta, rules_now, abi::RULES_MAX as usize).map_err(refused)?;
        // The same rules in place of another ABI's are no new set.
        let is_same = rules_now.is_empty() && self.is_former(delta.ops.iter().filter_map(added));
        let next = if is_same { self.generation } else { self.generation + 1 };
        // New tables give the same answers: nothing is begun yet.
        self.make_room(delta, rules_now).map_err(refused)?;
        self.tables.set_meta(abi::META_APPLYING, self.generation + 1).map_err(refused)?;
        let count = delta.ops.len();
        self.progress.tell(format!("writing {}", prefixes(count)), STEPS_AN_OPERATION * count as u64);
        // A program of an earlier process may be on a pinned link, with tables that ask the tries elsewhere.
        let is_watched = self.pins.is_some() && self.attachments.is_empty() && !rules_now.is_empty();
        let mut change = Change::announce(Arc::clone(delta), &mut self.set, is_watched);
        let followed = self.follow(&mut change, enforced);
        // Here it is done: whoever reads the generation finds the whole set.
        match followed.and_then(|()| self.tables.set_meta(abi::META_GENERATION, next)) {
            Ok(()) => {
                (self.generation, self.is_known) = (next, true);
                // A mark of a generation that has been reached means nothing.
                if let Err(error) = self.tables.set_meta(abi::META_APPLYING, 0) {
                    tracing::debug!("{error}; the next change takes the mark away");
                }
                Ok(next)
            }
            Err(error) if !self.is_known && self.has_adopted() => {
                let completed = self.both(|_, tries| change.complete(tries));
                if let Err(second) = completed.and_then(|()| self.tables.set_meta(abi::META_GENERATION, next)) {
                    tracing::error!("{second}; the new rules are enforced, and the next start completes them");
                }
                Err(Refused { error, is_between: false, is_made: true })
            }
            Err(error) => {
                self.unfinished = Some(change);
                match self.settle() {
                    Ok(()) => Err(refused(error)),
                    Err(second) => {
                        tracing::error!(
                            "undoing a change: {second}; every address has its old or its new verdict until that is done"
                        );
                        Err(Refused::between(error))
                    }
                }
            }
        }
    }

    /// Undoes what is left of a change that was refused.
    fn settle(&mut self) -> Result<(), KernelError> {
        let Some(mut change) = self.unfinished.take() else { return Ok(()) };
        let undone = self.both(|set, tries| change.undo(set, tries));
        // What an earlier process left half-way is still so.
        let settled =
            undone.and_then(|()| if self.is_known { self.tables.set_meta(abi::META_APPLYING, 0) } else { Ok(()) });
        if settled.is_err() {
            self.unfinished = Some(change);
        }
        settled
    }

    fn follow(&mut self, change: &mut Unfinished, enforced: Enforced<'_>) -> Result<(), KernelError> {
        self.both(|set, tries| change.enforce(set, tries))?;
        enforced(self)?;
        self.both(|_, tries| change.complete(tries))
    }

    /// Whether this process has put a program anywhere.
    fn has_attached(&self) -> bool {
        !self.attachments.is_empty() || self.connects.is_some()
    }

    /// Whether this process has taken over a program from an earlier one.
    fn has_adopted(&self) -> bool {
        let connects = self.connects.as_ref().is_some_and(|connects| connects.took_over);
        connects || self.attachments.values().any(|attachment| attachment.adopted)
    }

    /// Tables and tries, borrowed together.
    fn both<R>(&mut self, work: impl FnOnce(&mut Set<Mapped>, &mut Watched<'_>) -> R) -> R {
        // What is pinned may be the program of an earlier process.
        let has_readers = self.pins.is_some() || self.has_attached();
        let steps = self.progress.steps();
        work(&mut self.set, &mut Watched { tables: &mut self.tables, has_readers, steps })
    }

    /// Makes tables and tries say `rules_now`, where a refused change left something else, or this process has not filled the
    /// tables yet.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to undo, or refuses new tables.
    pub fn fill(&mut self, rules_now: &[Rule]) -> Result<(), KernelError> {
        self.settle()?;
        if !self.is_filled {
            self.begin(rules_now, &Counts::of(rules_now.iter()))?;
        }
        self.is_known = true;
        Ok(())
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
        if self.is_astray {
            // What stands elsewhere reads tables that no change reaches.
            self.gather()?;
        }
        Ok(())
    }

    fn tell_filling(&self, rules: &[Rule]) {
        self.progress.tell(format!("filling tables with {}", prefixes(rules.len())), 2 * rules.len() as u64);
    }

    /// Fills the tables that came with the program, or larger ones.
    fn begin(&mut self, rules: &[Rule], wanted: &Counts) -> Result<(), KernelError> {
        // What could not be filled to the end is not filled again.
        if !self.set.is_empty() || self.set.is_outgrown(wanted) {
            return self.renew(rules, wanted);
        }
        self.tell_filling(rules);
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
        set.count_in(self.progress.steps());
        self.tell_filling(rules);
        set.fill(rules)?;
        self.loggers.follow(&mut ebpf)?;
        self.reporters.follow(&mut ebpf)?;
        if self.pins.is_none() {
            // These maps are new as well: the names go over, and the rules, which the tables do not all answer for.
            self.carry_names(&mut tables)?;
            let rules: Vec<Op> = rules.iter().map(|rule| Op::Add(*rule)).collect();
            tables.write_many(&rules).map_err(|(_, error)| error)?;
        }
        if let Err(error) = self.put_connects(&ebpf).and_then(|()| self.put_on_links(&mut ebpf)) {
            // All of them: one that refused may have been changed all the same.
            self.is_astray = true;
            if let Err(second) = self.gather() {
                tracing::error!("putting the program back: {second}; it is put there before the next change");
            }
            return Err(error);
        }
        (self.ebpf, self.set, self.tables) = (ebpf, set, tables);
        (self.is_filled, self.is_astray, self.audit) = (true, false, None);
        if let Some(Err(error)) = self.pins.as_ref().map(|pins| pins.forget_programs(&self.ebpf)) {
            tracing::warn!("{error}; they are forgotten another time");
        }
        Ok(())
    }

    /// Puts the programs of another load, which give the same answers, at every hook of this process. A refusal ends it
    /// half-way.
    fn put_on_links(&self, ebpf: &mut Ebpf) -> Result<(), KernelError> {
        for (spot, attachment) in &self.attachments {
            load_program(ebpf, self.settings.entry_point(spot.point, attachment.is_raw))?;
        }
        self.pins.as_ref().map_or(Ok(()), |pins| pins.write_down(ebpf))?;
        let filters = self.filter_programs()?;
        for (spot, attachment) in &self.attachments {
            let entry = self.settings.entry_point(spot.point, attachment.is_raw);
            put(ebpf, entry, *spot, attachment, self.pins.as_ref(), &filters)?;
        }
        if !self.attachments.is_empty() {
            wait_for_readers();
        }
        if let Err(error) = self.forget_programs() {
            tracing::warn!("{error}; programs that are used no more go with the next start");
        }
        Ok(())
    }

    /// Puts this load's own programs at every hook of this process, where another load's were to take their place and could
    /// not.
    fn gather(&mut self) -> Result<(), KernelError> {
        let filters = self.filter_programs()?;
        for (spot, attachment) in &self.attachments {
            let entry = self.settings.entry_point(spot.point, attachment.is_raw);
            put(&mut self.ebpf, entry, *spot, attachment, self.pins.as_ref(), &filters)?;
        }
        self.put_connects(&self.ebpf)?;
        wait_for_readers();
        self.is_astray = false;
        Ok(())
    }
}

/// The rule that an operation adds.
fn added(op: &Op) -> Option<&Rule> {
    if let Op::Add(rule) = op { Some(rule) } else { None }
}

/// Puts a program at a hook in place of the one that is there.
fn put(
    ebpf: &mut Ebpf,
    entry: &'static str,
    spot: Spot,
    attachment: &Attachment,
    pins: Option<&PinDir>,
    filters: &BTreeSet<u32>,
) -> Result<(), KernelError> {
    load_program(ebpf, entry)?;
    match &attachment.hold {
        Hold::Filter => match netlink::interfaces()?.get(&spot.ifindex) {
            Some(interface) => match filter::at(spot.ifindex, &interface.name, spot.point, filters) {
                Ok(Some(_)) => filter::put(ebpf, entry, &interface.name, spot.point, true, pins),
                // What looks after the interfaces attaches one that has gone, and tells who stands in its place.
                Ok(None) => Ok(()),
                Err(error) if error.kind == ErrorKind::Foreign => Ok(()),
                Err(error) => Err(error),
            },
            // What looks after the interfaces cleans up.
            None => Ok(()),
        },
        // What looks after the interfaces cleans up after one that is gone.
        Hold::Link(link) => link.replace(program(ebpf, entry)?).map_err(|error| {
            KernelError::of(format!("replacing the {} program on {}", spot.point, attachment.interface), &error)
        }),
    }
}
