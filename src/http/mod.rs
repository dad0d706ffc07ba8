//! REST API, health and the metrics page.
