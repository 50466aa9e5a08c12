//! Who is told of events: a bounded queue for each reader, and what a reader lost because its queue was full.
//!
//! Nobody who tells waits for a reader. One that has room again is told first what it missed.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};

use crate::event::{Filter, Line, Loss, lost_line};

/// Lines that wait for one reader.
const WAITING_MAX: usize = 4096;
/// Followers at the control socket at a time.
pub(crate) const FOLLOWERS_MAX: usize = 16;

/// A line that is on its way.
#[derive(Clone)]
pub(crate) struct Item {
    pub(crate) text: Arc<str>,
    /// How many packets it stands for.
    pub(crate) packets: u64,
}

impl Item {
    pub(crate) fn new(text: String, packets: u64) -> Self {
        Item { text: text.into(), packets }
    }
}

/// What may be written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Form {
    /// Everything.
    Values,
    /// Nothing that the marking of a list forbids to write where many read.
    Withheld,
}

/// Kinds of readers, as metrics tell them apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Reader {
    /// The file or standard output.
    Output,
    /// A follower at the control socket.
    Socket,
}

/// Lines that a reader did not get.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Missed {
    pub(crate) lines: u64,
    pub(crate) packets: u64,
}

impl Missed {
    pub(crate) fn add(&mut self, item: &Item) {
        self.lines += 1;
        self.packets += item.packets;
    }

    /// The line that tells of them.
    pub(crate) fn item(self, now_ns: i128) -> Item {
        Item::new(lost_line(now_ns, Loss::Reader(self.lines), self.packets), self.packets)
    }
}

/// All readers.
pub(crate) struct Outlets {
    open: Mutex<Open>,
    seats: Arc<Semaphore>,
    /// Lines lost to readers, by kind.
    output_lost: AtomicU64,
    socket_lost: AtomicU64,
}

#[derive(Default)]
struct Open {
    outlets: Vec<Outlet>,
    is_over: bool,
}

struct Outlet {
    sender: mpsc::Sender<Item>,
    filter: Filter,
    form: Form,
    reader: Reader,
    missed: Missed,
}

impl Outlets {
    pub(crate) fn new() -> Self {
        Outlets {
            open: Mutex::default(),
            seats: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
            output_lost: AtomicU64::new(0),
            socket_lost: AtomicU64::new(0),
        }
    }

    /// Lines for the configured output.
    pub(super) fn output(&self, form: Form) -> mpsc::Receiver<Item> {
        self.add(Filter::default(), form, Reader::Output)
    }

    /// Lines for a follower, who keeps the seat as long as he listens; none where `at_most` listen already.
    pub(super) fn seat(&self, filter: Filter, at_most: usize) -> Option<(mpsc::Receiver<Item>, OwnedSemaphorePermit)> {
        let taken = FOLLOWERS_MAX - self.seats.available_permits();
        if taken >= at_most {
            return None;
        }
        let seat = Arc::clone(&self.seats).try_acquire_owned().ok()?;
        Some((self.add(filter, Form::Values, Reader::Socket), seat))
    }

    fn add(&self, filter: Filter, form: Form, reader: Reader) -> mpsc::Receiver<Item> {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let mut open = self.lock();
        // Whoever comes at the end hears that it is over.
        if !open.is_over {
            open.outlets.push(Outlet { sender, filter, form, reader, missed: Missed::default() });
        }
        receiver
    }

    /// Whether nobody listens.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().outlets.is_empty()
    }

    /// Tells a line to all who want it, in the form that each may have; it is written once a form.
    pub(super) fn tell(&self, line: &Line<'_>, now_ns: i128, write: impl Fn(Form) -> String) {
        let (mut values, mut withheld) = (None, None);
        self.each(now_ns, |outlet| {
            let written = match outlet.form {
                Form::Values => &mut values,
                Form::Withheld => &mut withheld,
            };
            let item = || written.get_or_insert_with(|| Item::new(write(outlet.form), line.packets())).clone();
            outlet.filter.wants(line).then(item)
        });
    }

    /// Tells a line that concerns everybody.
    pub(super) fn tell_all(&self, item: &Item, now_ns: i128) {
        self.each(now_ns, |_| Some(item.clone()));
    }

    /// Tells those that have room again what they missed, and parts with those that have gone.
    pub(super) fn settle(&self, now_ns: i128) {
        self.each(now_ns, |_| None);
    }

    fn each(&self, now_ns: i128, mut item: impl FnMut(&Outlet) -> Option<Item>) {
        self.lock().outlets.retain_mut(|outlet| {
            let item = item(outlet);
            match outlet.offer(item, now_ns) {
                Offered::Taken => {}
                Offered::Missed => self.lost(outlet.reader, 1),
                Offered::Gone => return false,
            }
            true
        });
    }

    /// There is no more to tell.
    pub(super) fn close(&self) {
        let mut open = self.lock();
        open.is_over = true;
        open.outlets.clear();
    }

    /// Waits until followers have gone, or so long.
    pub(super) async fn left(&self, at_most: Duration) {
        // Whoever does not read keeps no daemon from its end.
        let _left = timeout(at_most, self.seats.acquire_many(FOLLOWERS_MAX as u32)).await;
    }

    /// Counts lines that a reader lost.
    pub(super) fn lost(&self, reader: Reader, lines: u64) {
        self.counter(reader).fetch_add(lines, Ordering::Relaxed);
    }

    /// How many lines readers of this kind have lost.
    pub(super) fn lines_lost(&self, reader: Reader) -> u64 {
        self.counter(reader).load(Ordering::Relaxed)
    }

    fn counter(&self, reader: Reader) -> &AtomicU64 {
        match reader {
            Reader::Output => &self.output_lost,
            Reader::Socket => &self.socket_lost,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // No panic leaves it half done.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Offered {
    Taken,
    Missed,
    Gone,
}

impl Outlet {
    fn offer(&mut self, item: Option<Item>, now_ns: i128) -> Offered {
        if self.sender.is_closed() {
            return Offered::Gone;
        }
        if self.missed.lines > 0
            && let Ok(room) = self.sender.try_reserve()
        {
            room.send(self.missed.item(now_ns));
            self.missed = Missed::default();
        }
        let Some(item) = item else { return Offered::Taken };
        match self.sender.try_reserve() {
            Ok(room) => {
                room.send(item);
                Offered::Taken
            }
            Err(_) => {
                self.missed.add(&item);
                Offered::Missed
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(number: usize) -> Item {
        Item::new(format!("{number}\n"), 1)
    }

    #[test]
    fn reader_that_takes_nothing_loses_lines_and_is_told_how_many() {
        let outlets = Outlets::new();
        let (mut deaf, _seat) = outlets.seat(Filter::default(), 8).unwrap();
        let mut keen = outlets.output(Form::Values);
        for number in 0..WAITING_MAX + 7 {
            outlets.tell_all(&item(number), 0);
            assert_eq!(&*keen.try_recv().unwrap().text, format!("{number}\n"), "the other one loses nothing");
        }
        assert_eq!((outlets.lines_lost(Reader::Socket), outlets.lines_lost(Reader::Output)), (7, 0));
        for number in 0..WAITING_MAX {
            assert_eq!(&*deaf.try_recv().unwrap().text, format!("{number}\n"));
        }
        outlets.settle(0);
        let told = deaf.try_recv().unwrap();
        assert_eq!(told.packets, 7);
        assert!(told.text.contains(r#""naikon":{"cause":"reader","lines":7,"count":7}"#), "{}", told.text);
        outlets.tell_all(&item(0), 0);
        assert_eq!(&*deaf.try_recv().unwrap().text, "0\n");
        assert_eq!(&*keen.try_recv().unwrap().text, "0\n");
        outlets.close();
        assert!(deaf.blocking_recv().is_none() && keen.blocking_recv().is_none(), "the end is heard");
    }

    #[test]
    fn followers_have_so_many_seats_and_give_them_back() {
        let outlets = Outlets::new();
        let seats: Vec<_> = (0..3).map(|_| outlets.seat(Filter::default(), 3).unwrap()).collect();
        assert!(outlets.seat(Filter::default(), 3).is_none());
        drop(seats);
        outlets.settle(0);
        assert!(outlets.is_empty());
        assert!((0..FOLLOWERS_MAX).map(|_| outlets.seat(Filter::default(), 99)).collect::<Option<Vec<_>>>().is_some());
    }
}
