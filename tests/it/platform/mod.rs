//! Both homes of resources.

mod kubernetes;
pub mod local;
