//! What naikons of another ABI left in the pin directory: which of their maps go on as ours, which are kept for their counts, and
//! how the rest goes. What of them can be relied upon stands in the contract (`abi.rs`).
//!
//! Counts are never copied. A map is handed on by one more pin: with our layout it is ours, and the programs of both count in it;
//! with another one it is told beside ours, as `<MAP>-<kernel id>`. Either is one call of the kernel's, and doing it again changes
//! nothing; so it does not matter at which moment a process dies, nor that the old programs go on counting until their
//! links have a new one. A map is known by its kernel id: whatever its names, it is told once.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    maps::{Array, Map, MapData},
};
use naikon_ebpf::abi;

use super::{
    Kernel, connect,
    error::{ErrorKind, KernelError},
    link::Kind,
    pins::{Layout, PinDir, open_link, open_map, pinned_link, remove_directory, unpin},
    tables::{Names, name_key, name_of, read_tries},
};
use crate::ruleset::Rule;

/// The maps of one ABI.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Version {
    pub(super) number: u32,
    pub(super) path: PathBuf,
}

/// A pinned map that counts.
pub(super) struct Counting {
    /// Which of [`abi::COUNTERS`].
    pub(super) name: &'static str,
    pub(super) path: PathBuf,
    pub(super) id: u32,
    pub(super) map: MapData,
}

/// The directories of maps below a pin directory, newest first.
pub(super) fn versions(root: &Path) -> Result<Vec<Version>, KernelError> {
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| KernelError::of(format!("reading {}", root.display()), &error))?,
    };
    let version = |entry: fs::DirEntry| {
        let name = entry.file_name();
        let number: u32 = name.to_str()?.strip_prefix('v')?.parse().ok()?;
        let is_ours = name.to_str()? == format!("v{number}") && entry.file_type().is_ok_and(|kind| kind.is_dir());
        is_ours.then(|| Version { number, path: entry.path() })
    };
    let mut found: Vec<Version> = entries.filter_map(Result::ok).filter_map(version).collect();
    found.sort_by_key(|version| std::cmp::Reverse(version.number));
    Ok(found)
}

impl Version {
    /// Removes its maps, and the directory unless something else is in it: maps under the names of the contract, and, as another
    /// ABI may have others, those that the kernel knows by the name of their pin. The names go last: they say that it is a naikon's.
    pub(super) fn remove(&self) -> Result<(), KernelError> {
        /// What the kernel keeps of a name (`BPF_OBJ_NAME_LEN`).
        const NAME_BYTES: usize = 15;
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(|error| KernelError::of(format!("reading {}", self.path.display()), &error))?,
        };
        let is_other = !self.is_own() && self.names()?.is_some();
        let (names, others): (Vec<_>, Vec<_>) =
            entries.filter_map(Result::ok).partition(|entry| entry.file_name() == abi::NAMES);
        for entry in others.into_iter().chain(names) {
            let (path, file) = (entry.path(), entry.file_name());
            let pin = file.to_string_lossy();
            let map = match open_map(&path) {
                Ok(Some(map)) => map,
                Ok(None) => continue,
                Err(error) if error.kind == ErrorKind::Foreign => {
                    tracing::warn!("{error}");
                    continue;
                }
                // What cannot be looked at now may be ours.
                Err(error) => return Err(error),
            };
            let info = map.info().map_err(|error| KernelError::of(format!("looking at {}", path.display()), &error))?;
            let kept = pin.as_bytes().get(..NAME_BYTES).unwrap_or(pin.as_bytes());
            let is_of_contract = counter(&pin).is_some() || PinDir::map_names().any(|name| name == pin);
            if is_of_contract || (is_other && info.name() == kept) {
                unpin(&path)?;
            } else {
                tracing::warn!("the pin {} is none of naikon's; it is left alone", path.display());
            }
        }
        remove_directory(&self.path)
    }

    /// Whether something lies there, and nothing of it is a naikon's.
    fn is_of_others(&self) -> bool {
        let is_ours = |name: &str| counter(name).is_some() || PinDir::map_names().any(|known| known == name);
        let names: Vec<_> =
            fs::read_dir(&self.path).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
        !names.is_empty() && !names.iter().any(|name| name.to_str().is_some_and(is_ours))
    }

    /// Whether it is that of this naikon.
    pub(super) fn is_own(&self) -> bool {
        self.number == abi::ABI_VERSION
    }

    /// Its map of this name, if it has one. What is no map says nothing; of another ABI it is left alone.
    fn map(&self, name: &str) -> Result<Option<MapData>, KernelError> {
        match open_map(&self.path.join(name)) {
            Err(error) if error.kind == ErrorKind::Foreign && !self.is_own() => Ok(None),
            found => found,
        }
    }

    /// Sets applied so far; 0 where it does not tell.
    pub(super) fn generation(&self) -> Result<u64, KernelError> {
        let Some(map) = self.map(abi::META)? else { return Ok(0) };
        let words = Map::from_map_data(map).and_then(Array::<MapData, u64>::try_from);
        Ok(words.and_then(|words| words.get(&abi::META_GENERATION, 0)).unwrap_or(0))
    }

    /// Its names, if they are kept as ours are.
    pub(super) fn names(&self) -> Result<Option<Names>, KernelError> {
        let Some(map) = self.map(abi::NAMES)? else { return Ok(None) };
        Ok(Map::from_map_data(map).and_then(Names::try_from).ok())
    }

    /// Its rules, sorted by prefix, if they are kept as ours are.
    pub(super) fn rules(&self) -> Result<Option<Vec<Rule>>, KernelError> {
        let mut tries = Vec::new();
        for name in [abi::RULES_V4, abi::RULES_V6] {
            let Some(map) = self.map(name)? else { return Ok(None) };
            if !is_ours(name, &map)? {
                return Ok(None);
            }
            tries.push(Map::from_map_data(map).map_err(|error| KernelError::of(format!("opening {name}"), &error))?);
        }
        let (Some(v6), Some(v4)) = (tries.pop(), tries.pop()) else { return Ok(None) };
        let typed = |name: &str, error: &aya::maps::MapError| KernelError::of(format!("opening the map {name}"), error);
        let v4 = v4.try_into().map_err(|error| typed(abi::RULES_V4, &error))?;
        let v6 = v6.try_into().map_err(|error| typed(abi::RULES_V6, &error))?;
        match read_tries(&v4, &v6) {
            // An entry that this naikon does not know says that they mean something else there.
            Err(error) if error.kind == ErrorKind::Foreign && !self.is_own() => Ok(None),
            read => read.map(Some),
        }
    }

    /// Its maps that count, and those that it keeps for their counts.
    pub(super) fn counting(&self) -> Result<Vec<Counting>, KernelError> {
        let entries = fs::read_dir(&self.path)
            .map_err(|error| KernelError::of(format!("reading {}", self.path.display()), &error))?;
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| KernelError::of(format!("reading {}", self.path.display()), &error))?;
            let file = entry.file_name();
            let Some((pin, name)) = file.to_str().and_then(|pin| Some((pin, counter(pin)?))) else { continue };
            let Some(map) = self.map(pin)? else { continue };
            found.push(Counting { name, path: entry.path(), id: id(&map)?, map });
        }
        Ok(found)
    }
}

/// Which counter bears the name of a pin.
fn counter(pin: &str) -> Option<&'static str> {
    abi::COUNTERS.into_iter().find(|name| {
        let rest = pin.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.strip_prefix('-').is_some_and(|id| id.parse::<u32>().is_ok()))
    })
}

fn id(map: &MapData) -> Result<u32, KernelError> {
    map.info().map(|info| info.id()).map_err(|error| KernelError::of("asking for the id of a map", &error))
}

/// Whether a map has the layout that ours of this name has.
fn is_ours(name: &str, map: &MapData) -> Result<bool, KernelError> {
    let found = Layout::of(map)?;
    Ok(Layout::of_ours(name).is_some_and(|wanted| wanted.takes(&found)))
}

fn pin(map: &MapData, path: &Path) -> Result<(), KernelError> {
    map.pin(path).map_err(|error| KernelError::of(format!("pinning the map {}", path.display()), &error))
}

impl PinDir {
    /// The maps of this ABI and of all others, newest first.
    pub(super) fn versions(&self) -> Result<Vec<Version>, KernelError> {
        versions(self.root())
    }

    /// Those of this ABI.
    pub(super) fn own(&self) -> Version {
        Version { number: abi::ABI_VERSION, path: self.maps() }
    }

    /// Those of other ABIs; that of the highest generation first, which was in force last.
    pub(super) fn others(&self) -> Result<Vec<Version>, KernelError> {
        let mut others = Vec::new();
        for version in self.versions()?.into_iter().filter(|version| !version.is_own() && !version.is_of_others()) {
            others.push((version.generation()?, version));
        }
        others.sort_by_key(|(generation, _)| std::cmp::Reverse(*generation));
        Ok(others.into_iter().map(|(_, version)| version).collect())
    }

    /// Hands on to this ABI what others left, before it makes maps of its own.
    pub(crate) fn hand_on(&self) -> Result<(), KernelError> {
        let others = self.others()?;
        for (version, name) in others.iter().flat_map(|version| abi::HANDED_ON.map(|name| (version, name))) {
            if let Err(error) = open_map(&version.path.join(name)) {
                if error.kind != ErrorKind::Foreign {
                    return Err(error);
                }
                tracing::warn!("{error}; what naikon of ABI {} kept there is lost", version.number);
            }
        }
        for name in abi::HANDED_ON {
            let own = self.map(name);
            if open_map(&own)?.is_some() {
                continue;
            }
            let mut candidates = Vec::new();
            for version in &others {
                candidates.extend(version.map(name)?);
            }
            for version in others.iter().filter(|_| abi::COUNTERS.contains(&name)) {
                let kept = version.counting()?.into_iter().filter(|kept| kept.name == name);
                candidates.extend(kept.map(|kept| kept.map));
            }
            for map in candidates {
                if is_ours(name, &map)? {
                    pin(&map, &own)?;
                    break;
                }
            }
        }
        for name in abi::COUNTERS {
            let own = open_map(&self.map(name))?.map(|map| id(&map)).transpose()?;
            for version in &others {
                for kept in version.counting()?.into_iter().filter(|kept| kept.name == name && Some(kept.id) != own) {
                    let path = self.maps().join(format!("{name}-{}", kept.id));
                    if open_map(&path)?.is_none() {
                        pin(&kept.map, &path)?;
                    }
                }
            }
            // One that counts for us again.
            if let Some(own) = own {
                unpin(&self.maps().join(format!("{name}-{own}")))?;
            }
        }
        Ok(())
    }

    /// Maps that are told beside those that this ABI counts in.
    pub(super) fn kept(&self) -> Result<Vec<Counting>, KernelError> {
        let own = self.own();
        if !own.path.exists() {
            return Ok(Vec::new());
        }
        Ok(own.counting()?.into_iter().filter(|kept| kept.path != self.map(kept.name)).collect())
    }

    /// Whether a program is naikon's: what a link of ours may hold.
    pub(super) fn is_ours(&self, program: u32) -> Result<bool, KernelError> {
        if self.trusts_links {
            return Ok(true);
        }
        let Some(key) = name_key(abi::NAME_PROGRAM, &program.to_string()) else { return Ok(false) };
        for version in self.versions()? {
            if version.names()?.is_some_and(|names| names.get(&key, 0).is_ok()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn own_names(&self) -> Result<Names, KernelError> {
        let operation = || format!("opening the map {}", abi::NAMES);
        let map = open_map(&self.map(abi::NAMES))?
            .ok_or_else(|| KernelError::new(operation(), ErrorKind::Other, "it is not pinned"))?;
        let names = Map::from_map_data(map).and_then(Names::try_from);
        names.map_err(|error| KernelError::of(operation(), &error))
    }

    /// Writes down that the programs of a load are naikon's, before any of them stands anywhere.
    pub(super) fn write_down(&self, ebpf: &Ebpf) -> Result<(), KernelError> {
        let mut names = self.own_names()?;
        for key in loaded(ebpf).filter_map(|id| name_key(abi::NAME_PROGRAM, &id.to_string())) {
            names
                .insert(key, 0, 0)
                .map_err(|error| KernelError::of(format!("writing a program to {}", abi::NAMES), &error))?;
        }
        Ok(())
    }

    /// Forgets the programs that are neither of this load nor on a link.
    pub(super) fn forget_programs(&self, ebpf: &Ebpf) -> Result<(), KernelError> {
        // What is no link of ours is told when its place is wanted.
        let links = self.links()?.into_iter().filter_map(|spot| pinned_link(self, spot).ok().flatten());
        // With what a process left that died while its links took the place of others.
        let names =
            abi::PROGRAMS_CONNECT.into_iter().map(str::to_owned).chain(abi::PROGRAMS_CONNECT.map(connect::next));
        let connects = names.filter_map(|name| open_link(self, &name, Kind::Cgroup).ok().flatten());
        let known: BTreeSet<u32> =
            links.chain(connects).map(|pinned| pinned.held.program_id).chain(loaded(ebpf)).collect();
        let mut names = self.own_names()?;
        let keys: Result<Vec<abi::NameKey>, _> = names.keys().collect();
        let refused = |error| KernelError::of(format!("forgetting programs in {}", abi::NAMES), &error);
        for key in keys.map_err(refused)? {
            let program = name_of(&key, abi::NAME_PROGRAM);
            if program.is_some_and(|id| !id.parse().is_ok_and(|id| known.contains(&id))) {
                names.remove(&key).map_err(refused)?;
            }
        }
        Ok(())
    }

    /// Removes the maps of every other ABI, once no link has a program of theirs.
    pub(crate) fn remove_other_versions(&self) -> Result<(), KernelError> {
        self.others()?.iter().try_for_each(Version::remove)
    }
}

/// Kernel ids of the programs that are loaded.
fn loaded(ebpf: &Ebpf) -> impl Iterator<Item = u32> {
    ebpf.programs().filter_map(|(_, program)| program.info().ok()).map(|info| info.id())
}

/// Whether there are maps of a naikon that wrote down no programs.
pub(super) fn names_no_programs(root: &Path) -> bool {
    let has_none = |version: &Version| {
        // What cannot be read is told when it is to be used.
        let names = version.names().ok().flatten();
        names.is_some_and(|names| {
            !names.keys().filter_map(Result::ok).any(|key| name_of(&key, abi::NAME_PROGRAM).is_some())
        })
    };
    versions(root).is_ok_and(|versions| versions.iter().any(has_none))
}

impl Kernel {
    /// Takes over what our maps do not say, and those of another ABI do: the generation and the names, where those maps are not ours
    /// already, and which rules were in force.
    pub(super) fn take_over(&mut self) -> Result<(), KernelError> {
        let others = self.pins.as_ref().map_or_else(|| Ok(Vec::new()), PinDir::others)?;
        let own = self.pins.as_ref().map_or(Ok(None), |pins| open_map(&pins.map(abi::NAMES)))?;
        let own = own.map(|map| id(&map)).transpose()?;
        for (place, version) in others.iter().enumerate() {
            tracing::info!("the pins of ABI {} make way for those of ABI {}", version.number, abi::ABI_VERSION);
            let generation = version.generation()?;
            if generation > self.tables.meta(abi::META_GENERATION)? {
                self.tables.set_meta(abi::META_GENERATION, generation)?;
            }
            if place == 0 {
                self.former_rules = version.rules()?;
            }
            let Some(names) = version.names()? else {
                tracing::warn!("the names of ABI {} cannot be read: what it counted is not told", version.number);
                continue;
            };
            let is_shared = names_id(&names)? == own;
            if !is_shared {
                self.tables.take_names(&names)?;
            }
        }
        self.lists = self.tables.names(abi::NAME_LIST)?;
        self.slots = self.tables.names(abi::NAME_INTERFACE)?;
        self.generation = self.tables.meta(abi::META_GENERATION)?;
        self.is_known = others.is_empty() && self.generation != 0 && !self.interrupted()?;
        Ok(())
    }

    /// Whether these are the rules that the pins of another ABI enforce: putting ours in their place is no new set.
    pub(super) fn is_former<'a>(&self, rules: impl Iterator<Item = &'a Rule>) -> bool {
        let Some(former) = &self.former_rules else { return false };
        let mut rules: Vec<Rule> = rules.copied().collect();
        rules.sort_unstable_by_key(|rule| rule.prefix);
        rules == *former
    }

    /// Removes the maps of other ABIs: every link has a program of this one now.
    ///
    /// # Errors
    ///
    /// When a pin cannot be removed.
    pub fn remove_other_versions(&mut self) -> Result<(), KernelError> {
        self.former_rules = None;
        let Some(pins) = &self.pins else { return Ok(()) };
        pins.remove_other_versions()?;
        pins.forget_programs(&self.ebpf)
    }
}

fn names_id(names: &Names) -> Result<Option<u32>, KernelError> {
    use aya::maps::IterableMap;
    let map: &MapData = IterableMap::<abi::NameKey, u32>::map(names);
    id(map).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_known_by_the_names_of_their_pins() {
        for name in abi::COUNTERS {
            assert_eq!(counter(name), Some(name));
            assert_eq!(counter(&format!("{name}-4711")), Some(name));
        }
        for other in ["HITS_1", "HITS-", "HITS-x", "HITS-1-2", "NAMES", "NAMES-1", "", "-1"] {
            assert_eq!(counter(other), None, "{other:?}");
        }
    }

    #[test]
    fn every_map_that_is_handed_on_has_a_layout_and_every_counter_is_handed_on() {
        assert!(abi::HANDED_ON.into_iter().all(|name| Layout::of_ours(name).is_some()));
        assert!(abi::COUNTERS.into_iter().all(|name| abi::HANDED_ON.contains(&name)));
    }
}
