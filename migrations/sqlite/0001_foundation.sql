-- Times are microseconds since 1970 (UTC), JSON is text. Leases use this machine's wall clock.

CREATE TABLE installation (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    id TEXT NOT NULL
) STRICT;

-- Which releases can still work with a schema: those that know `oldest_reader` or newer.
CREATE TABLE schema_compatibility (
    version INTEGER PRIMARY KEY,
    oldest_reader INTEGER NOT NULL
) STRICT;
INSERT INTO schema_compatibility (version, oldest_reader) VALUES (1, 1);

CREATE TABLE leadership (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    holder TEXT NOT NULL,
    epoch INTEGER NOT NULL
) STRICT;
INSERT INTO leadership (one, holder, epoch) VALUES (1, '', 0);

CREATE TABLE backends (
    uid TEXT PRIMARY KEY,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    generation INTEGER NOT NULL,
    engine TEXT NOT NULL,
    url TEXT NOT NULL,
    server_url TEXT NOT NULL,
    priority INTEGER NOT NULL,
    spec TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    ready INTEGER NOT NULL,
    ready_since INTEGER,
    gone_at INTEGER
) STRICT;
CREATE INDEX backends_by_server ON backends (server_url) WHERE gone_at IS NULL;
CREATE INDEX backends_gone ON backends (gone_at) WHERE gone_at IS NOT NULL;

CREATE TABLE recoveries (
    uid TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    saved_at INTEGER NOT NULL
) STRICT;

CREATE TABLE servers (
    url TEXT PRIMARY KEY,
    slot_limit INTEGER NOT NULL,
    admission TEXT NOT NULL CHECK (admission IN ('Closed', 'One', 'Open')),
    instance TEXT
) STRICT;

-- A row is given again and again, each time with a higher epoch.
CREATE TABLE slots (
    server_url TEXT NOT NULL REFERENCES servers (url) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    holder TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    purpose TEXT NOT NULL CHECK (purpose IN ('Call', 'Canary')),
    -- Whose call: NULL for canaries.
    class TEXT CHECK (class IN ('Interactive', 'Batch')),
    -- Of the gateway's calls, NAMESPACE/NAME of the Caller.
    caller TEXT,
    model TEXT,
    taken_at INTEGER NOT NULL,
    lease_expires_at INTEGER NOT NULL,
    call_ends_at INTEGER NOT NULL,
    -- Of the call that runs now: when it was sent, and its last byte. Both NULL between calls and before the first one.
    call_began_at INTEGER,
    last_byte_at INTEGER,
    -- The server works on that call although its client is gone: MLX reads a prompt to its end.
    outlives_client INTEGER NOT NULL DEFAULT 0,
    instance TEXT,
    aborted INTEGER NOT NULL DEFAULT 0,
    frees_at INTEGER,
    PRIMARY KEY (server_url, number)
) STRICT;

-- Calls that wait for a slot, by process: refreshed each second, and lapsed some seconds later.
CREATE TABLE slot_waits (
    server_url TEXT NOT NULL,
    holder TEXT NOT NULL,
    class TEXT NOT NULL CHECK (class IN ('Interactive', 'Batch')),
    -- Of the gateway's calls; empty: tasks.
    caller TEXT NOT NULL,
    weight INTEGER NOT NULL,
    calls INTEGER NOT NULL,
    since INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    PRIMARY KEY (server_url, holder, class, caller)
) STRICT;

-- The time that slots of a server were taken, by the minute in which they were given back. A row is used again after some minutes.
CREATE TABLE slot_shares (
    server_url TEXT NOT NULL,
    class TEXT NOT NULL CHECK (class IN ('Interactive', 'Batch')),
    -- Of the gateway's calls; empty: tasks.
    caller TEXT NOT NULL DEFAULT '',
    place INTEGER NOT NULL,
    minute INTEGER NOT NULL,
    micros INTEGER NOT NULL,
    PRIMARY KEY (server_url, class, caller, place)
) STRICT;

-- What a caller of the gateway used on its last UTC day (days since 1970). Slots of callers with limits are given under the lock of its row.
CREATE TABLE caller_days (
    caller TEXT PRIMARY KEY,
    day INTEGER NOT NULL,
    calls INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    -- NULL: no call of it has ended yet.
    used_at INTEGER
) STRICT;

-- Answers that are given again to the same request of the same owner: `caller NAMESPACE/NAME`, or `queue NAMESPACE/NAME`.
CREATE TABLE kept_answers (
    owner TEXT NOT NULL,
    -- A hash of everything that the answer depends on.
    request BLOB NOT NULL,
    content_type TEXT NOT NULL,
    body BLOB NOT NULL,
    bytes INTEGER NOT NULL,
    kept_at INTEGER NOT NULL,
    lapses_at INTEGER NOT NULL,
    PRIMARY KEY (owner, request)
) STRICT;
CREATE INDEX kept_answers_lapsing ON kept_answers (lapses_at);

-- Calls of the gateway that a person wants ended: whoever runs one ends it. Forgotten after some minutes.
CREATE TABLE cancelled_calls (
    id TEXT PRIMARY KEY,
    at INTEGER NOT NULL
) STRICT;

CREATE TABLE journal (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    warning INTEGER NOT NULL,
    reason TEXT NOT NULL,
    message TEXT NOT NULL
) STRICT;
CREATE INDEX journal_by_time ON journal (at);
CREATE INDEX journal_by_resource ON journal (kind, namespace, name, at);

-- What is or was wrong, each time that it began: see the report. `document` has all of it.
CREATE TABLE causes (
    key TEXT NOT NULL,
    opened_at INTEGER NOT NULL,
    resolved_at INTEGER,
    document TEXT NOT NULL,
    acknowledged_by TEXT,
    acknowledged_until INTEGER,
    PRIMARY KEY (key, opened_at)
) STRICT;
CREATE INDEX causes_by_end ON causes (resolved_at);

-- What a Notifier was told of a cause, and what it is still to be told.
CREATE TABLE deliveries (
    uid TEXT NOT NULL,
    cause TEXT NOT NULL,
    opened_at INTEGER NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (uid, cause, opened_at)
) STRICT;

CREATE TABLE pause (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    since INTEGER NOT NULL,
    until INTEGER,
    set_by TEXT NOT NULL
) STRICT;

CREATE TABLE suspensions (
    kind TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    suspended INTEGER NOT NULL,
    set_by TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (kind, namespace, name)
) STRICT;

CREATE TABLE reconcile_requests (
    kind TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    token TEXT NOT NULL,
    PRIMARY KEY (kind, namespace, name)
) STRICT;

CREATE TABLE local_objects (
    kind TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    uid TEXT NOT NULL,
    generation INTEGER NOT NULL,
    resource_version INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    manifest TEXT NOT NULL,
    status TEXT,
    PRIMARY KEY (kind, namespace, name)
) STRICT;
