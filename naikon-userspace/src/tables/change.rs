//! From one set of rules to another, in tables and tries together, without a moment of a third answer.
//!
//! The tables answer nearly every lookup, so a change is enforced when they are written. Operations that lookups may ask
//! the tries about are written there in their turn; all others follow behind, in whatever order is fast.

use std::ops::Deref;

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

/// A delta on its way, and how far it is. `D` is what holds the delta: one that cannot be undone at once outlives its caller.
pub struct Change<D> {
    delta: D,
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

impl<D: Deref<Target = Delta>> Change<D> {
    /// Announces the delta in the tables, which changes no answer.
    ///
    /// `is_watched`: a program with tables of other shapes may still read the tries, so that every operation must reach
    /// them in its turn.
    pub fn announce<M: Memory>(delta: D, set: &mut Set<M>, is_watched: bool) -> Self {
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
    /// When a write is refused; [`Change::undo`] leads back, the next call goes on.
    pub fn complete<T: Tries>(&mut self, tries: &mut T) -> Result<(), T::Error> {
        let ops = &self.delta.ops;
        if self.behind.is_empty() {
            let places = (0..).zip(&self.visible).filter(|(_, visible)| !**visible);
            self.behind = places.map(|(place, _)| place).collect();
            // By prefix, which is fast in a trie; of a delta most is so already. Additions apart from removals, for batches.
            let key = |place: &u32| ops.get(*place as usize).map(|op| (matches!(op, Op::Remove(_)), op.prefix()));
            self.behind.sort_by_key(key);
        }
        for places in self.behind.get(self.followed..).unwrap_or_default().chunks(PORTION) {
            let portion: Vec<Op> = places.iter().filter_map(|place| ops.get(*place as usize).copied()).collect();
            let written = tries.write_many(&portion);
            self.followed += written.as_ref().map_or_else(|(done, _)| *done, |()| portion.len());
            written.map_err(|(_, error)| error)?;
        }
        Ok(())
    }

    /// The same way back, after a refusal. One that is refused, too, goes on where it was with the next call.
    ///
    /// # Errors
    ///
    /// When a write is refused: each address has its old or its new answer.
    pub fn undo<M: Memory, T: Tries<Error = M::Error>>(
        &mut self,
        set: &mut Set<M>,
        tries: &mut T,
    ) -> Result<(), M::Error> {
        tries.wait_for_readers();
        while let Some(last) = self.followed.checked_sub(1) {
            let place = self.behind.get(last).map(|place| *place as usize);
            if let Some(op) = place.and_then(|place| self.delta.ops.get(place)) {
                tries.write(&op.inverse())?;
            }
            self.followed = last;
        }
        while let Some(place) = self.begun.checked_sub(1) {
            if let Some((op, visible)) = self.delta.ops.get(place).zip(self.visible.get(place)) {
                let inverse = op.inverse();
                set.prepare(&inverse);
                if *visible && place < self.done {
                    tries.write(&inverse)?;
                    self.done = place;
                }
                set.mirror(&inverse)?;
            }
            self.begun = place;
            if self.delta.pauses.contains(&place) {
                tries.wait_for_readers();
            }
        }
        Ok(())
    }
}
