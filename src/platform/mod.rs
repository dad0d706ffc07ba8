//! Where resources come from and where status and events go: a cluster or a folder.
