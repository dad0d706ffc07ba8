//! Room on a disk, and when it is too little to begin something.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// Of one file system, as users without privileges may use it. A percentage alone would say nothing: 5 % of a large disk is room
/// for years, half of a small one may not take one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskSpace {
    pub free_bytes: u64,
    pub total_bytes: u64,
}

impl DiskSpace {
    /// What a worker writes before the database is back: answers of a few MiB at most.
    pub const FOR_RESULTS: u64 = 1 << 30;
    /// A model or an image.
    pub const FOR_DOWNLOADS: u64 = 10 << 30;

    /// Of the file system that holds `path`; `None` where the system can't tell.
    pub fn of(path: &Path) -> Option<Self> {
        let stat = nix::sys::statvfs::statvfs(path).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
        (stat.blocks() > 0)
            .then(|| Self { free_bytes: bytes(stat.blocks_available()), total_bytes: bytes(stat.blocks()) })
    }

    /// Less free than `enough`, and less than 5 % of the whole: a small disk need not have as much.
    pub const fn is_short_of(self, enough: u64) -> bool {
        self.free_bytes < enough && self.free_bytes < self.total_bytes / 20
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_this_machine() {
        let space = DiskSpace::of(&std::env::temp_dir()).expect("it can be told");
        assert!(space.total_bytes > 1 << 20 && space.free_bytes <= space.total_bytes, "{space:?}");
        assert_eq!(DiskSpace::of(Path::new("/no/such/folder")), None);
    }

    #[test]
    fn it_is_short_only_where_both_bounds_are_crossed() {
        const MIB: u64 = 1 << 20;
        const GIB: u64 = 1 << 30;
        for (free_bytes, total_bytes, results, downloads) in [
            (12 * GIB, 252 * GIB, false, false),
            (9 * GIB, 252 * GIB, false, true),
            (GIB, 252 * GIB, false, true),
            (GIB - 1, 252 * GIB, true, true),
            // A small disk.
            (GIB / 2, 4 * GIB, false, false),
            (MIB, 12 * MIB, false, false),
            (MIB / 2, 12 * MIB, true, true),
            (0, 12 * MIB, true, true),
        ] {
            let space = DiskSpace { free_bytes, total_bytes };
            assert_eq!(space.is_short_of(DiskSpace::FOR_RESULTS), results, "{space:?}");
            assert_eq!(space.is_short_of(DiskSpace::FOR_DOWNLOADS), downloads, "{space:?}");
        }
    }
}
