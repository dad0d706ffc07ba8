//! Metrics, tracing, and which loops are alive.
