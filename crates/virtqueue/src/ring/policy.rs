//! When an indirect table pays (VIRTIO 1.4, 2.7.5.3 and 2.8.7).

/// A driver's choice between descriptors of the ring and a table of its own for each chain.
///
/// A table is another line to fetch, which the device cannot start before the first; the ring's own descriptors run
/// out. Between two processors a request in a table never took less time, for up to 16 buffers (`benches/README.md`): it
/// pays for what it leaves room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndirectPolicy {
    /// A table for every chain.
    Always,
    /// No tables: a chain that does not fit waits.
    Never,
    /// A table for chains of at least `descriptors`; once less than `1 / spare` of the ring is free, for
    /// all of at least two; and for what would not fit otherwise.
    From {
        /// Descriptors in the chain.
        descriptors: u32,
        /// 2: more than half of the ring is in use; 0: how full the ring is does not matter.
        spare: u32,
    },
}

impl Default for IndirectPolicy {
    /// As measured: chains of 16 and more, for which it makes no difference any more, and any of more than one once
    /// less than a quarter of the ring is free.
    fn default() -> Self {
        Self::From {
            descriptors: 16,
            spare: 4,
        }
    }
}

impl IndirectPolicy {
    /// Whether a table pays for a chain of `descriptors`, with `free` of the ring's `size` left.
    #[inline]
    pub const fn pays(self, descriptors: u32, free: u32, size: u32) -> bool {
        match self {
            // What a table must not be longer than (2.7.5.3.1).
            _ if descriptors == 0 || descriptors > size => false,
            Self::Always => true,
            Self::Never => false,
            Self::From {
                descriptors: from,
                spare,
            } => {
                let filling = descriptors > 1 && (free as u64) * (spare as u64) < size as u64 && spare != 0;
                descriptors >= from || filling || descriptors > free
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pays_for_long_chains_and_in_full_rings() {
        let policy = IndirectPolicy::default();
        // Descriptors, free, pays.
        for (descriptors, free, pays) in [
            (0, 32, false),
            (1, 32, false),
            (2, 32, false),
            (15, 32, false),
            (16, 32, true),
            (32, 32, true),
            (33, 32, false),
            (2, 8, false),
            (2, 7, true),
            (1, 1, false),
            (2, 1, true),
            (12, 11, true),
        ] {
            assert_eq!(
                policy.pays(descriptors, free, 32),
                pays,
                "{descriptors} of {free}"
            );
        }
        let lazy = IndirectPolicy::From {
            descriptors: 100,
            spare: 0,
        };
        assert!(
            !lazy.pays(2, 2, 8) && lazy.pays(3, 2, 8),
            "only what does not fit"
        );
        assert!(IndirectPolicy::Always.pays(1, 8, 8) && !IndirectPolicy::Always.pays(9, 8, 8));
        assert!(!IndirectPolicy::Never.pays(3, 1, 8));
    }
}
