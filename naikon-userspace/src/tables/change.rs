//! From one set of rules to another, in tables and tries together, without a moment of a third answer.
//!
//! The tables answer nearly every lookup, so a change is enforced when they are written. Operations that lookups may ask
//! the tries about are written there in their turn; all others follow behind, in whatever order is fast.

use super::{Memory, Set};
use crate::delta::{Delta, Op};

/// Operations that are handed to the tries together.
const PORTION: usize = 1 << 16;

/// The tries behind the tables, as their one writer sees them.
pub trait Tries {
    /// Why they refuse.
    type Error;

    /// Applies one operation.
    ///
    /// # Errors
    ///
    /// When it is refused; it is not done then.
    fn write(&mut self, op: &Op) -> Result<(), Self::Error>;

    /// Applies operations in this order, at which nobody looks.
    ///
    /// # Errors
    ///
    /// When one is refused, with how many before it are done.
    fn write_many(&mut self, ops: &[Op]) -> Result<(), (usize, Self::Error)>;

    /// Returns when every lookup that began before has ended.
    fn wait_for_readers(&mut self);
}

/// A delta on its way, and how far it is.
pub struct Change<'a> {
    delta: &'a Delta,
    /// By operation: lookups may ask the trie about it.
    visible: Vec<bool>,
    /// Places of the operations that are not visible, in the order in which they follow; made when it is their turn.
    behind: Vec<u32>,
    /// Operations that were begun in the tables.
    begun: usize,
    /// Operations that are in the tables, and in the trie where lookups ask it.
    done: usize,
    /// Operations of `behind` that are in the tries.
    followed: usize,
}

impl<'a> Change<'a> {
    /// Announces the delta in the tables, which changes no answer.
    ///
    /// `is_watched`: a program with tables of other shapes may still read the tries, so that every operation must reach
    /// them in its turn.
    pub fn announce<M: Memory>(delta: &'a Delta, set: &mut Set<M>, is_watched: bool) -> Self {
        delta.ops.iter().for_each(|op| set.prepare(op));
        let visible = delta.ops.iter().map(|op| is_watched || set.is_visible(op)).collect();
        Change { delta, visible, behind: Vec::new(), begun: 0, done: 0, followed: 0 }
    }

    /// Gives every address its new answer, one after the other.
    ///
    /// # Errors
    ///
    /// When a write is refused: each address has its old or its new answer, and [`Change::undo`] leads back.
    pub fn enforce<M: Memory, T: Tries<Error = M::Error>>(
        &mut self,
        set: &mut Set<M>,
        tries: &mut T,
    ) -> Result<(), M::Error> {
        if set.take_freed() {
            tries.wait_for_readers();
        }
        let mut pauses = self.delta.pauses.iter().peekable();
        for (place, (op, visible)) in self.delta.ops.iter().zip(&self.visible).enumerate() {
            if pauses.next_if_eq(&&place).is_some() {
                tries.wait_for_readers();
            }
            self.begun = place + 1;
            set.mirror(op)?;
            if *visible {
                tries.write(op)?;
            }
            self.done = place + 1;
        }
        Ok(())
    }

    /// Makes the tries say what the tables say.
    ///
    /// # Errors
    ///
    /// When a write is refused; [`Change::undo`] leads back.
    pub fn complete<T: Tries>(&mut self, tries: &mut T) -> Result<(), T::Error> {
        let places = (0..).zip(&self.visible).filter(|(_, visible)| !**visible);
        self.behind = places.map(|(place, _)| place).collect();
        // By prefix, which is fast in a trie; of a delta most is so already. Additions apart from removals, for batches.
        let ops = &self.delta.ops;
        let key = |place: &u32| ops.get(*place as usize).map(|op| (matches!(op, Op::Remove(_)), op.prefix()));
        self.behind.sort_by_key(key);
        for places in self.behind.chunks(PORTION) {
            let portion: Vec<Op> = places.iter().filter_map(|place| ops.get(*place as usize).copied()).collect();
            let written = tries.write_many(&portion);
            self.followed += written.as_ref().map_or_else(|(done, _)| *done, |()| portion.len());
            written.map_err(|(_, error)| error)?;
        }
        Ok(())
    }

    /// The same way back, after a refusal.
    ///
    /// # Errors
    ///
    /// When that is refused, too: each address has its old or its new answer, but which is not known.
    pub fn undo<M: Memory, T: Tries<Error = M::Error>>(&self, set: &mut Set<M>, tries: &mut T) -> Result<(), M::Error> {
        tries.wait_for_readers();
        let followed = self.behind.iter().take(self.followed).rev();
        followed
            .filter_map(|place| self.delta.ops.get(*place as usize))
            .try_for_each(|op| tries.write(&op.inverse()))?;
        for (place, (op, visible)) in self.delta.ops.iter().zip(&self.visible).enumerate().take(self.begun).rev() {
            let inverse = op.inverse();
            set.prepare(&inverse);
            if *visible && place < self.done {
                tries.write(&inverse)?;
            }
            set.mirror(&inverse)?;
            if self.delta.pauses.contains(&place) {
                tries.wait_for_readers();
            }
        }
        Ok(())
    }
}
