//! The custom resources as Rust types: no I/O, no dependency on the rest.
