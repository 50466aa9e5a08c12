//! From one set of rules to another, in tables and tries, without a moment of a third answer; and tables made anew.
//!
//! The tables answer nearly every lookup, so a change is enforced when they are written. Operations that lookups may ask
//! the trie about are written to it in their turn; all others follow in batches, when enforcement has begun.

use crate::{
    delta::{Delta, Op},
    ruleset::Rule,
    tables::{Counts, Set, Shape},
};
use naikon_ebpf::abi;

use super::{
    Kernel, attach,
    error::KernelError,
    load,
    memory::Mapped,
    seeds,
    tables::{Tables, require_room, wait_for_readers},
};

/// How much more than now tables hold that can never be made anew.
const HEADROOM: u64 = 4;

/// A refused apply.
#[derive(Debug)]
pub struct Refused {
    /// What the kernel refused.
    pub error: KernelError,
    /// The rules lie between the old and the new set: read them back before the next apply.
    pub tables_unknown: bool,
}

/// How far an apply has come.
#[derive(Default)]
struct Progress {
    /// Operations that were begun in the tables.
    begun: usize,
    /// Operations that are in the tables, and in the trie where lookups ask it.
    done: usize,
    /// Operations that are in the trie, of those that follow behind.
    behind: usize,
}

impl Kernel {
    /// Makes the kernel's rules those that `delta` leads to from `rules_now`, and counts a generation. All or nothing.
    /// `enforced` is called when every address has its new answer, before the tries are complete.
    ///
    /// # Errors
    ///
    /// When the kernel, or `enforced`, refuses. The old rules are enforced again, unless undoing failed too: then
    /// [`Refused::tables_unknown`] says to read the tables back before the next apply.
    pub fn apply(
        &mut self,
        delta: &Delta,
        rules_now: &[Rule],
        enforced: &mut dyn FnMut(&mut Kernel) -> Result<(), KernelError>,
    ) -> Result<u64, Refused> {
        let refused = |error| Refused { error, tables_unknown: false };
        require_room(delta, rules_now).map_err(refused)?;
        let generation = self.generation().map_err(refused)?;
        self.tables.set_meta(abi::META_APPLYING, generation + 1).map_err(refused)?;
        if let Err(error) = self.make_room(delta, rules_now) {
            self.tables.set_meta(abi::META_APPLYING, 0).map_err(refused)?;
            return Err(refused(error));
        }
        delta.ops.iter().for_each(|op| self.set.prepare(op));
        let visible: Vec<bool> = delta.ops.iter().map(|op| self.set.is_visible(op)).collect();
        let mut behind: Vec<Op> =
            delta.ops.iter().zip(&visible).filter(|(_, visible)| !**visible).map(|(op, _)| *op).collect();
        behind.sort_unstable_by_key(|op| (matches!(op, Op::Remove(_)), op.prefix()));
        let mut progress = Progress::default();
        let outcome = self.walk(delta, &visible, &behind, &mut progress, enforced);
        match outcome {
            Ok(()) => {
                self.tables.set_meta(abi::META_GENERATION, generation + 1).map_err(refused)?;
                self.tables.set_meta(abi::META_APPLYING, 0).map_err(refused)?;
                Ok(generation + 1)
            }
            Err(error) => match self.undo(delta, &visible, &behind, &progress) {
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

    fn walk(
        &mut self,
        delta: &Delta,
        visible: &[bool],
        behind: &[Op],
        progress: &mut Progress,
        enforced: &mut dyn FnMut(&mut Kernel) -> Result<(), KernelError>,
    ) -> Result<(), KernelError> {
        let mut pauses = delta.pauses.iter().peekable();
        for (place, (op, visible)) in delta.ops.iter().zip(visible).enumerate() {
            if pauses.next_if_eq(&&place).is_some() && !self.attachments.is_empty() {
                wait_for_readers();
            }
            progress.begun = place + 1;
            self.set.mirror(op)?;
            if *visible {
                self.tables.write(op)?;
            }
            progress.done = place + 1;
        }
        enforced(self)?;
        self.tables.write_many(behind).map_err(|(done, error)| {
            progress.behind = done;
            error
        })
    }

    /// The same way back.
    fn undo(&mut self, delta: &Delta, visible: &[bool], behind: &[Op], progress: &Progress) -> Result<(), KernelError> {
        for op in behind.iter().take(progress.behind).rev() {
            self.tables.write(&op.inverse())?;
        }
        for (place, (op, visible)) in delta.ops.iter().zip(visible).enumerate().take(progress.begun).rev() {
            if *visible && place < progress.done {
                self.tables.write(&op.inverse())?;
            }
            self.set.mirror(&op.inverse())?;
            if delta.pauses.contains(&place) && !self.attachments.is_empty() {
                wait_for_readers();
            }
        }
        Ok(())
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
        let added = delta.ops.iter().filter_map(|op| if let Op::Add(rule) = op { Some(rule) } else { None });
        let wanted = Counts::of(rules_now.iter()).and(&Counts::of(added));
        if !self.is_filled {
            return self.begin(rules_now, &wanted);
        }
        // Without pins the maps of counters and rules cannot be shared with another load.
        let can_renew = self.pins.is_some() || self.attachments.is_empty();
        if can_renew && self.set.is_outgrown(&wanted) {
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
            return self.renew(rules, wanted);
        }
        self.set.fill(rules)?;
        self.is_filled = true;
        Ok(())
    }

    /// Makes tables anew, filled with `rules`, and puts the program that reads them on every interface of this process in
    /// place of the one before: it gives the same answers.
    fn renew(&mut self, rules: &[Rule], wanted: &Counts) -> Result<(), KernelError> {
        let headroom = if self.pins.is_some() { 1 } else { HEADROOM };
        let shape = Shape::new(wanted, seeds()?, headroom);
        let (mut ebpf, entry) = load(&self.settings, self.pins.as_ref(), &shape)?;
        let mut tables = Tables::take(&mut ebpf)?;
        let mut set = Set::new(Mapped::take(&mut ebpf, &shape)?, shape);
        set.fill(rules)?;
        self.loggers.follow(&mut ebpf)?;
        if self.pins.is_none() {
            // Nothing is attached and no rule is there yet: only the names go over.
            self.carry_names(&mut tables)?;
        }
        (self.ebpf, self.entry, self.set, self.tables) = (ebpf, entry, set, tables);
        self.is_filled = true;
        for (ifindex, mut attachment) in std::mem::take(&mut self.attachments) {
            match attach::replace(self.program()?, attachment.link, &attachment.interface) {
                Ok(link) => {
                    attachment.link = link;
                    self.attachments.insert(ifindex, attachment);
                }
                // What looks after the interfaces finds it without the program and attaches it anew.
                Err(error) => tracing::error!("{error}; it is attached anew"),
            }
        }
        Ok(())
    }
}
