//! What newer kernels have that naikon uses, and what it costs to be without. `doctor` tells all of it of a machine, `status`
//! what matters to the programs that are attached.
//!
//! Decides the words. What is done without a feature is decided where it would be used.

use crate::{doctor::Version, protocol::Hook};

/// Something that naikon uses where it is, and does without where it is not.
#[derive(Debug)]
pub struct Feature {
    /// The first kernel that has it.
    pub since: Version,
    /// What it is called.
    pub name: &'static str,
    /// What it costs to be without.
    pub cost: &'static str,
    /// Whether it would be used at a hook.
    matters: fn(&Hook) -> bool,
}

static FEATURES: [Feature; 3] = [
    Feature {
        since: Version::new(5, 16),
        name: "batches for tries",
        cost: "reloads of long lists take longer",
        matters: |_| true,
    },
    Feature {
        since: Version::new(5, 18),
        name: "multi-buffer XDP",
        cost: "frames longer than a page reach XDP in generic mode only, drivers refuse native mode at such an MTU",
        matters: |hook| hook.hook == "xdp",
    },
    Feature {
        since: Version::new(6, 6),
        name: "TCX",
        cost: "programs at tc stand on clsact, which has no link to pin: whoever removes the qdisc removes them",
        matters: |hook| hook.mode == "clsact",
    },
];

/// What a kernel has not.
pub fn lacking(kernel: Version) -> impl Iterator<Item = &'static Feature> {
    FEATURES.iter().filter(move |feature| kernel < feature.since)
}

/// What of that matters to these hooks, in words.
#[must_use]
pub fn notices(kernel: Version, hooks: &[Hook]) -> Vec<String> {
    lacking(kernel)
        .filter(|feature| hooks.iter().any(feature.matters))
        .map(|feature| {
            let Feature { since, name, cost, .. } = feature;
            format!("kernel {kernel} has no {name}, which {since} brought: {cost}")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fault: old-kernel.
    #[test]
    fn what_is_missed_is_told_where_it_would_be_used() {
        let hook = |hook: &str, mode: &str| Hook {
            interface: "eth0".into(),
            ifindex: 2,
            hook: hook.into(),
            mode: mode.into(),
        };
        let (xdp, egress) = (hook("xdp", "native"), hook("egress", "clsact"));
        let told = |minor: u8, major: u8, hooks: &[Hook]| {
            let notices = notices(Version::new(major, minor), hooks);
            ["batches", "multi-buffer", "TCX"].map(|name| notices.iter().any(|notice| notice.contains(name)))
        };
        assert_eq!(told(10, 5, &[xdp.clone(), egress.clone()]), [true; 3]);
        assert_eq!(told(10, 5, std::slice::from_ref(&egress)), [true, false, true]);
        assert_eq!(told(10, 5, std::slice::from_ref(&xdp)), [true, true, false]);
        assert_eq!(told(10, 5, &[]), [false; 3], "nothing is attached");
        assert_eq!(told(1, 6, &[xdp.clone(), egress]), [false, false, true]);
        assert_eq!(told(6, 6, &[xdp, hook("egress", "tcx")]), [false; 3]);
    }
}
