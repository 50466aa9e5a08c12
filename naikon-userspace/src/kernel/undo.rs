//! What a hook gives up for another one, and how a start that fails leaves enforcing what enforced before.
//!
//! The kernel takes no XDP program on an interface while one that lies on top of it has one. So there the program makes way, and
//! TC ingress judges the same packets from before it goes until the lower one stands, or it is back. Being pinned as
//! well, it does so without this process, too. For that moment a packet that is merely watched counts twice.

use std::collections::{BTreeMap, BTreeSet};

use super::{Kernel, error::KernelError, filter, netlink, pppoe_carriers};
use crate::{
    config::Mode,
    hook::{Point, Spot, Stance},
    interface::{Interface, judged},
};

impl Kernel {
    /// Takes the XDP program off an interface, so that one that lies below can have one.
    ///
    /// # Errors
    ///
    /// What the kernel refuses; something of ours stands there all the same.
    pub fn make_way(&mut self, upper: &Interface) -> Result<(), KernelError> {
        self.attach(upper, Point::Ingress)?;
        self.release(Spot { ifindex: upper.index, point: Point::Xdp })
    }

    /// Ends what made way: the interface below has a program.
    ///
    /// # Errors
    ///
    /// When the pin cannot be removed.
    pub fn end_way(&mut self, upper: &Interface) -> Result<(), KernelError> {
        self.release(Spot { ifindex: upper.index, point: Point::Ingress })
    }

    /// Puts the program back that made way. Where XDP refuses it, it stays at TC.
    ///
    /// # Errors
    ///
    /// What the kernel refuses.
    pub fn put_back(&mut self, upper: &Interface) -> Result<(), KernelError> {
        // One that has gone meanwhile, or has moved to another network namespace, is none of ours any more.
        let Some(now) = netlink::interfaces()?.remove(&upper.index) else { return Ok(()) };
        // As it stood there, whatever is wanted now.
        let mode = match upper.xdp.map(|xdp| xdp.mode) {
            Some(Stance::Generic) => Mode::Generic,
            _ => Mode::Auto,
        };
        let wanted = std::mem::replace(&mut self.settings.mode, mode);
        let back = self.attach(&now, Point::Xdp).map(drop).and_then(|()| self.end_way(&now));
        self.settings.mode = wanted;
        // It is not this process that brought protection there.
        for point in [Point::Xdp, Point::Ingress] {
            if let Some(attachment) = self.attachments.get_mut(&Spot { ifindex: upper.index, point }) {
                attachment.adopted = true;
            }
        }
        back
    }

    /// Undoes what this process attached after a start that failed: what enforced before enforces, on interfaces that made way
    /// (`yielded`) as well.
    ///
    /// # Errors
    ///
    /// The first of what the kernel refuses; the rest is done.
    pub fn abandon(mut self, yielded: &[Interface]) -> Result<(), KernelError> {
        let new: Vec<Spot> =
            self.attachments.iter().filter(|(_, attachment)| !attachment.adopted).map(|(spot, _)| *spot).collect();
        let mut refused = Ok(());
        // One that refuses is no reason to leave the others.
        let interfaces = netlink::interfaces().unwrap_or_else(|error| {
            refused = Err(error);
            BTreeMap::new()
        });
        for upper in yielded.iter().filter_map(|upper| interfaces.get(&upper.index)) {
            refused = refused.and(self.attach(upper, Point::Ingress).map(drop));
        }
        for spot in new {
            refused = refused.and(self.release(spot));
        }
        for upper in yielded {
            refused = refused.and(self.put_back(upper));
        }
        // Links at a cgroup that are new have no pins yet: they go with their descriptors.
        let took_over = self.connects.take().is_some_and(|connects| connects.took_over);
        refused = refused.and(self.judge_again()).and(self.forget_programs());
        // Links of another ABI, or of somebody else, need none of our maps.
        let nothing_left = self.fresh && self.attachments.is_empty() && !took_over;
        match self.pins.take() {
            Some(pins) if nothing_left => refused.and(pins.discard()),
            _ => refused,
        }
    }

    /// Marks as judged what comes in where a program stands now, and nothing else.
    fn judge_again(&mut self) -> Result<(), KernelError> {
        let interfaces = netlink::interfaces()?;
        let mut protected = BTreeSet::new();
        for Spot { ifindex, point } in self.attached()?.into_keys().filter(|spot| spot.point != Point::Egress) {
            let Some(interface) = interfaces.get(&ifindex) else { continue };
            if self.stance(interface, point)?.is_some() {
                protected.insert(ifindex);
            }
        }
        let here = interfaces.keys().copied().collect();
        self.set_judged(&here, &judged(&interfaces, &protected, &pppoe_carriers(&interfaces)))
    }

    /// Tells the egress programs where packets were judged and counted that came in: on these interfaces, and on no other one that is
    /// here.
    ///
    /// # Errors
    ///
    /// When the map cannot be written.
    pub fn set_judged(&mut self, here: &BTreeSet<u32>, judged: &BTreeSet<u32>) -> Result<(), KernelError> {
        self.tables.set_judged(here, judged)
    }

    /// Removes the pins of programs that are at no filter any more.
    ///
    /// # Errors
    ///
    /// When a pin cannot be removed.
    pub fn forget_programs(&self) -> Result<(), KernelError> {
        self.pins.as_ref().map_or(Ok(()), filter::forget_programs)
    }
}
