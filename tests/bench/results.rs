//! All that was measured, and what it says about the goals: the one place that knows what naikon is to reach.

use serde_json::{Value, json};

use crate::control::{self, Reload};
use crate::deep;
use crate::egress;
use crate::hits;
use crate::lists::Family;
use crate::lookups::Row;
use crate::object::Caps;
use crate::traffic::Case;
use crate::veth::{self, Contender};

/// Everything of one run.
#[derive(Default)]
pub(crate) struct Results {
    pub(crate) facts: Value,
    pub(crate) quiet: Value,
    pub(crate) quick: bool,
    pub(crate) lookups: Vec<Row>,
    pub(crate) egress: Option<egress::Outcome>,
    pub(crate) deep: Vec<deep::Outcome>,
    pub(crate) hits: Vec<hits::Outcome>,
    pub(crate) veth: Vec<veth::Outcome>,
    pub(crate) control: Vec<control::Outcome>,
    /// Parts that failed, with the reason.
    pub(crate) missing: Vec<String>,
}

/// A goal, and how far it is reached.
pub(crate) struct Goal {
    pub(crate) what: String,
    pub(crate) target: String,
    pub(crate) measured: String,
    /// None when it was not measured.
    pub(crate) reached: Option<bool>,
}

impl Results {
    /// One row as the service is loaded.
    pub(crate) fn row(&self, family: Family, size: usize, case: &str) -> Option<&Row> {
        let fits = |row: &&Row| row.family == family && row.size == size && row.case == case && row.caps == Caps::Unit;
        self.lookups.iter().find(fits)
    }

    pub(crate) fn wrong(&self) -> usize {
        let reloads = self.control.iter().flat_map(control::Outcome::reloads).map(|reload| reload.wrong);
        let deep = self.deep.iter().map(|outcome| outcome.wrong);
        let hits = self.hits.iter().map(|outcome| outcome.wrong);
        self.lookups.iter().map(|row| row.wrong).chain(deep).chain(hits).chain(reloads).sum()
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.quiet["busy"].as_bool().unwrap_or(true)
    }

    pub(crate) fn json(&self) -> Value {
        let goals: Vec<Value> = self
            .goals()
            .into_iter()
            .map(|goal| {
                json!({
                    "goal": goal.what, "target": goal.target, "measured": goal.measured, "reached": goal.reached,
                })
            })
            .collect();
        json!({
            "machine": self.facts, "quiet": self.quiet, "quick": self.quick, "goals": goals,
            "lookups": self.lookups.iter().map(Row::json).collect::<Vec<_>>(),
            "egress": self.egress.as_ref().map(egress::Outcome::json),
            "deep": self.deep.iter().map(deep::Outcome::json).collect::<Vec<_>>(),
            "hits": self.hits.iter().map(hits::Outcome::json).collect::<Vec<_>>(),
            "veth": self.veth.iter().map(veth::Outcome::json).collect::<Vec<_>>(),
            "control": self.control.iter().map(control::Outcome::json).collect::<Vec<_>>(),
            "not_measured": self.not_measured(),
        })
    }

    /// What could not be measured, and why.
    pub(crate) fn not_measured(&self) -> Vec<String> {
        let rivals = self
            .veth
            .iter()
            .flat_map(|outcome| outcome.missing.iter().map(move |text| format!("{text} ({} entries)", outcome.size)));
        self.missing.iter().cloned().chain(rivals).collect()
    }

    /// Every goal in its order.
    pub(crate) fn goals(&self) -> Vec<Goal> {
        let mut goals = Vec::new();
        for (family, size, case, least, most_ns) in [
            (Family::V4, 1_000_000, Case::RandomMiss, 80.0, Some(30.0)),
            (Family::V4, 10_000, Case::RandomMiss, 18.0, None),
            (Family::V4, 100_000, Case::NearMiss, 40.0, None),
            (Family::V4, 1_000_000, Case::NearMiss, 40.0, None),
            (Family::V4, 1_000_000, Case::HitSource, 13.0, None),
            (Family::V4, 1_000_000, Case::HitDestination, 13.0, None),
            (Family::V4, 100_000, Case::HitSource, 11.0, None),
            (Family::V4, 10_000, Case::HitSource, 4.0, None),
            (Family::V4, 87, Case::HitSource, 2.5, None),
            (Family::V4, 1_000_000, Case::Network, 5.0, None),
            (Family::V4, 10_000_000, Case::RandomMiss, 30.0, None),
            (Family::V4, 10_000_000, Case::HitSource, 14.0, None),
            (Family::V6, 1_000_000, Case::RandomMiss, 35.0, None),
            (Family::V6, 1_000_000, Case::NearMiss, 30.0, None),
            (Family::V6, 1_000_000, Case::HitSource, 6.5, None),
        ] {
            goals.push(self.ratio_goal(family, size, case, least, most_ns));
        }
        for (size, case, most) in [(100_000, Case::NearMiss, 9.0), (10_000, Case::RandomMiss, 3.5)] {
            let row = self.row(Family::V4, size, &format!("{}, one frame", case.name()));
            let value = row.map(|row| row.naikon().minimum - row.null().minimum);
            goals.push(at_most(
                format!("IPv4 {}, one frame again and again, {}, above null", case.name(), entries(size)),
                value,
                most,
                "ns",
            ));
        }
        let added = self.egress.as_ref().map(egress::Outcome::added);
        goals.push(at_most(
            "egress hook, packet that was judged where it came in, above null".to_owned(),
            added,
            5.0,
            "ns",
        ));
        self.veth_goals(&mut goals);
        self.control_goals(&mut goals);
        let reloads = self.control.iter().flat_map(control::Outcome::reloads).map(|reload| reload.asked);
        let deep = self.deep.iter().map(|outcome| outcome.asked);
        let hits = self.hits.iter().map(|outcome| outcome.asked);
        let asked: usize = self.lookups.iter().map(|row| row.asked).chain(deep).chain(hits).chain(reloads).sum();
        goals.push(Goal {
            what: "verdicts that the truth contradicts, at rest and during reloads".to_owned(),
            target: "0".to_owned(),
            measured: format!("{} of {asked}", self.wrong()),
            reached: (asked > 0).then_some(self.wrong() == 0),
        });
        goals
    }

    fn ratio_goal(&self, family: Family, size: usize, case: Case, least: f64, most_ns: Option<f64>) -> Goal {
        let what = format!("{} {}, {}, above parse", family.name(), case.name(), entries(size));
        let bound = most_ns.map_or(String::new(), |most| format!(", {most} ns"));
        let target = format!("1/{least} of two LPM lookups{bound}");
        match self.row(family, size, case.name()) {
            None => Goal { what, target, measured: "not measured".to_owned(), reached: None },
            Some(row) => {
                let (naikon, plain) = row.above_parse();
                let reached = row.ratio() >= least && most_ns.is_none_or(|most| naikon <= most);
                let measured = format!("1/{:.1} ({naikon:.0} of {plain:.0} ns)", row.ratio());
                Goal { what, target, measured, reached: Some(reached) }
            }
        }
    }

    fn veth_goals(&self, goals: &mut Vec<Goal>) {
        let veth = self.veth.iter().find(|outcome| outcome.size == 1_000_000);
        let adds = |contender| veth.and_then(|veth| veth.miss_adds(contender));
        let naikon = adds(Contender::Naikon);
        let share = |of: Option<f64>| Some(naikon? / of? * 100.0);
        let pass = veth.and_then(|veth| veth.of(Contender::NullPass)).map(|(miss, _)| miss.minimum);
        let what = "over veth, 1 M: what a miss adds to a null pass";
        goals.push(at_most(format!("{what}, of that"), share(pass), 10.0, "%"));
        for rival in [Contender::Ipset, Contender::NftIngress, Contender::NftPrerouting] {
            goals.push(at_most(format!("{what}, of what {} adds", rival.name()), share(adds(rival)), 1.0, "%"));
        }
        let hit = |contender| Some(veth?.of(contender)?.1.minimum);
        let share = hit(Contender::Naikon).zip(hit(Contender::Ipset)).map(|(own, ipset)| own / ipset * 100.0);
        goals.push(at_most("over veth, 1 M: hit, of ipset's".to_owned(), share, 50.0, "%"));
    }

    fn control_goals(&self, goals: &mut Vec<Goal>) {
        let size = 1_000_000;
        let control = self.control.iter().find(|outcome| outcome.family == Family::V4 && outcome.size == size);
        let nft = self.veth.iter().find(|outcome| outcome.size == size).and_then(|outcome| outcome.nft_load);
        let full = |time: fn(&Reload) -> f64| control.and_then(|control| control::fastest(&control.full, time));
        let of_nft = |time: Option<f64>| Some(time? / nft?.as_secs_f64() * 100.0);
        let enforced = full(|reload| reload.enforced);
        let complete = full(|reload| reload.complete);
        goals.push(at_most("1 M, file closed to enforced".to_owned(), enforced, 0.6, "s"));
        goals.push(at_most("1 M, file closed to trie complete".to_owned(), complete, 2.5, "s"));
        goals.push(at_most("1 M, enforced, of `nft -f`".to_owned(), of_nft(enforced), 10.0, "%"));
        goals.push(at_most("1 M, trie complete, of `nft -f`".to_owned(), of_nft(complete), 100.0 / 3.0, "%"));
        let small = |time: fn(&Reload) -> f64| control.and_then(|found| control::fastest(&found.one_percent, time));
        let what = "1 % of 1 M changed";
        let enforced = small(|reload| reload.enforced * 1e3);
        goals.push(at_most(format!("{what}, file closed to enforced"), enforced, 200.0, "ms"));
        let window = small(|reload| (reload.enforced - reload.began) * 1e3);
        goals.push(at_most(format!("{what}, first to last changed verdict"), window, 5.0, "ms"));
        let bytes = control.map(control::Outcome::bytes_an_entry);
        goals.push(at_most(
            "memory of the daemon, 1 M, an entry, above an empty one".to_owned(),
            bytes,
            150.0,
            "bytes",
        ));
        let peak = control.map(|control| {
            let above = (control.peak_kib.saturating_sub(control.empty_kib) * 1024) as f64;
            (above - control.file_bytes as f64) / size as f64
        });
        goals.push(at_most("peak of reloads, 1 M, an entry, without the file".to_owned(), peak, 300.0, "bytes"));
    }
}

fn at_most(what: String, measured: Option<f64>, most: f64, unit: &str) -> Goal {
    Goal {
        what,
        target: format!("at most {} {unit}", (most * 10.0).round() / 10.0),
        measured: measured.map_or("not measured".to_owned(), |value| format!("{value:.2} {unit}")),
        reached: measured.map(|value| value <= most),
    }
}

/// A size as people say it.
pub(crate) fn entries(size: usize) -> String {
    match size {
        1_000_000.. if size.is_multiple_of(1_000_000) => format!("{} M", size / 1_000_000),
        1000.. if size.is_multiple_of(1000) => format!("{} k", size / 1000),
        _ => size.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookups::Time;

    fn row(naikon: f64, plain: f64, wrong: usize) -> Row {
        let times = [1.0, 2.0, plain, naikon].map(|minimum| Time { minimum, median: minimum });
        let case = Case::RandomMiss.name().to_owned();
        Row { family: Family::V4, size: 1_000_000, case, caps: Caps::Unit, times, wrong, asked: 10 }
    }

    fn first_goal(naikon: f64, plain: f64) -> Option<bool> {
        Results { lookups: vec![row(naikon, plain, 0)], ..Default::default() }.goals()[0].reached
    }

    #[test]
    fn goal_is_reached_only_with_ratio_and_bound() {
        assert_eq!(first_goal(22.0, 2002.0), Some(true));
        assert_eq!(first_goal(22.0, 1002.0), Some(false), "the ratio is too small");
        assert_eq!(first_goal(42.0, 9002.0), Some(false), "more than 30 ns");
        assert_eq!(Results::default().goals()[0].reached, None);
    }

    #[test]
    fn one_wrong_verdict_is_a_goal_missed() {
        for (wrong, reached) in [(0, Some(true)), (1, Some(false))] {
            let results = Results { lookups: vec![row(3.0, 300.0, wrong)], ..Default::default() };
            assert_eq!(results.goals().last().and_then(|goal| goal.reached), reached);
        }
    }

    #[test]
    fn sizes_are_said_as_people_say_them() {
        for (size, text) in [(87, "87"), (10_000, "10 k"), (1_000_000, "1 M"), (1_500, "1500")] {
            assert_eq!(entries(size), text);
        }
    }
}
