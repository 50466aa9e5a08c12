//! Keeps the program on the wanted interfaces, whatever happens to them: strict at start, patient afterwards.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    config::Config,
    interface::{Interface, Selection, Wanted, select},
    kernel::{self, Attached, ErrorKind, Kernel, KernelError},
    protocol::{Cover, Hook},
};

/// What is known about the hooks.
#[derive(Default)]
pub(crate) struct Hooks {
    /// Every wanted hook as the kernel confirmed it last.
    pub(crate) confirmed: Vec<Hook>,
    /// Every interface that those cover.
    pub(crate) covered: Vec<Cover>,
    /// Names that were protected at some time.
    known: BTreeSet<String>,
    /// What was said last about an interface, so that it is said once.
    said: BTreeMap<String, String>,
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
        selection
            .attach
            .iter()
            .filter_map(|index| interfaces.get(index))
            .try_for_each(|found| kernel.require_free(found))
    }

    /// Attaches to everything that is there now, or fails at the first that refuses.
    ///
    /// # Errors
    ///
    /// What the kernel refuses.
    pub(crate) fn start(&mut self, kernel: &mut Kernel, config: &Config) -> Result<(), KernelError> {
        let (interfaces, selection) = look(kernel, &config.interfaces)?;
        for interface in selection.attach.iter().filter_map(|index| interfaces.get(index)) {
            let attached = kernel.attach(interface)?;
            self.announce(interface, &attached);
        }
        self.say_notices(&selection);
        for (index, name) in unwanted(kernel, &selection)? {
            self.release(kernel, index, &name);
        }
        kernel.remove_other_versions()?;
        self.confirm(kernel, &config.interfaces)
    }

    /// Attaches where the program should be and is not, releases where it should not be. Gives the names of the
    /// interfaces that are protected again.
    pub(crate) fn reconcile(&mut self, kernel: &mut Kernel, wanted: &[Wanted]) -> Result<Vec<String>, KernelError> {
        let (interfaces, selection) = look(kernel, wanted)?;
        for (name, reason) in &selection.refused {
            self.say_once(name, reason);
        }
        self.say_notices(&selection);
        let held = kernel.attached()?;
        let mut again = Vec::new();
        let mut all_attached = selection.refused.is_empty();
        for interface in selection.attach.iter().filter_map(|index| interfaces.get(index)) {
            let ours = held.get(&interface.index).is_some_and(|held| held.by_us);
            if ours && kernel.carries(interface)? {
                continue;
            }
            match kernel.attach(interface) {
                Ok(attached) => {
                    let name = held.get(&interface.index).and_then(|held| held.name.as_deref());
                    let name = name.unwrap_or(&interface.name);
                    if self.known.contains(name) {
                        again.push(name.to_owned());
                    }
                    self.announce(interface, &attached);
                }
                Err(error) => {
                    all_attached = false;
                    self.say_once(&interface.name, &error.to_string());
                }
            }
        }
        // What is there keeps its program until everything else has one: an interface may be about to be covered by
        // a carrier that refuses.
        for (index, name) in unwanted(kernel, &selection)? {
            if all_attached || !interfaces.contains_key(&index) {
                self.release(kernel, index, &name);
            }
        }
        self.confirm(kernel, wanted)?;
        Ok(again)
    }

    /// Takes the program off an interface that is wanted no longer, or cleans up after one that is gone.
    fn release(&mut self, kernel: &mut Kernel, index: u32, name: &str) {
        match kernel.release(index) {
            Ok(()) => tracing::warn!("{name} (index {index}) is gone or wanted no longer; released"),
            Err(error) => self.say_once(name, &error.to_string()),
        }
    }

    /// Asks the kernel again: what is told is what it confirms, not what was asked of it.
    fn confirm(&mut self, kernel: &Kernel, wanted: &[Wanted]) -> Result<(), KernelError> {
        let (interfaces, selection) = look(kernel, wanted)?;
        let hook = |interface: &str, ifindex, mode: &str| Hook {
            interface: interface.to_owned(),
            ifindex,
            hook: "xdp".into(),
            mode: mode.into(),
        };
        let held = kernel.attached()?;
        let mut confirmed = Vec::new();
        let mut protected = BTreeSet::new();
        for interface in selection.attach.iter().filter_map(|index| interfaces.get(index)) {
            let ours = if kernel.carries(interface)? { interface.xdp } else { None };
            protected.extend(ours.map(|_| interface.index));
            let name = held.get(&interface.index).and_then(|held| held.name.as_deref()).unwrap_or(&interface.name);
            confirmed.push(hook(name, interface.index, ours.map_or("none", |xdp| xdp.mode.as_str())));
        }
        let refused = selection.refused.iter().map(|(name, _)| name.as_str());
        let absent = selection.missing.iter().map(String::as_str).chain(refused);
        confirmed.extend(absent.map(|name| hook(name, 0, "none")));
        self.confirmed = confirmed;
        self.covered = Cover::list(&interfaces, &protected);
        Ok(())
    }

    fn announce(&mut self, interface: &Interface, attached: &Attached) {
        let name = &interface.name;
        self.said.remove(name);
        self.known.insert(name.clone());
        let mode = attached.mode.as_str();
        if attached.adopted {
            tracing::info!("{name}: took over the program in {mode} mode without a gap");
        } else {
            tracing::info!("{name}: attached in {mode} mode");
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
    let held = kernel.attached()?.into_iter().filter_map(|(index, held)| Some((index, held.name?))).collect();
    let selection = select(wanted, &interfaces, &held);
    Ok((interfaces, selection))
}

/// Interfaces that have a link of ours and should have none, with a name to call them by.
fn unwanted(kernel: &Kernel, selection: &Selection) -> Result<Vec<(u32, String)>, KernelError> {
    let held = kernel.attached()?.into_iter().filter(|(index, _)| !selection.attach.contains(index));
    Ok(held.map(|(index, held)| (index, held.name.unwrap_or_else(|| "an interface".into()))).collect())
}

fn missing(name: &str, interfaces: &BTreeMap<u32, Interface>) -> KernelError {
    KernelError::new("choosing the interfaces", ErrorKind::Interface, format!("no interface '{name}' here"))
        .cure(format!("there are: {}", names(interfaces)))
}

/// The names to choose from, for messages.
pub(crate) fn names(interfaces: &BTreeMap<u32, Interface>) -> String {
    let names: Vec<&str> = interfaces
        .values()
        .filter(|interface| !interface.loopback && !interface.is_controller() && interface.framing().is_some())
        .map(|interface| interface.name.as_str())
        .collect();
    if names.is_empty() { "none but the loopback".into() } else { names.join(", ") }
}
