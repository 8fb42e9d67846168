//! The steps whose order between the two ends matters.
//!
//! One end makes something visible (`show_…`) and then looks whether the other end sleeps (`…_wanted`);
//! the other end says that it is about to sleep and then looks again whether something has become
//! visible (`await_…`). With a full fence between the two halves of both, at least one end sees what the
//! other wrote: no wake-up is lost.
//!
//! Generic over the words and the fences, so that the tests run these very steps under every
//! interleaving that the memory model allows (loom).

use super::barriers::Fences;
use super::packed_layout::{
    EVENT_DESC, EVENT_DISABLE, EVENT_ENABLE, Head, Position, passed as packed_passed,
};
use super::split_layout::{NO_INTERRUPT, NO_NOTIFY, passed};
use std::sync::atomic::Ordering;

/// The words of a split ring that wake-ups depend on.
pub(super) trait SplitWords {
    fn available_idx(&self, order: Ordering) -> u16;
    fn set_available_idx(&self, index: u16, order: Ordering);
    fn used_idx(&self, order: Ordering) -> u16;
    fn set_used_idx(&self, index: u16, order: Ordering);
    fn available_flags(&self) -> u16;
    fn set_available_flags(&self, flags: u16);
    fn used_flags(&self) -> u16;
    fn set_used_flags(&self, flags: u16);
    fn avail_event(&self) -> u16;
    fn set_avail_event(&self, index: u16);
    fn used_event(&self) -> u16;
    fn set_used_event(&self, index: u16);
}

/// The driver has written entries and descriptors up to `new`: shows them to the device.
#[inline]
pub(super) fn show_available(words: &impl SplitWords, fences: &impl Fences, new: u16) {
    fences.write();
    // Release: pairs with the acquire in `look_at_available`.
    words.set_available_idx(new, Ordering::Release);
}

/// The driver has shown entries from `old` to `new`. Whether the device wants a kick.
#[inline]
pub(super) fn kick_wanted(
    words: &impl SplitWords,
    fences: &impl Fences,
    (old, new): (u16, u16),
    event_idx: bool,
) -> bool {
    // Pairs with the fence in `await_available`.
    fences.full();
    if event_idx {
        passed(words.avail_event(), old, new)
    } else {
        words.used_flags() & NO_NOTIFY == 0
    }
}

/// The device looks how far the driver has come; everything before that is there.
#[inline]
pub(super) fn look_at_available(words: &impl SplitWords, fences: &impl Fences) -> u16 {
    // Acquire: pairs with the release in `show_available`.
    let index = words.available_idx(Ordering::Acquire);
    fences.read();
    index
}

/// The device, at `next`, asks for a kick, unless it has by its flags (`asked`), and looks again. Whether
/// there is something already.
#[inline]
pub(super) fn await_available(
    words: &impl SplitWords,
    fences: &impl Fences,
    next: u16,
    event_idx: bool,
    asked: bool,
) -> bool {
    if event_idx {
        words.set_avail_event(next);
    } else if !asked {
        words.set_used_flags(0);
    }
    // Pairs with the fence in `kick_wanted`.
    fences.full();
    // Relaxed: `look_at_available` comes before anything is used.
    words.available_idx(Ordering::Relaxed) != next
}

/// The device has written used entries up to `new`: shows them to the driver.
#[inline]
pub(super) fn show_used(words: &impl SplitWords, fences: &impl Fences, new: u16) {
    fences.write();
    // Release: pairs with the acquire in `look_at_used`; the driver sees the entries, and what was
    // written into the buffers.
    words.set_used_idx(new, Ordering::Release);
}

/// The device has shown used entries from `old` to `new`. Whether the driver wants to be notified.
#[inline]
pub(super) fn call_wanted(
    words: &impl SplitWords,
    fences: &impl Fences,
    (old, new): (u16, u16),
    event_idx: bool,
) -> bool {
    // Pairs with the fence in `await_used`.
    fences.full();
    if event_idx {
        passed(words.used_event(), old, new)
    } else {
        words.available_flags() & NO_INTERRUPT == 0
    }
}

/// The driver looks how far the device has come.
#[inline]
pub(super) fn look_at_used(words: &impl SplitWords, fences: &impl Fences) -> u16 {
    // Acquire: pairs with the release in `show_used`.
    let index = words.used_idx(Ordering::Acquire);
    fences.read();
    index
}

/// The driver, at `seen`, asks for a notification and looks again. Whether something has been used
/// already.
#[inline]
pub(super) fn await_used(words: &impl SplitWords, fences: &impl Fences, seen: u16, event_idx: bool) -> bool {
    if event_idx {
        words.set_used_event(seen);
    } else {
        words.set_available_flags(0);
    }
    // Pairs with the fence in `call_wanted`.
    fences.full();
    // Relaxed: `look_at_used` comes before anything is used.
    words.used_idx(Ordering::Relaxed) != seen
}

/// The words of a packed ring that wake-ups depend on, as one of the ends sees them.
pub(super) trait PackedWords {
    fn head(&self, offset: u16, order: Ordering) -> Head;
    fn set_head(&self, offset: u16, head: Head, order: Ordering);
    /// The event suppression structure that this end writes.
    fn set_own_descriptor(&self, word: u16, order: Ordering);
    fn set_own_flags(&self, flags: u16, order: Ordering);
    /// The one that the other end writes.
    fn other_descriptor(&self, order: Ordering) -> u16;
    fn other_flags(&self, order: Ordering) -> u16;
}

/// An end that has written descriptors shows the other end the first of them, and with it all.
#[inline]
pub(super) fn show_head(words: &impl PackedWords, fences: &impl Fences, offset: u16, head: Head) {
    fences.write();
    // Release: pairs with the acquire in `look_at_head`; the other end sees the descriptors behind
    // this one, and what is in the buffers.
    words.set_head(offset, head, Ordering::Release);
}

/// An end has shown `moved` descriptors, up to `new`. Whether the other end wants to be notified (VIRTIO
/// 1.4, 2.8.10).
#[inline]
pub(super) fn head_wanted(
    words: &impl PackedWords,
    fences: &impl Fences,
    (new, moved): (Position, u32),
    size: u32,
    event_idx: bool,
) -> bool {
    // Pairs with the fence in `await_head`.
    fences.full();
    // Acquire: pairs with the release in `set_event`.
    let flags = words.other_flags(Ordering::Acquire) & 3;
    if flags != EVENT_DESC || !event_idx {
        // DESC without the feature, and the reserved value 3, mean nothing: a notification too
        // many does no harm, one too few does.
        return flags != EVENT_DISABLE;
    }
    fences.read();
    let event = Position::from_word(words.other_descriptor(Ordering::Relaxed));
    packed_passed(event, new, moved, size)
}

/// An end looks at the next descriptor.
#[inline]
pub(super) fn look_at_head(words: &impl PackedWords, fences: &impl Fences, offset: u16) -> Head {
    // Acquire: pairs with the release in `show_head`; the rest of the list, and what is in its
    // buffers, is there.
    let head = words.head(offset, Ordering::Acquire);
    fences.read();
    head
}

/// Says when this end wants to be notified.
#[inline]
pub(super) fn set_event(words: &impl PackedWords, fences: &impl Fences, flags: u16, position: Position) {
    if flags == EVENT_DESC {
        words.set_own_descriptor(position.word(), Ordering::Relaxed);
        fences.write();
    }
    // Release: pairs with the acquire of the flags in `head_wanted`; whoever sees DESC sees the
    // descriptor that is meant.
    words.set_own_flags(flags, Ordering::Release);
}

/// An end at `position` asks for a notification, unless it has by its flags (`asked`), and looks again:
/// the descriptor there.
#[inline]
pub(super) fn await_head(
    words: &impl PackedWords,
    fences: &impl Fences,
    position: Position,
    event_idx: bool,
    asked: bool,
) -> Head {
    if event_idx {
        set_event(words, fences, EVENT_DESC, position);
    } else if !asked {
        set_event(words, fences, EVENT_ENABLE, position);
    }
    // Pairs with the fence in `head_wanted`.
    fences.full();
    // Relaxed: `look_at_head` comes before anything is used.
    words.head(position.offset, Ordering::Relaxed)
}
