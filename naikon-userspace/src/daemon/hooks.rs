//! Keeps the program on the wanted interfaces, whatever happens to them: strict at start, patient afterwards.
//!
//! A start first puts programs where they are wanted; what is wanted no longer goes when nothing can fail any more
//! ([`Hooks::settle`]). Until then all can be undone ([`Hooks::abandon`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::connects;
use crate::{
    config::Config,
    hook::{Point, Spot, Stance},
    interface::{Interface, Selection, Wanted, instead_of, judged, on_top, select},
    kernel::{self, Attached, ErrorKind, Kernel, KernelError},
    protocol::{Cover, Hook, InterfacesReload},
};

/// First and longest pause before a carrier is asked again that refused.
const REFUSAL_PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// More names than these are remembered of interfaces that are there or asked for by name only.
const KNOWN_MAX: usize = 1024;

/// What is known about the hooks.
#[derive(Default)]
pub(crate) struct Hooks {
    /// Every wanted hook as the kernel confirmed it last.
    pub(crate) confirmed: Vec<Hook>,
    /// Every interface that those cover.
    pub(crate) covered: Vec<Cover>,
    /// What else somebody who asks for the status should know of them.
    pub(crate) notices: Vec<String>,
    /// What the last look at the interfaces changed.
    pub(crate) changes: InterfacesReload,
    /// Names that were protected at some time.
    known: BTreeSet<String>,
    /// What was said last about an interface, so that it is said once.
    said: BTreeMap<String, String>,
    /// Carriers that refused the program although what lies on them had made way.
    refusing: BTreeMap<u32, Refusal>,
    /// Interfaces that made way, as long as the start may fail.
    yielded: Vec<Interface>,
}

/// What a carrier said.
struct Refusal {
    error: KernelError,
    /// Until then it is not asked again, ...
    until: Instant,
    /// ... which is so long after it was asked.
    pause: Duration,
}

impl Hooks {
    /// Looks whether everything that was asked for by name can be attached to, before anything is changed.
    ///
    /// # Errors
    ///
    /// When a named interface is missing, cannot be used, or carries somebody else's program.
    pub(crate) fn require(kernel: &Kernel, config: &Config) -> Result<(), KernelError> {
        let (interfaces, selection) = look(kernel, &config.interfaces)?;
        if let Some((name, reason)) = selection.refused.first() {
            return Err(KernelError::new(format!("choosing the interface {name}"), ErrorKind::Interface, reason));
        }
        if let Some(name) = selection.missing.first() {
            // What is enforced elsewhere from before must not end because one interface is late.
            if kernel.attached()?.is_empty() {
                return Err(missing(name, &interfaces));
            }
            tracing::warn!("no interface {name}; its protection begins when it appears");
        }
        for interface in selection.attach.iter().filter_map(|index| interfaces.get(index)) {
            kernel.points().into_iter().try_for_each(|point| kernel.require_free(interface, point))?;
        }
        Ok(())
    }

    /// Attaches to everything that is there now, or fails at the first that refuses. Takes nothing away, and may be tried again.
    ///
    /// # Errors
    ///
    /// What the kernel refuses.
    pub(crate) fn start(&mut self, kernel: &mut Kernel, config: &Config) -> Result<(), KernelError> {
        let (interfaces, selection) = look(kernel, &config.interfaces)?;
        let held = kernel.attached()?;
        for interface in selection.attach.iter().filter_map(|index| interfaces.get(index)) {
            for point in kernel.points() {
                let is_done = held.get(&Spot { ifindex: interface.index, point }).is_some_and(|held| held.by_us);
                // An apply that is tried again.
                if is_done && kernel.stance(interface, point)?.is_some() {
                    continue;
                }
                let attached = self.attach(kernel, interface, point, &interfaces, &selection)?;
                self.announce(interface, point, &attached);
            }
        }
        self.say_notices(&selection);
        if let Err(error) = connects::attach(kernel) {
            if !connects::is_absent(kernel) {
                return Err(error);
            }
            // It is waited for; everything else is protected meanwhile.
            self.say_once(connects::HOOK, &error.to_string());
        }
        self.confirm(kernel, &config.interfaces)
    }

    /// Takes away what enforced before and is wanted no longer.
    ///
    /// # Errors
    ///
    /// When nothing has been taken away yet.
    pub(crate) fn settle(&mut self, kernel: &mut Kernel, config: &Config) -> Result<(), KernelError> {
        connects::settle(kernel)?;
        self.yielded.clear();
        let settled = look(kernel, &config.interfaces).and_then(|(_, selection)| {
            for (spot, name) in unwanted(kernel, &selection)? {
                self.release(kernel, spot, &name);
            }
            kernel.remove_other_versions()?;
            kernel.forget_programs()?;
            self.confirm(kernel, &config.interfaces)
        });
        // All that is wanted enforces by now, and an end would be worse than what is left over.
        if let Err(error) = settled {
            tracing::error!("cleaning up after the start: {error}");
        }
        Ok(())
    }

    /// Undoes a start that failed.
    ///
    /// # Errors
    ///
    /// What the kernel refuses.
    pub(crate) fn abandon(self, kernel: Kernel) -> Result<(), KernelError> {
        kernel.abandon(&self.yielded)
    }

    /// Attaches where the program should be and is not, releases where it should not be. Gives the names of the
    /// interfaces that are protected again.
    pub(crate) fn reconcile(&mut self, kernel: &mut Kernel, wanted: &[Wanted]) -> Result<Vec<String>, KernelError> {
        self.changes = InterfacesReload::default();
        let bare_before = self.bare();
        let (interfaces, selection) = look(kernel, wanted)?;
        self.forget(&interfaces, wanted);
        for (name, reason) in &selection.refused {
            self.say_once(name, reason);
        }
        self.say_notices(&selection);
        let held = kernel.attached()?;
        let mut again = Vec::new();
        let mut refused = Vec::new();
        let mut all_attached = selection.refused.is_empty();
        let wanted_spots = selection.attach.iter().filter_map(|index| interfaces.get(index));
        let points = kernel.points();
        for (interface, point) in wanted_spots.flat_map(|interface| points.iter().map(move |point| (interface, *point)))
        {
            let held = held.get(&Spot { ifindex: interface.index, point });
            if held.is_some_and(|held| held.by_us) && self.stance(kernel, interface, point).is_some() {
                kernel.count_ports(interface)?;
                continue;
            }
            match self.attach(kernel, interface, point, &interfaces, &selection) {
                Ok(attached) => {
                    let name = held.and_then(|held| held.name.as_deref()).unwrap_or(&interface.name);
                    if self.known.contains(name) && !again.iter().any(|other| other == name) {
                        again.push(name.to_owned());
                    }
                    self.announce(interface, point, &attached);
                }
                Err(error) => {
                    all_attached = false;
                    refused.push((interface, error));
                }
            }
        }
        // What goes while it is looked at refuses for no other reason.
        let here = if refused.is_empty() { BTreeMap::new() } else { kernel::interfaces()? };
        for (interface, error) in refused.iter().filter(|(interface, _)| here.contains_key(&interface.index)) {
            self.say_once(&interface.name, &error.to_string());
        }
        self.yielded.clear();
        // What is there keeps its program until everything else has one: an interface may be about to be covered by
        // a carrier that refuses.
        let mut unwanted = unwanted(kernel, &selection)?;
        unwanted.retain(|(spot, _)| all_attached || !interfaces.contains_key(&spot.ifindex));
        for (spot, name) in unwanted {
            self.release(kernel, spot, &name);
        }
        let had_connects = kernel.has_connects();
        match connects::reattach(kernel) {
            Ok(None) => {}
            Ok(Some(cgroup)) => {
                self.said.remove(connects::HOOK);
                if had_connects {
                    again.push(cgroup);
                }
            }
            Err(error) => self.say_once(connects::HOOK, &error.to_string()),
        }
        self.confirm(kernel, wanted)?;
        let why = |name: &String| match self.said.get(name) {
            _ if selection.missing.contains(name) => {
                format!("no interface '{name}' here; {}", instead_of(name, &interfaces))
            }
            Some(said) => said.clone(),
            None => "the kernel confirms no program there; 'naikon doctor' looks for the cause".to_owned(),
        };
        let unprotected = self.bare().difference(&bare_before).map(|name| (name.clone(), why(name))).collect();
        self.changes.unprotected = unprotected;
        Ok(again)
    }

    /// Wanted interfaces of which the kernel does not confirm every hook.
    fn bare(&self) -> BTreeSet<String> {
        let bare = self.confirmed.iter().filter(|hook| hook.is_of_interface() && hook.is_bare());
        bare.map(|hook| hook.interface.clone()).collect()
    }

    /// Puts the program on an interface. The kernel takes no XDP program below one that lies on top (`dev_xdp_attach`, from
    /// 5.15): where that is ours and wanted no longer, because this interface covers it, it makes way; and it is put
    /// back if that was in vain.
    fn attach(
        &mut self,
        kernel: &mut Kernel,
        interface: &Interface,
        point: Point,
        interfaces: &BTreeMap<u32, Interface>,
        selection: &Selection,
    ) -> Result<Attached, KernelError> {
        let refused = match kernel.attach(interface, point) {
            Err(error) if point == Point::Xdp && error.kind == ErrorKind::Foreign && interface.xdp.is_none() => error,
            done => return done,
        };
        let held = kernel.attached()?;
        let spot = |upper: &Interface| Spot { ifindex: upper.index, point };
        let above: Vec<&Interface> = on_top(interface, interfaces).filter(|upper| upper.xdp.is_some()).collect();
        let stays = |upper: &&&Interface| !held.contains_key(&spot(upper)) || selection.attach.contains(&upper.index);
        if let Some(upper) = above.iter().find(stays) {
            let cause =
                format!("{} lies on top and carries an XDP program; the kernel takes none below one", upper.name);
            return Err(KernelError::new(refused.operation, ErrorKind::Foreign, cause)
                .cure(format!("it must leave {} first, or use --mode tc", upper.name)));
        }
        if above.is_empty() {
            return Err(refused);
        }
        let refusal = self.refusing.get(&interface.index);
        if let Some(refusal) = refusal.filter(|refusal| Instant::now() < refusal.until) {
            return Err(refusal.error.clone());
        }
        let (first, longest) = REFUSAL_PAUSES;
        let pause = refusal.map_or(first, |refusal| (2 * refusal.pause).min(longest));
        let mut made_way = Ok(());
        for upper in &above {
            tracing::info!("{}: makes way for {}, which sees its frames", upper.name, interface.name);
            made_way = made_way.and_then(|()| kernel.make_way(upper));
        }
        let attached = made_way.and_then(|()| kernel.attach(interface, point));
        for upper in &above {
            let settled = if attached.is_ok() { kernel.end_way(upper) } else { kernel.put_back(upper) };
            // One that does not go back is no reason to leave the others bare.
            if let Err(error) = settled {
                tracing::error!("{}: {error}", upper.name);
            }
        }
        match &attached {
            Ok(_) => {
                self.refusing.remove(&interface.index);
                self.yielded.extend(above.into_iter().cloned());
            }
            Err(error) => {
                let refusal = Refusal { error: error.clone(), until: Instant::now() + pause, pause };
                self.refusing.insert(interface.index, refusal);
            }
        }
        attached
    }

    /// How the program stands at a hook. What the kernel does not tell, it does not confirm.
    fn stance(&mut self, kernel: &Kernel, interface: &Interface, point: Point) -> Option<Stance> {
        kernel.stance(interface, point).unwrap_or_else(|error| {
            self.say_once(&interface.name, &error.to_string());
            None
        })
    }

    /// Forgets what was said and tried of interfaces that are gone: containers bring ever new names.
    fn forget(&mut self, interfaces: &BTreeMap<u32, Interface>, wanted: &[Wanted]) {
        let names: BTreeSet<&str> = interfaces.values().map(|interface| interface.name.as_str()).collect();
        let is_known = |name: &str| {
            name == connects::HOOK || names.contains(name) || wanted.iter().any(|wanted| wanted.text() == name)
        };
        self.said.retain(|name, _| is_known(name));
        self.refusing.retain(|index, _| interfaces.contains_key(index));
        // A name that comes back is protected again, and counted as such: as long as they are few, they are remembered.
        if self.known.len() > KNOWN_MAX {
            self.known.retain(|name| is_known(name));
        }
    }

    /// All that is told of the hooks.
    pub(crate) fn told(&self) -> (Vec<Hook>, Vec<Cover>, Vec<String>) {
        (self.confirmed.clone(), self.covered.clone(), self.notices.clone())
    }

    /// Takes the program off an interface that is wanted no longer, or cleans up after one that is gone.
    fn release(&mut self, kernel: &mut Kernel, spot: Spot, name: &str) {
        let Spot { point, ifindex } = spot;
        match kernel.release(spot) {
            Ok(()) => {
                self.changes.released.insert(name.to_owned());
                tracing::warn!("{name} (index {ifindex}) is gone or wanted no longer at {point}; released");
            }
            Err(error) => self.say_once(name, &error.to_string()),
        }
    }

    /// Asks the kernel again: what is told is what it confirms, not what was asked of it.
    fn confirm(&mut self, kernel: &mut Kernel, wanted: &[Wanted]) -> Result<(), KernelError> {
        let (interfaces, selection) = look(kernel, wanted)?;
        let points = kernel.points();
        let hook = |interface: &str, ifindex, point: Point, mode: &str| Hook {
            interface: interface.to_owned(),
            ifindex,
            hook: point.as_str().into(),
            mode: mode.into(),
        };
        let held = kernel.attached()?;
        let mut confirmed = Vec::new();
        let (mut protected, mut notices) = (BTreeSet::new(), Vec::new());
        for interface in selection.attach.iter().filter_map(|index| interfaces.get(index)) {
            for point in &points {
                let stance = self.stance(kernel, interface, *point);
                let held = held.get(&Spot { ifindex: interface.index, point: *point });
                let name = held.and_then(|held| held.name.as_deref()).unwrap_or(&interface.name);
                confirmed.push(hook(name, interface.index, *point, stance.map_or("none", Stance::as_str)));
                if stance.is_some() && *point != Point::Egress {
                    protected.insert(interface.index);
                }
                if let Some(other) = stance.map_or(Ok(None), |_| kernel.stands_before(interface, *point))? {
                    notices.push(format!("{name}: {other} stands before ours at {point}; what it passes on is judged, what it keeps is not seen"));
                }
            }
        }
        let refused = selection.refused.iter().map(|(name, _)| name.as_str());
        let absent = selection.missing.iter().map(String::as_str).chain(refused);
        confirmed.extend(absent.flat_map(|name| points.iter().map(move |point| hook(name, 0, *point, "none"))));
        confirmed.extend(connects::hook(kernel)?);
        notices.extend(kernel.shared_counters());
        for notice in notices.iter().filter(|notice| !self.notices.contains(notice)) {
            tracing::warn!("{notice}");
        }
        // Not when it is attached: each of its hooks is to see whether it was known before.
        for Hook { interface, .. } in confirmed.iter().filter(|hook| hook.ifindex != 0 && hook.mode != "none") {
            if !self.known.contains(interface) {
                self.known.insert(interface.clone());
            }
        }
        (self.confirmed, self.notices) = (confirmed, notices);
        self.covered = Cover::list(&interfaces, &protected);
        let judged = judged(&interfaces, &protected, &kernel::pppoe_carriers(&interfaces));
        kernel.set_judged(&interfaces.keys().copied().collect(), &judged)
    }

    fn announce(&mut self, interface: &Interface, point: Point, attached: &Attached) {
        let name = &interface.name;
        self.said.remove(name);
        self.changes.attached.insert(name.clone());
        let mode = attached.stance.as_str();
        if attached.adopted {
            tracing::info!("{name}: took over the {point} program in {mode} mode without a gap");
        } else {
            tracing::info!("{name}: attached at {point} in {mode} mode");
        }
        if let Some(notice) = &attached.notice {
            tracing::warn!("{name}: {notice}");
        }
    }

    fn say_notices(&mut self, selection: &Selection) {
        for (name, notice) in &selection.notices {
            if self.said.insert(name.clone(), notice.clone()).as_ref() != Some(notice) {
                tracing::info!("{name}: {notice}");
            }
        }
    }

    fn say_once(&mut self, name: &str, message: &str) {
        if self.said.insert(name.to_owned(), message.to_owned()).as_deref() != Some(message) {
            tracing::error!("looking after {name}: {message}");
        }
    }
}

/// What there is, and what of it is wanted.
fn look(kernel: &Kernel, wanted: &[Wanted]) -> Result<(BTreeMap<u32, Interface>, Selection), KernelError> {
    let interfaces = kernel::interfaces()?;
    let held = kernel.attached()?.into_iter().filter_map(|(spot, held)| Some((spot.ifindex, held.name?))).collect();
    let selection = select(wanted, &interfaces, &held);
    Ok((interfaces, selection))
}

/// Hooks that have a link of ours and should have none, with a name to call the interface by.
fn unwanted(kernel: &Kernel, selection: &Selection) -> Result<Vec<(Spot, String)>, KernelError> {
    let points = kernel.points();
    let is_wanted = |spot: &Spot| selection.attach.contains(&spot.ifindex) && points.contains(&spot.point);
    let held = kernel.attached()?.into_iter().filter(|(spot, _)| !is_wanted(spot));
    Ok(held.map(|(spot, held)| (spot, held.name.unwrap_or_else(|| "an interface".into()))).collect())
}

fn missing(name: &str, interfaces: &BTreeMap<u32, Interface>) -> KernelError {
    KernelError::new("choosing the interfaces", ErrorKind::Interface, format!("no interface '{name}' here"))
        .cure(instead_of(name, interfaces))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_containers_that_went_are_bounded_and_those_that_are_asked_for_are_kept() {
        let wanted: Vec<Wanted> = ["eth7", "veth*"].map(|text| Wanted::parse(text).unwrap()).into();
        let mut hooks = Hooks::default();
        hooks.known.insert("eth7".into());
        hooks.known.insert("ppp0".into());
        hooks.forget(&BTreeMap::new(), &wanted);
        assert!(hooks.known.contains("ppp0"), "a few cost nothing");
        for number in 0..10 * KNOWN_MAX {
            hooks.known.insert(format!("veth{number}"));
            hooks.forget(&BTreeMap::new(), &wanted);
            assert!(hooks.known.len() <= KNOWN_MAX && hooks.known.contains("eth7"));
        }
    }
}
