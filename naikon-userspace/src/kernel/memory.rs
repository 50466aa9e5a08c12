//! The tables in the kernel's memory: arrays that are mapped here, and the two maps of what spills from them.

use std::os::fd::AsFd;

use aya::{
    Ebpf,
    maps::{HashMap, Map, MapData, MapError},
};
use naikon_ebpf::{abi, word::Word};

use super::{
    error::{self, ErrorKind, KernelError},
    sys::Mapping,
};
use crate::tables::{Memory, Shape, Spill, Table};

/// All tables of one load of the program.
pub struct Mapped {
    tables: Vec<Mapping>,
    /// Open for as long as a program of this load may still come: it names its maps by their descriptors.
    _maps: Vec<Map>,
    hosts_spill: HashMap<MapData, u32, u32>,
    prefixes_spill: HashMap<MapData, [u64; 3], u32>,
}

/// The name of a table's map.
pub(super) fn name(table: Table) -> &'static str {
    match table {
        Table::SubnetsV4 => abi::SUBNETS_V4,
        Table::SubnetsV6 => abi::SUBNETS_V6,
        Table::BloomV4 => abi::BLOOM_V4,
        Table::BloomV6 => abi::BLOOM_V6,
        Table::Hosts => abi::HOSTS,
        Table::Networks => abi::NETWORKS,
        Table::Pages => abi::PAGES,
        Table::Prefixes => abi::PREFIXES,
        Table::Actions => abi::ACTIONS,
    }
}

impl Mapped {
    /// Maps the tables of an object that was loaded with this shape.
    ///
    /// # Errors
    ///
    /// When the object holds others, or they cannot be mapped.
    pub fn take(ebpf: &mut Ebpf, shape: &Shape) -> Result<Self, KernelError> {
        let mut take = |name: &str| {
            ebpf.take_map(name).ok_or_else(|| {
                KernelError::new(format!("opening the map {name}"), ErrorKind::Other, "the object does not hold it")
            })
        };
        let mut tables = Vec::with_capacity(Table::ALL.len());
        let mut maps = Vec::with_capacity(Table::ALL.len());
        for table in Table::ALL {
            let map = take(name(table))?;
            let Map::Array(data) = &map else {
                let cause = "it is no array";
                return Err(KernelError::new(format!("opening the map {}", name(table)), ErrorKind::Other, cause));
            };
            let mapping = Mapping::new(data.fd().as_fd(), shape.words(table));
            tables
                .push(mapping.map_err(|error| KernelError::of(format!("mapping the table {}", name(table)), &error))?);
            maps.push(map);
        }
        let open = |name: &str, error: MapError| KernelError::of(format!("opening the map {name}"), &error);
        Ok(Mapped {
            tables,
            _maps: maps,
            hosts_spill: HashMap::try_from(take(abi::HOSTS_SPILL)?).map_err(|error| open(abi::HOSTS_SPILL, error))?,
            prefixes_spill: HashMap::try_from(take(abi::PREFIXES_SPILL)?)
                .map_err(|error| open(abi::PREFIXES_SPILL, error))?,
        })
    }
}

impl Memory for Mapped {
    type Error = KernelError;

    fn words(&self, table: Table) -> &[Word] {
        self.tables.get(table as usize).map_or(&[], Mapping::words)
    }

    fn spill(&mut self, key: Spill, class: u8) -> Result<(), KernelError> {
        let (name, done) = match (key, class) {
            (Spill::Host(address), 0) => (abi::HOSTS_SPILL, self.hosts_spill.remove(&address)),
            (Spill::Host(address), class) => (abi::HOSTS_SPILL, self.hosts_spill.insert(address, u32::from(class), 0)),
            (Spill::Prefix(key), 0) => (abi::PREFIXES_SPILL, self.prefixes_spill.remove(&abi::spill_key(key))),
            (Spill::Prefix(key), class) => {
                (abi::PREFIXES_SPILL, self.prefixes_spill.insert(abi::spill_key(key), u32::from(class), 0))
            }
        };
        done.map_err(|error| {
            let refused = KernelError::of(format!("writing to {name}"), &error);
            // Full: another attempt makes larger tables.
            let is_full = error::errno(&error) == Some(rustix::io::Errno::TOOBIG);
            KernelError { kind: if is_full { ErrorKind::Memory } else { refused.kind }, ..refused }
        })
    }

    fn spilled(&self, key: Spill) -> u8 {
        let class = match key {
            Spill::Host(address) => self.hosts_spill.get(&address, 0),
            Spill::Prefix(key) => self.prefixes_spill.get(&abi::spill_key(key), 0),
        };
        // What is not there is an error of this call.
        class.map_or(0, |class| class as u8)
    }

    fn spilled_keys(&self) -> Result<usize, KernelError> {
        let refused = |name: &str, error: &MapError| KernelError::of(format!("reading {name}"), error);
        let hosts = self.hosts_spill.keys().try_fold(0, |count, key| key.map(|_| count + 1));
        let prefixes = self.prefixes_spill.keys().try_fold(0, |count, key| key.map(|_| count + 1));
        let hosts: usize = hosts.map_err(|error| refused(abi::HOSTS_SPILL, &error))?;
        Ok(hosts + prefixes.map_err(|error| refused(abi::PREFIXES_SPILL, &error))?)
    }
}
