-- Tasks. The release before neither reads nor writes these tables.
INSERT INTO schema_compatibility (version, oldest_reader) VALUES (2, 1);

-- A server that may be called only so often a day: its calls on the last UTC day that had any (days since 1970).
ALTER TABLE servers ADD COLUMN calls_per_day INTEGER;
CREATE TABLE server_days (
    server_url TEXT PRIMARY KEY,
    day INTEGER NOT NULL,
    calls INTEGER NOT NULL
) STRICT;

-- Experts, queues, pools and schedules, as they are declared.
CREATE TABLE declared (
    uid TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    generation INTEGER NOT NULL,
    labels TEXT NOT NULL,
    spec TEXT NOT NULL,
    suspended INTEGER NOT NULL,
    held TEXT,
    gone_at INTEGER
) STRICT;
CREATE UNIQUE INDEX declared_living ON declared (kind, namespace, name) WHERE gone_at IS NULL;
CREATE INDEX declared_gone ON declared (kind, gone_at) WHERE gone_at IS NOT NULL;

-- One for each process and queue, or a webhook's task: heartbeats move these rows, not the tasks'.
CREATE TABLE leases (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    holder TEXT NOT NULL,
    namespace TEXT NOT NULL,
    queue TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    UNIQUE (holder, namespace, queue)
) STRICT;
CREATE INDEX leases_by_end ON leases (expires_at);

-- Live tasks. Assigned are those with an `assignment_reason`; until then `expert` is only a wish. `rank`: lowest goes first.
-- What may be large comes last, so that whoever does not ask for it need not read over it.
CREATE TABLE tasks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    namespace TEXT NOT NULL,
    queue TEXT NOT NULL,
    domain TEXT NOT NULL,
    role TEXT NOT NULL,
    model TEXT,
    priority INTEGER NOT NULL,
    run_after INTEGER,
    deadline INTEGER,
    key TEXT,
    labels TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'in_progress', 'deferred_to_human')),
    created_at INTEGER NOT NULL,
    state_since INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    expert TEXT,
    assignment_reason TEXT,
    candidates TEXT NOT NULL DEFAULT '[]',
    assigned_model TEXT,
    attempts_used INTEGER NOT NULL DEFAULT 0 CHECK (attempts_used >= 0),
    free_requeues INTEGER NOT NULL DEFAULT 0 CHECK (free_requeues >= 0),
    leases_lost INTEGER NOT NULL DEFAULT 0 CHECK (leases_lost >= 0),
    cycle INTEGER NOT NULL DEFAULT 1 CHECK (cycle >= 1),
    epoch INTEGER NOT NULL DEFAULT 0 CHECK (epoch >= 0),
    lease INTEGER REFERENCES leases (id),
    reason TEXT,
    attempts TEXT NOT NULL DEFAULT '[]',
    payload TEXT NOT NULL,
    CHECK ((state = 'in_progress') = (lease IS NOT NULL)),
    CHECK (state <> 'in_progress' OR (expert IS NOT NULL AND assignment_reason IS NOT NULL))
) STRICT;
-- Ranks from 2^62 on are of tasks that are not due yet.
CREATE INDEX tasks_to_claim ON tasks (namespace, queue, assigned_model, expert, rank, id)
    WHERE state = 'pending' AND assignment_reason IS NOT NULL AND rank < 4611686018427387904;
CREATE INDEX tasks_scheduled ON tasks (rank) WHERE state = 'pending' AND rank >= 4611686018427387904;
CREATE INDEX tasks_unassigned ON tasks (id) WHERE state = 'pending' AND assignment_reason IS NULL;
CREATE INDEX tasks_by_expert ON tasks (namespace, expert, state);
CREATE INDEX tasks_by_lease ON tasks (lease) WHERE lease IS NOT NULL;
CREATE INDEX tasks_by_change ON tasks (state_since, id);
CREATE INDEX tasks_by_state ON tasks (namespace, queue, state, state_since, rank);
CREATE INDEX tasks_by_deadline ON tasks (deadline) WHERE state = 'pending' AND deadline IS NOT NULL;

-- A claim is a new epoch of what was pending; no epoch falls.
CREATE TRIGGER tasks_transitions BEFORE UPDATE OF state, epoch, cycle ON tasks
WHEN new.epoch < old.epoch OR new.cycle < old.cycle
    OR (new.state = 'in_progress' AND old.state <> 'in_progress' AND (old.state <> 'pending' OR new.epoch <= old.epoch))
BEGIN
    SELECT raise(ABORT, 'a transition that tasks do not have');
END;

-- Ended tasks, kept for a while; `retry` brings them back.
CREATE TABLE finished_tasks (
    id INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL,
    queue TEXT NOT NULL,
    domain TEXT NOT NULL,
    role TEXT NOT NULL,
    model TEXT,
    priority INTEGER NOT NULL,
    run_after INTEGER,
    deadline INTEGER,
    key TEXT,
    labels TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('completed', 'failed', 'cancelled')),
    created_at INTEGER NOT NULL,
    state_since INTEGER NOT NULL,
    expert TEXT,
    assignment_reason TEXT,
    candidates TEXT NOT NULL,
    assigned_model TEXT,
    attempts_used INTEGER NOT NULL,
    free_requeues INTEGER NOT NULL,
    leases_lost INTEGER NOT NULL,
    cycle INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    reason TEXT,
    attempts TEXT NOT NULL,
    payload TEXT NOT NULL,
    result TEXT
) STRICT;
CREATE INDEX finished_tasks_by_queue ON finished_tasks (namespace, queue, state, state_since);
CREATE INDEX finished_tasks_by_end ON finished_tasks (state_since);

-- How many tasks there are of each kind. Ended ones count for the ten minutes in which they ended, and by queue alone.
CREATE TABLE task_counts (
    namespace TEXT NOT NULL,
    queue TEXT NOT NULL,
    state TEXT NOT NULL,
    domain TEXT NOT NULL DEFAULT '',
    role TEXT NOT NULL DEFAULT '',
    expert TEXT NOT NULL DEFAULT '',
    model TEXT NOT NULL DEFAULT '',
    is_assigned INTEGER NOT NULL DEFAULT 1,
    is_due INTEGER NOT NULL DEFAULT 1,
    -- In microseconds since 1970.
    ended_at INTEGER NOT NULL DEFAULT 0,
    count INTEGER NOT NULL,
    PRIMARY KEY (namespace, queue, state, domain, role, expert, model, is_assigned, is_due, ended_at)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER count_new AFTER INSERT ON tasks BEGIN
    INSERT INTO task_counts
    VALUES (new.namespace, new.queue, new.state, new.domain, new.role, coalesce(new.expert, ''), coalesce(new.assigned_model, ''),
        new.assignment_reason IS NOT NULL, new.rank < 4611686018427387904, 0, 1)
    ON CONFLICT DO UPDATE SET count = count + 1;
END;
CREATE TRIGGER count_gone AFTER DELETE ON tasks BEGIN
    INSERT INTO task_counts
    VALUES (old.namespace, old.queue, old.state, old.domain, old.role, coalesce(old.expert, ''), coalesce(old.assigned_model, ''),
        old.assignment_reason IS NOT NULL, old.rank < 4611686018427387904, 0, -1)
    ON CONFLICT DO UPDATE SET count = count - 1;
END;
CREATE TRIGGER count_changed AFTER UPDATE OF state, expert, assigned_model, assignment_reason, rank ON tasks
WHEN new.state <> old.state OR new.expert IS NOT old.expert OR new.assigned_model IS NOT old.assigned_model
    OR (new.assignment_reason IS NULL) <> (old.assignment_reason IS NULL)
    OR (new.rank < 4611686018427387904) <> (old.rank < 4611686018427387904)
BEGIN
    INSERT INTO task_counts
    VALUES (old.namespace, old.queue, old.state, old.domain, old.role, coalesce(old.expert, ''), coalesce(old.assigned_model, ''),
        old.assignment_reason IS NOT NULL, old.rank < 4611686018427387904, 0, -1)
    ON CONFLICT DO UPDATE SET count = count - 1;
    INSERT INTO task_counts
    VALUES (new.namespace, new.queue, new.state, new.domain, new.role, coalesce(new.expert, ''), coalesce(new.assigned_model, ''),
        new.assignment_reason IS NOT NULL, new.rank < 4611686018427387904, 0, 1)
    ON CONFLICT DO UPDATE SET count = count + 1;
END;
CREATE TRIGGER count_ended AFTER INSERT ON finished_tasks BEGIN
    INSERT INTO task_counts (namespace, queue, state, ended_at, count)
    VALUES (new.namespace, new.queue, new.state, new.state_since / 600000000 * 600000000, 1)
    ON CONFLICT DO UPDATE SET count = count + 1;
END;
CREATE TRIGGER count_purged AFTER DELETE ON finished_tasks BEGIN
    INSERT INTO task_counts (namespace, queue, state, ended_at, count)
    VALUES (old.namespace, old.queue, old.state, old.state_since / 600000000 * 600000000, -1)
    ON CONFLICT DO UPDATE SET count = count - 1;
END;

-- Unique in a queue until purged, whichever of the two tables the task is in.
CREATE TABLE task_keys (
    namespace TEXT NOT NULL,
    queue TEXT NOT NULL,
    key TEXT NOT NULL,
    id INTEGER NOT NULL,
    PRIMARY KEY (namespace, queue, key)
) STRICT, WITHOUT ROWID;

-- A run of a schedule is fired once. It replaces live tasks of the schedule with ids below `replaces_below`, until that is NULL.
CREATE TABLE schedule_runs (
    schedule TEXT NOT NULL,
    run_at INTEGER NOT NULL,
    replaces_below INTEGER,
    PRIMARY KEY (schedule, run_at)
) STRICT, WITHOUT ROWID;

-- Which process a holder of slots and leases is, so that its death can be known. One that locked the data folder is dead when
-- another one has the lock.
CREATE TABLE holders (
    holder TEXT PRIMARY KEY,
    process TEXT NOT NULL,
    locked_folder INTEGER NOT NULL,
    registered_at INTEGER NOT NULL
) STRICT;

CREATE TABLE workers (
    holder TEXT PRIMARY KEY,
    report TEXT NOT NULL,
    reported_at INTEGER NOT NULL
) STRICT;
