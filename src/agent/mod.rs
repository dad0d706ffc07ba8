//! The host agent's server: services, operations and its own check loop.
