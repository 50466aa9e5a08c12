//! One computation on several processors: the only place below the daemon that starts threads.
//!
//! They end before the function does and share nothing but what they are given: callers get values for values as ever.
//! What is worth a thread callers decide; here it is decided how many there are.

use std::{
    num::NonZeroUsize,
    thread::{self, Builder},
};

/// More would wait for memory rather than for processors.
const MOST: usize = 8;

/// Into how many shares work of this size is worth being cut, when one of `least` is worth a thread.
pub(crate) fn shares(size: usize, least: usize) -> usize {
    match size / least.max(1) {
        // Finding out how many processors there are takes longer than reading a short list.
        0 | 1 => 1,
        worth => thread::available_parallelism().map_or(1, NonZeroUsize::get).min(worth).min(MOST),
    }
}

/// What `work` makes of each of `shares`, in their order.
pub(crate) fn map<T: Send, R: Send>(shares: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let work = &work;
    let mut slots: Vec<(Option<T>, Option<R>)> = shares.into_iter().map(|share| (Some(share), None)).collect();
    thread::scope(|scope| {
        let run = move |slot: &mut (Option<T>, Option<R>)| slot.1 = slot.0.take().map(work);
        let mut slots = slots.iter_mut();
        let own = slots.next();
        for slot in slots {
            // A thread that cannot be started leaves its share.
            let _left = Builder::new().name("share".into()).spawn_scoped(scope, move || run(slot));
        }
        own.map(run)
    });
    slots.into_iter().filter_map(|(share, result)| result.or_else(|| share.map(work))).collect()
}

/// Sorts; of equals any may come first.
pub(crate) fn sort<T: Ord + Send>(values: &mut [T]) {
    /// Sorting so many takes some milliseconds.
    const LEAST: usize = 200_000;
    if !values.is_sorted() {
        sort_shares(values, shares(values.len(), LEAST));
    }
}

fn sort_shares<T: Ord + Send>(values: &mut [T], shares: usize) {
    let middle = values.len() / 2;
    if shares < 2 || middle == 0 {
        return values.sort_unstable();
    }
    let (_, _, _) = values.select_nth_unstable(middle);
    let (low, high) = values.split_at_mut(middle);
    map(vec![(low, shares / 2), (high, shares - shares / 2)], |(values, shares)| sort_shares(values, shares));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn results_come_in_the_order_of_the_shares() {
        assert_eq!(map((0..20).collect(), |share| share * 2), (0..40).step_by(2).collect::<Vec<_>>());
        assert!(map(Vec::<u8>::new(), |share| share).is_empty());
    }

    #[test]
    fn short_work_is_not_cut() {
        assert_eq!([shares(0, 10), shares(19, 10), shares(19, 0).min(1)], [1; 3]);
        assert!((1..=MOST).contains(&shares(usize::MAX, 1)));
    }

    proptest! {
        #[test]
        fn sorting_in_shares_sorts(mut values: Vec<u8>, shares in 1_usize..9) {
            let mut expected = values.clone();
            expected.sort();
            sort_shares(&mut values, shares);
            prop_assert_eq!(values, expected);
        }
    }
}
