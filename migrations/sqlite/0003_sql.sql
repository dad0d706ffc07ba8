-- add_task and the view results are PostgreSQL's alone: a data folder's database has no other users.
INSERT INTO schema_compatibility (version, oldest_reader) VALUES (3, 1);
