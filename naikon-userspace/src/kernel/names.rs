//! The names of lists and interfaces, for which frames are counted: each keeps its counters until detach. Where there are no more
//! for one, it is counted with others; that it is enforced depends on none of this.

use std::collections::BTreeMap;

use naikon_ebpf::abi;

use super::{
    Kernel,
    error::{ErrorKind, KernelError},
    tables::Tables,
};

impl Kernel {
    /// The id of a list, the same for the same name until detach, and the cells to count its hits in.
    ///
    /// # Errors
    ///
    /// When ids or memory run out.
    pub fn list_id(&mut self, name: &str) -> Result<u16, KernelError> {
        let known = self.lists.get(name).copied();
        let id = match known {
            Some(id) => id,
            None => next_list(&self.lists)?,
        };
        let own = own_slots(&self.slots, self.lists.len() + usize::from(known.is_none()));
        if own.is_none() {
            self.name_others()?;
        }
        self.tables.prepare_hits(&[id], &own.unwrap_or_default())?;
        self.prepare_connects(id)?;
        if known.is_none() {
            self.tables.set_name(abi::NAME_LIST, name, id)?;
            self.lists.insert(name.to_owned(), id);
        }
        Ok(id)
    }

    /// Gives other maps the names that these have.
    pub(super) fn carry_names(&mut self, tables: &mut Tables) -> Result<(), KernelError> {
        let lists: Vec<u16> = self.lists.values().copied().collect();
        tables.prepare_hits(&lists, &own_slots(&self.slots, lists.len()).unwrap_or_default())?;
        if self.settings.cgroup.is_some() {
            tables.prepare_connects(lists)?;
        }
        for (kind, names) in [(abi::NAME_LIST, &self.lists), (abi::NAME_INTERFACE, &self.slots)] {
            names.iter().try_for_each(|(name, id)| tables.set_name(kind, name, *id))?;
        }
        tables.set_meta(abi::META_APPLYING, self.tables.meta(abi::META_APPLYING)?)
    }

    /// The slot of a name, the same until detach: one of its own while there are any, else that of all others.
    pub(super) fn slot(&mut self, interface: &str) -> Result<u16, KernelError> {
        let known = self.slots.get(interface).copied();
        let Some(slot) = known.or_else(|| next_slot(&self.slots, self.lists.len())) else {
            return self.name_others();
        };
        let lists: Vec<u16> = self.lists.values().copied().collect();
        self.tables.prepare_hits(&lists, &[slot])?;
        if known.is_none() {
            self.tables.set_name(abi::NAME_INTERFACE, interface, slot)?;
            self.slots.insert(interface.to_owned(), slot);
        }
        Ok(slot)
    }

    /// Counts in a slot what an interface takes in; in that of all others where another interface has its place.
    pub(super) fn count_as(&mut self, ifindex: u32, slot: u16) -> Result<(), KernelError> {
        if !self.tables.set_slot(ifindex, slot)? {
            self.name_others()?;
        }
        Ok(())
    }

    /// Gives the slot of all others its name, under which it is told from then on.
    fn name_others(&mut self) -> Result<u16, KernelError> {
        if !self.slots.contains_key(abi::OTHERS) {
            self.tables.set_name(abi::NAME_INTERFACE, abi::OTHERS, abi::SLOT_OTHERS)?;
            self.slots.insert(abi::OTHERS.to_owned(), abi::SLOT_OTHERS);
        }
        Ok(abi::SLOT_OTHERS)
    }

    /// What somebody who reads counters should know.
    #[must_use]
    pub fn shared_counters(&self) -> Option<String> {
        self.slots.contains_key(abi::OTHERS).then(|| {
            format!(
                "some interfaces are protected as all are, but counted together, as interface=\"{}\": each name keeps its \
                 counters until 'naikon detach', and there are {} for names and {} for pairs of a list and a name",
                abi::OTHERS,
                abi::SLOT_OTHERS,
                abi::OWN_PAIRS_MAX
            )
        })
    }

    /// Counters of calls are made only where calls are looked at.
    fn prepare_connects(&mut self, list: u16) -> Result<(), KernelError> {
        if self.settings.cgroup.is_some() { self.tables.prepare_connects([list]) } else { Ok(()) }
    }
}

/// The lowest id above all that were given.
fn next_list(given: &BTreeMap<String, u16>) -> Result<u16, KernelError> {
    let next = given.values().max().map_or(Some(0), |id| id.checked_add(1));
    next.ok_or_else(|| {
        let cause = format!("all {} ids are taken", abi::LISTS_MAX);
        KernelError::new("naming one more list", ErrorKind::Other, cause)
            .cure("'naikon detach' forgets the names (and the counters) of the past")
    })
}

/// The lowest slot above all that names of their own have, if there is one, and room for its counters.
fn next_slot(given: &BTreeMap<String, u16>, lists: usize) -> Option<u16> {
    let own = given.values().filter(|slot| **slot < abi::SLOT_OTHERS);
    let next = own.max().map_or(0, |slot| slot + 1);
    (next < abi::SLOT_OTHERS && lists * (usize::from(next) + 1) <= abi::OWN_PAIRS_MAX).then_some(next)
}

/// The slots of names of their own, where there is room for counters of so many lists in each.
fn own_slots(given: &BTreeMap<String, u16>, lists: usize) -> Option<Vec<u16>> {
    let own: Vec<u16> = given.values().copied().filter(|slot| *slot < abi::SLOT_OTHERS).collect();
    (lists * own.len() <= abi::OWN_PAIRS_MAX).then_some(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This many names, each with the slot that it was given.
    fn named(count: u16) -> BTreeMap<String, u16> {
        (0..count).map(|slot| (format!("veth{slot}"), slot)).collect()
    }

    #[test]
    fn slots_are_given_in_turn_until_the_last_which_is_for_all_others() {
        assert_eq!(next_slot(&named(0), 3), Some(0));
        assert_eq!(next_slot(&named(1022), 3), Some(1022));
        assert_eq!(next_slot(&named(1023), 3), None);
        let mut others = named(5);
        others.insert(abi::OTHERS.to_owned(), abi::SLOT_OTHERS);
        assert_eq!(next_slot(&others, 3), Some(5), "the slot of all others is no name's own");
        assert_eq!(own_slots(&others, 3), Some(vec![0, 1, 2, 3, 4]));
    }

    #[test]
    fn counters_of_lists_and_names_never_outgrow_their_map() {
        for lists in [1, 48, 49, 100, 1000, 16_384] {
            let mut slots = BTreeMap::new();
            while let Some(slot) = next_slot(&slots, lists) {
                slots.insert(format!("veth{slot}"), slot);
            }
            let own = own_slots(&slots, lists).expect("what was given has room");
            let cells = (lists * own.len() + lists) * usize::from(abi::HIT_CELLS);
            assert!(cells <= abi::HITS_MAX as usize, "{lists} lists, {} names: {cells} cells", own.len());
            let more = abi::OWN_PAIRS_MAX / own.len().max(1) + 1;
            assert_eq!(own_slots(&slots, more), None, "{more} lists have no room in {} names", own.len());
        }
    }

    #[test]
    fn ids_of_lists_end_with_an_error_that_names_the_cure() {
        assert_eq!(next_list(&named(7)).unwrap(), 7);
        let last = BTreeMap::from([("last".to_owned(), u16::MAX)]);
        assert!(next_list(&last).unwrap_err().to_string().contains("naikon detach"));
    }
}
