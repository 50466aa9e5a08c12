//! Looks whether the kernel still holds what it was given, and makes that good: the tries read beside the writer, then by
//! the writer itself; the tables looked at step by step, and made anew when one is wrong. Who looks when is the daemon's
//! matter.

use std::net::IpAddr;

use aya::{
    Pod,
    maps::{Array, MapData, lpm_trie::Key},
};
use naikon_ebpf::abi::{self, Action};

use super::{
    Kernel,
    error::{ErrorKind, KernelError},
    is_marked,
    tables::{Trie, again, wait_for_readers},
};
use crate::{
    delta::{self, Op},
    prefix::Prefix,
    ruleset::Rule,
    tables::{Audit, Counts, Findings},
};

/// Reads the tries beside the writer.
pub struct TrieReader {
    rules_v4: Trie<[u8; 4]>,
    rules_v6: Trie<[u8; 16]>,
    meta: Array<MapData, u64>,
}

/// What a look at the tries says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Agreement {
    /// They hold the rules, and nothing else.
    Same,
    /// They do not.
    Differs,
    /// They were changed meanwhile, so nothing is known.
    Unknown,
}

/// What the writer found wrong in the tries.
#[derive(Debug, Default)]
pub struct Mended {
    /// What was wrong.
    pub findings: Findings,
    /// Why not all of it could be put right.
    pub refused: Option<KernelError>,
}

impl TrieReader {
    /// Compares the tries with the rules of a generation, sorted by prefix. Takes some 1.5 us an entry.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a read.
    pub fn compare(&self, rules: &[Rule], generation: u64) -> Result<Agreement, KernelError> {
        let is_at_rest = || -> Result<bool, KernelError> {
            let meta = |index| self.meta.get(&index, 0).map_err(|error| refused(abi::META, &error));
            Ok(meta(abi::META_GENERATION)? == generation && !is_marked(meta(abi::META_APPLYING)?, generation))
        };
        if !is_at_rest()? {
            return Ok(Agreement::Unknown);
        }
        let ipv4 = rules.partition_point(|rule| rule.prefix.is_ipv4());
        let (v4, v6) = rules.split_at_checked(ipv4).unwrap_or((rules, &[]));
        let is_same = holds(abi::RULES_V4, &self.rules_v4, v4)? && holds(abi::RULES_V6, &self.rules_v6, v6)?;
        Ok(match is_at_rest()? {
            false => Agreement::Unknown,
            true if is_same => Agreement::Same,
            true => Agreement::Differs,
        })
    }
}

impl Kernel {
    /// A reader of the tries that does not wait for this writer.
    ///
    /// # Errors
    ///
    /// When descriptors run out.
    pub fn trie_reader(&self) -> Result<TrieReader, KernelError> {
        use aya::maps::IterableMap;
        Ok(TrieReader {
            rules_v4: again(abi::RULES_V4, self.tables.rules_v4.map())?,
            rules_v6: again(abi::RULES_V6, self.tables.rules_v6.map())?,
            meta: again(abi::META, self.tables.meta.map())?,
        })
    }

    /// Makes the tries hold `rules`, which the tables say already, whatever is in them. Counts no generation: the set is
    /// the same.
    ///
    /// # Errors
    ///
    /// When the tries cannot be read.
    pub fn mend_tries(&mut self, rules: &[Rule]) -> Result<Mended, KernelError> {
        let mut held = Vec::new();
        let mut strangers = Vec::new();
        for entry in self.tables.rules_v4.iter() {
            let (key, raw) = entry.map_err(|error| refused(abi::RULES_V4, &error))?;
            held.extend(rule_of(&key, IpAddr::from(key.data()), raw));
        }
        for entry in self.tables.rules_v6.iter() {
            let (key, raw) = entry.map_err(|error| refused(abi::RULES_V6, &error))?;
            match rule_of(&key, IpAddr::from(key.data()), raw) {
                Some(rule) => held.push(rule),
                None => strangers.push(key),
            }
        }
        held.sort_unstable_by_key(|rule| rule.prefix);
        let delta = delta::between(&held, rules);
        let mut mended = Mended {
            findings: Findings {
                wrong: (delta.ops.len() + strangers.len()) as u64,
                first: delta.ops.iter().map(Op::prefix).min(),
                is_reduced: delta.ops.iter().any(|op| self.set.is_visible(op) && strengthens(op)),
            },
            refused: None,
        };
        for key in strangers {
            let removed = self.tables.rules_v6.remove(&key);
            mended.refused = removed.err().map(|error| refused(abi::RULES_V6, &error)).or(mended.refused);
        }
        let mut pauses = delta.pauses.iter().peekable();
        for (place, op) in delta.ops.iter().enumerate() {
            if pauses.next_if_eq(&&place).is_some() && !self.attachments.is_empty() {
                wait_for_readers();
            }
            // The order is safe at every place: what cannot be written ends it there.
            if let Err(error) = self.tables.write(op) {
                mended.refused = Some(error);
                break;
            }
        }
        Ok(mended)
    }

    /// Begins to look at the tables, which takes [`Kernel::audit_step`]s. Whether there is something to look at.
    pub fn begin_audit(&mut self) -> bool {
        self.audit = self.is_filled.then(Audit::default);
        self.is_filled
    }

    /// One step of a look at the tables, which should say what `rules` say: some thousand places. `Ok(None)` when it has been
    /// ended by a change.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a read; the look has ended.
    pub fn audit_step(&mut self, rules: &[Rule]) -> Result<Option<AuditStep>, KernelError> {
        let Some(mut audit) = self.audit.take() else { return Ok(None) };
        Ok(Some(match audit.step(&self.set, rules)? {
            Some(findings) => AuditStep::Done(findings),
            None => {
                self.audit = Some(audit);
                AuditStep::More
            }
        }))
    }

    /// Makes the tables anew, filled with `rules`, which the tries hold.
    ///
    /// # Errors
    ///
    /// When the kernel refuses; the tables stay as they are.
    pub fn remake_tables(&mut self, rules: &[Rule]) -> Result<(), KernelError> {
        if self.pins.is_none() {
            return Err(KernelError::new(
                "making the tables anew",
                ErrorKind::Other,
                "there are no pins to share the tries by",
            )
            .cure("start the daemon again, or use a pin directory"));
        }
        self.renew(rules, &Counts::of(rules.iter()))
    }
}

/// What a step of a look at the tables gave.
#[derive(Clone, Copy, Debug)]
pub enum AuditStep {
    /// There is more to look at.
    More,
    /// That was the last.
    Done(Findings),
}

fn refused(map: &str, error: &aya::maps::MapError) -> KernelError {
    KernelError::of(format!("auditing {map}"), error)
}

/// Whether a trie holds these rules and nothing else. Nothing is kept: each entry is a rule, and there are as many.
fn holds<A: Pod>(map: &str, trie: &Trie<A>, rules: &[Rule]) -> Result<bool, KernelError>
where
    IpAddr: From<A>,
{
    let mut count = 0;
    for entry in trie.iter() {
        let (key, raw) = entry.map_err(|error| refused(map, &error))?;
        let found = rule_of(&key, IpAddr::from(key.data()), raw);
        let known = found.and_then(|found| rules.binary_search_by_key(&found.prefix, |rule| rule.prefix).ok());
        if known.and_then(|place| rules.get(place)) != found.as_ref() || found.is_none() {
            return Ok(false);
        }
        count += 1;
    }
    Ok(count == rules.len())
}

/// An entry of a trie as a rule, whatever its value; `None` for what is no prefix of its family.
fn rule_of<A: Pod>(key: &Key<A>, address: IpAddr, raw: u32) -> Option<Rule> {
    let prefix = Prefix::new(address, u8::try_from(key.prefix_len()).ok()?)?;
    (prefix.is_ipv4() == address.is_ipv4()).then_some(Rule { prefix, action: Action::from_trie(raw) })
}

/// Whether something listed was judged more mildly before this operation.
fn strengthens(op: &Op) -> bool {
    let is_listed = |action: Action| action.is_drop() || action.is_monitor();
    match op {
        Op::Add(rule) => is_listed(rule.action),
        Op::Change { old, new, .. } => is_listed(*new) && !(is_listed(*old) && old.rank() >= new.rank()),
        // It may have hidden a wider one.
        Op::Remove(rule) => !rule.action.is_drop(),
    }
}
