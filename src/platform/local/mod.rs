//! Resources in a folder of manifests: the same event stream as a cluster gives, validated and defaulted by the CRDs' own
//! schemas, so that both homes refuse the same things.
//!
//! [`snapshot`] is the pure core: the files' text and what is known give what changes. [`scan`] reads the folder, `watch`
//! notices changes, [`LocalPlatform`] joins them; uid, generation and status are kept by whoever fills [`LocalRecords`].

mod check;
mod home;
mod kinds;
mod manifest;
mod metadata;
mod object;
mod path;
mod records;
mod scan;
mod schema;
mod snapshot;
mod watch;
mod yaml;

pub use check::{Checked, check, read_single};
pub use home::{LocalConfig, LocalError, LocalPlatform};
pub use kinds::LocalKind;
pub use records::{LocalEvent, LocalJournal, LocalRecord, LocalRecords, RecordsError};
pub use schema::SchemaError;
pub use snapshot::Derive;
