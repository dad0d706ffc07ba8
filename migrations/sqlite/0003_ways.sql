-- Callbacks. add_task and the view results are PostgreSQL's alone: a data folder's database has no other users.
INSERT INTO schema_compatibility (version, oldest_reader) VALUES (3, 1);

-- Ends of tasks whose queue has onFinished, until somebody was told: those of one task in the order in which they came.
CREATE TABLE callbacks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    namespace TEXT NOT NULL,
    queue TEXT NOT NULL,
    task INTEGER NOT NULL,
    key TEXT,
    state TEXT NOT NULL,
    reason TEXT,
    cycle INTEGER NOT NULL,
    ended_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    due_at INTEGER NOT NULL
) STRICT;
CREATE INDEX callbacks_by_task ON callbacks (task, id);
CREATE INDEX callbacks_due ON callbacks (namespace, queue, due_at, id);
CREATE INDEX callbacks_by_end ON callbacks (ended_at);
CREATE TRIGGER note_callbacks AFTER INSERT ON finished_tasks BEGIN
    INSERT INTO callbacks (namespace, queue, task, key, state, reason, cycle, ended_at, due_at)
    SELECT new.namespace, new.queue, new.id, new.key, new.state, new.reason, new.cycle, new.state_since, new.state_since
    FROM declared AS q WHERE q.kind = 'TaskQueue' AND q.namespace = new.namespace AND q.name = new.queue AND q.gone_at IS NULL
        AND q.spec ->> '$.onFinished' IS NOT NULL;
END;
