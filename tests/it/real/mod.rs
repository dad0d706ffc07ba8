//! Real parts for tests: PostgreSQL, Kubernetes, Docker, and whatever else a script in `tests/parts/` serves.
//!
//! A test that needs one has a name that begins with `real_`. `tests/run` puts everything in place that the scripts need.

mod chart;
mod counter;
mod docker;
mod kubernetes;
mod mlx;
mod ollama;
mod part;
mod port;
mod postgres;

pub use chart::Chart;
pub use counter::Counter;
pub use docker::Docker;
pub use kubernetes::{ApiServer, Cluster};
pub use mlx::Mlx;
pub use ollama::Ollama;
pub use part::{Part, cache, part_script};
pub use port::free_port;
pub use postgres::Postgres;
