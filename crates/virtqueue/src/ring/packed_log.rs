//! What a packed ring remembers for the dirty log.

use crate::chain::Batch;
use crate::memory::Snapshot;

/// What chains may write to, kept while there is a dirty log: the descriptors themselves may be
/// overwritten by used ones before a chain is complete.
#[derive(Debug, Default)]
pub(super) struct Log {
    buffers: Vec<Vec<(u64, u32)>>,
}

impl Log {
    /// Keeps what the youngest chain of `batch` may write to.
    #[cold]
    pub(super) fn remember(&mut self, index: usize, batch: &Batch) {
        if self.buffers.len() <= index {
            self.buffers.resize(index + 1, Vec::new());
        }
        let buffers = &mut self.buffers[index];
        buffers.clear();
        let chain = batch.len().checked_sub(1).and_then(|last| batch.get(last));
        buffers.extend(
            chain
                .iter()
                .flat_map(|chain| chain.writable)
                .map(|s| (s.guest, s.len)),
        );
    }

    /// Reports the first `written` bytes of a chain. Of one that was taken before there was a log
    /// nothing is known, so it may have written anywhere.
    #[cold]
    pub(super) fn written(&mut self, memory: &Snapshot, index: usize, known: bool, written: u32) {
        let Some(log) = memory.dirty_log() else { return };
        if !known {
            memory
                .regions()
                .iter()
                .for_each(|region| log.mark(region.guest_address, region.size));
            return;
        }
        let mut left = written;
        for (guest, len) in self.buffers.get(index).into_iter().flatten() {
            let size = left.min(*len);
            if size == 0 {
                break;
            }
            log.mark(*guest, u64::from(size));
            left -= size;
        }
    }
}
