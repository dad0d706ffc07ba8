-- Everything lives in the schema that the connection's search_path names. Leases use clock_timestamp().

CREATE TABLE installation (
    one boolean PRIMARY KEY CHECK (one),
    id uuid NOT NULL
);

-- Which releases can still work with a schema: those that know `oldest_reader` or newer.
CREATE TABLE schema_compatibility (
    version bigint PRIMARY KEY,
    oldest_reader bigint NOT NULL
);
INSERT INTO schema_compatibility (version, oldest_reader) VALUES (1, 1);

CREATE TABLE leadership (
    one boolean PRIMARY KEY CHECK (one),
    holder text NOT NULL,
    epoch bigint NOT NULL,
    expires_at timestamptz NOT NULL
);
INSERT INTO leadership (one, holder, epoch, expires_at) VALUES (true, '', 0, to_timestamp(0));

CREATE TABLE backends (
    uid text PRIMARY KEY,
    namespace text NOT NULL,
    name text NOT NULL,
    generation bigint NOT NULL,
    engine text NOT NULL,
    url text NOT NULL,
    server_url text NOT NULL,
    priority integer NOT NULL,
    spec jsonb NOT NULL,
    state text NOT NULL,
    reason text NOT NULL,
    ready boolean NOT NULL,
    ready_since timestamptz,
    gone_at timestamptz
);
CREATE INDEX backends_by_server ON backends (server_url) WHERE gone_at IS NULL;
CREATE INDEX backends_gone ON backends (gone_at) WHERE gone_at IS NOT NULL;

CREATE TABLE observations (
    uid text PRIMARY KEY,
    probe_at timestamptz,
    probe_verdict text,
    probe_millis bigint,
    canary_at timestamptz,
    canary_verdict text,
    canary_millis bigint,
    served_at timestamptz,
    served_by text
);

CREATE TABLE recoveries (
    uid text PRIMARY KEY,
    state jsonb NOT NULL,
    epoch bigint NOT NULL,
    saved_at timestamptz NOT NULL
);

CREATE TABLE servers (
    url text PRIMARY KEY,
    slot_limit integer NOT NULL,
    admission text NOT NULL CHECK (admission IN ('Closed', 'One', 'Open')),
    instance text
);

-- A row is given again and again, each time with a higher epoch.
CREATE TABLE slots (
    server_url text NOT NULL REFERENCES servers (url) ON DELETE CASCADE,
    number bigint NOT NULL,
    holder text NOT NULL,
    epoch bigint NOT NULL,
    purpose text NOT NULL CHECK (purpose IN ('Call', 'Canary')),
    -- Whose call: NULL for canaries.
    class text CHECK (class IN ('Interactive', 'Batch')),
    -- Of the gateway's calls, NAMESPACE/NAME of the Caller.
    caller text,
    model text,
    taken_at timestamptz NOT NULL,
    lease_expires_at timestamptz NOT NULL,
    call_ends_at timestamptz NOT NULL,
    -- Of the call that runs now: when it was sent, and its last byte. Both NULL between calls and before the first one.
    call_began_at timestamptz,
    last_byte_at timestamptz,
    -- The server works on that call although its client is gone: MLX reads a prompt to its end.
    outlives_client boolean NOT NULL DEFAULT false,
    instance text,
    aborted boolean NOT NULL DEFAULT false,
    frees_at timestamptz,
    PRIMARY KEY (server_url, number)
);

-- Calls that wait for a slot, by process: refreshed each second, and lapsed some seconds later.
CREATE TABLE slot_waits (
    server_url text NOT NULL,
    holder text NOT NULL,
    class text NOT NULL CHECK (class IN ('Interactive', 'Batch')),
    -- Of the gateway's calls; empty: tasks.
    caller text NOT NULL,
    weight integer NOT NULL,
    calls bigint NOT NULL,
    since timestamptz NOT NULL,
    seen_at timestamptz NOT NULL,
    PRIMARY KEY (server_url, holder, class, caller)
);

-- The time that slots of a server were taken, by the minute in which they were given back. A row is used again after some minutes.
CREATE TABLE slot_shares (
    server_url text NOT NULL,
    class text NOT NULL CHECK (class IN ('Interactive', 'Batch')),
    -- Of the gateway's calls; empty: tasks.
    caller text NOT NULL DEFAULT '',
    place bigint NOT NULL,
    minute bigint NOT NULL,
    micros bigint NOT NULL,
    PRIMARY KEY (server_url, class, caller, place)
);

-- What a caller of the gateway used on its last UTC day (days since 1970). Slots of callers with limits are given under the lock of its row.
CREATE TABLE caller_days (
    caller text PRIMARY KEY,
    day bigint NOT NULL,
    calls bigint NOT NULL,
    tokens bigint NOT NULL,
    -- NULL: no call of it has ended yet.
    used_at timestamptz
);

-- Answers that are given again to the same request of the same owner: `caller NAMESPACE/NAME`, or `queue NAMESPACE/NAME`.
CREATE TABLE kept_answers (
    owner text NOT NULL,
    -- A hash of everything that the answer depends on.
    request bytea NOT NULL,
    content_type text NOT NULL,
    body bytea NOT NULL,
    bytes bigint NOT NULL,
    kept_at timestamptz NOT NULL,
    lapses_at timestamptz NOT NULL,
    PRIMARY KEY (owner, request)
);
CREATE INDEX kept_answers_lapsing ON kept_answers (lapses_at);

-- Calls of the gateway that a person wants ended: whoever runs one ends it. Forgotten after some minutes.
CREATE TABLE cancelled_calls (
    id text PRIMARY KEY,
    at timestamptz NOT NULL
);

CREATE TABLE journal (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL,
    kind text NOT NULL,
    namespace text NOT NULL,
    name text NOT NULL,
    warning boolean NOT NULL,
    reason text NOT NULL,
    message text NOT NULL
);
CREATE INDEX journal_by_time ON journal (at);
CREATE INDEX journal_by_resource ON journal (kind, namespace, name, at);

-- What is or was wrong, each time that it began: see the report. `document` has all of it.
CREATE TABLE causes (
    key text NOT NULL,
    opened_at timestamptz NOT NULL,
    resolved_at timestamptz,
    document jsonb NOT NULL,
    acknowledged_by text,
    acknowledged_until timestamptz,
    PRIMARY KEY (key, opened_at)
);
CREATE INDEX causes_by_end ON causes (resolved_at);

-- What a Notifier was told of a cause, and what it is still to be told.
CREATE TABLE deliveries (
    uid text NOT NULL,
    cause text NOT NULL,
    opened_at timestamptz NOT NULL,
    document jsonb NOT NULL,
    PRIMARY KEY (uid, cause, opened_at)
);

CREATE TABLE pause (
    one boolean PRIMARY KEY CHECK (one),
    since timestamptz NOT NULL,
    until timestamptz,
    set_by text NOT NULL
);

CREATE TABLE suspensions (
    kind text NOT NULL,
    namespace text NOT NULL,
    name text NOT NULL,
    suspended boolean NOT NULL,
    set_by text NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (kind, namespace, name)
);

CREATE TABLE reconcile_requests (
    kind text NOT NULL,
    namespace text NOT NULL,
    name text NOT NULL,
    token text NOT NULL,
    PRIMARY KEY (kind, namespace, name)
);

CREATE TABLE local_objects (
    kind text NOT NULL,
    namespace text NOT NULL,
    name text NOT NULL,
    uid text NOT NULL,
    generation bigint NOT NULL,
    resource_version bigint NOT NULL,
    created_at timestamptz NOT NULL,
    manifest jsonb NOT NULL,
    status jsonb,
    PRIMARY KEY (kind, namespace, name)
);
