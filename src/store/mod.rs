//! Leadership, projections, recovery state and slots in PostgreSQL and in SQLite, behind one trait.
