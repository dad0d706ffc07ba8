//! Workloads and containers as seen and changed.
