-- Ways in and out: callbacks, and for whoever has a connection add_task and results (docs/databases.md). The release before needs none.
INSERT INTO schema_compatibility (version, oldest_reader) VALUES (3, 1);

-- Ends of tasks whose queue has onFinished, until somebody was told: those of one task in the order in which they came.
CREATE TABLE callbacks (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    namespace text NOT NULL,
    queue text NOT NULL,
    task bigint NOT NULL,
    key text,
    state text NOT NULL,
    reason text,
    cycle integer NOT NULL,
    ended_at timestamptz NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    due_at timestamptz NOT NULL
);
CREATE INDEX callbacks_by_task ON callbacks (task, id);
CREATE INDEX callbacks_due ON callbacks (namespace, queue, due_at, id);
CREATE INDEX callbacks_by_end ON callbacks (ended_at);
CREATE FUNCTION note_callbacks() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO callbacks (namespace, queue, task, key, state, reason, cycle, ended_at, due_at)
    SELECT a.namespace, a.queue, a.id, a.key, a.state, a.reason, a.cycle, a.state_since, a.state_since FROM after AS a
    JOIN declared AS q ON q.kind = 'TaskQueue' AND q.namespace = a.namespace AND q.name = a.queue AND q.gone_at IS NULL
    WHERE q.spec -> 'onFinished' IS NOT NULL ORDER BY a.id;
    RETURN NULL;
END $$;
CREATE TRIGGER note_callbacks AFTER INSERT ON finished_tasks REFERENCING NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION note_callbacks();

-- Refuses a task by field and reason, in the API's words.
CREATE FUNCTION refuse_task(field text, why text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%: %', field, why USING ERRCODE = 'invalid_parameter_value', COLUMN = field;
END $$;

-- `value` has another kind than it should: says which.
CREATE FUNCTION refuse_kind(field text, value jsonb, expected text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM refuse_task(field, format('is %s: write %s', CASE jsonb_typeof(value) WHEN 'null' THEN 'null'
        WHEN 'boolean' THEN 'true or false' WHEN 'number' THEN 'a number' WHEN 'string' THEN 'a string' WHEN 'array' THEN 'a list'
        ELSE 'an object' END, expected));
END $$;

-- Of white space alone, as Unicode has it.
CREATE FUNCTION is_blank(value text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT value ~ '^[\s\u0085\u00A0\u1680\u2000-\u200A\u2028\u2029\u202F\u205F\u3000]*$'
$$;

CREATE FUNCTION has_control_characters(value text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT value ~ '[\u0001-\u001F\u007F-\u009F]'
$$;

-- A field that is a text of any length; NULL: it is absent.
CREATE FUNCTION task_string(task jsonb, field text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF jsonb_typeof(task -> field) <> 'string' THEN
        PERFORM refuse_kind(field, task -> field, 'a text');
    END IF;
    RETURN task ->> field;
END $$;

-- A field that is a name: a short text on one line.
CREATE FUNCTION task_text(task jsonb, field text, most integer) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    value text := task_string(task, field);
BEGIN
    IF is_blank(value) THEN
        PERFORM refuse_task(field, 'is empty: leave it out, or give it a value');
    ELSIF length(value) > most THEN
        PERFORM refuse_task(field, format('has %s characters, %s are allowed', length(value), most));
    ELSIF has_control_characters(value) THEN
        PERFORM refuse_task(field, 'has a line break or another control character');
    END IF;
    RETURN value;
END $$;

CREATE FUNCTION task_integer(task jsonb, field text, lowest integer, highest integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    number numeric;
BEGIN
    IF NOT task ? field THEN
        RETURN NULL;
    ELSIF jsonb_typeof(task -> field) <> 'number' THEN
        PERFORM refuse_kind(field, task -> field, format('a whole number from %s to %s', lowest, highest));
    END IF;
    number := (task ->> field)::numeric;
    IF scale(number) > 0 OR number NOT BETWEEN lowest AND highest THEN
        PERFORM refuse_task(field, format('is %s: write a whole number from %s to %s', left(number::text, 60), lowest, highest));
    END IF;
    RETURN number;
END $$;

-- A field that is a time, or a duration from now.
CREATE FUNCTION task_time(task jsonb, field text, now timestamptz) RETURNS timestamptz LANGUAGE plpgsql AS $$
DECLARE
    value text := task_string(task, field);
    at timestamptz;
    seconds numeric;
BEGIN
    IF value IS NULL THEN
        RETURN NULL;
    ELSIF value ~ '^\s*([0-9]{1,18}[smhd])+\s*$' THEN
        SELECT sum(part[1]::numeric * CASE part[2] WHEN 's' THEN 1 WHEN 'm' THEN 60 WHEN 'h' THEN 3600 ELSE 86400 END) INTO seconds
        FROM regexp_matches(value, '([0-9]+)([smhd])', 'g') AS part;
        IF seconds > 0 THEN
            -- More than there are years.
            at := CASE WHEN seconds < 300000000000 THEN now + make_interval(secs => seconds::double precision) ELSE 'infinity' END;
            IF at >= timestamptz '9999-01-01T00:00:00Z' THEN
                PERFORM refuse_task(field, format('"%s" is out of range: nothing lasts so long', value));
            END IF;
            RETURN at;
        END IF;
    ELSIF value ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]{1,9})?)?([Zz]|[+-][0-9]{2}(:?[0-9]{2})?)$' THEN
        BEGIN
            at := replace(value, ',', '.')::timestamptz;
        EXCEPTION WHEN data_exception THEN
            at := NULL;
        END;
        IF at < timestamptz '1970-01-01T00:00:00Z' OR at >= timestamptz '9999-01-01T00:00:00Z' THEN
            PERFORM refuse_task(field, format('"%s" is out of range: write a time in the years 1970 to 9998', value));
        END IF;
    END IF;
    IF at IS NULL THEN
        PERFORM refuse_task(field, format('"%s" is neither a time, such as 2026-03-01T12:00:00Z, nor a duration, such as 2h', left(value, 60)));
    END IF;
    RETURN at;
END $$;

-- `name` is declared in the namespace.
CREATE FUNCTION task_refers(field text, kind text, name text, namespace text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    known text;
BEGIN
    IF name IS NULL OR EXISTS (SELECT FROM declared AS d
        WHERE d.kind = task_refers.kind AND d.namespace = task_refers.namespace AND d.name = task_refers.name AND d.gone_at IS NULL) THEN
        RETURN;
    END IF;
    SELECT string_agg(d.name, ', ' ORDER BY d.name COLLATE "C") INTO known FROM (
        SELECT d.name FROM declared AS d WHERE d.kind = task_refers.kind AND d.namespace = task_refers.namespace AND d.gone_at IS NULL
        ORDER BY d.name COLLATE "C" LIMIT 10) AS d;
    PERFORM refuse_task(field, format('there is no %s "%s" in namespace %s; %s', kind, name, namespace,
        coalesce('there are ' || known, format('none is declared there: `ostler get %s` lists them', lower(kind)))));
END $$;

-- What no reader would get back as it was written, and what is deeper or larger than the API lets in.
CREATE FUNCTION task_can_be_kept(task jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    name text;
    given jsonb;
    found record;
BEGIN
    FOR name, given IN SELECT * FROM jsonb_each(task) WHERE jsonb_typeof(value) NOT IN ('string', 'boolean') LOOP
        WITH RECURSIVE inner_values AS (
            -- The task itself is one level, and one value.
            SELECT given AS v, jsonb_typeof(given) AS kind, 2 AS depth
            UNION ALL
            SELECT c.v, jsonb_typeof(c.v), depth + 1 FROM inner_values AS i, LATERAL (
                SELECT jsonb_array_elements(CASE WHEN i.kind = 'array' THEN i.v ELSE '[]' END)
                UNION ALL SELECT value FROM jsonb_each(CASE WHEN i.kind = 'object' THEN i.v ELSE '{}' END)) AS c (v)
            WHERE i.kind IN ('array', 'object') AND depth <= 65
        ), numbers AS (
            SELECT (v #>> '{}')::numeric AS n FROM inner_values WHERE kind = 'number'
        )
        SELECT (SELECT count(*) FROM inner_values) AS count,
            (SELECT max(depth) FROM inner_values WHERE kind IN ('array', 'object')) AS depth,
            -- A whole number of 64 bits, or a decimal that a double has and writes back.
            (SELECT left(min(n)::text, 60) FROM numbers WHERE NOT CASE
                WHEN scale(n) = 0 THEN n BETWEEN -9223372036854775808 AND 18446744073709551615
                WHEN abs(n) BETWEEN 2.3e-308 AND 1.7e308 THEN n::double precision::text::numeric = n
                ELSE n = 0 END) AS odd
        INTO found;
        IF found.depth > 64 THEN
            PERFORM refuse_task(name, 'is nested more than 64 levels deep: store it flatter, or as a text');
        ELSIF found.count > 499999 THEN
            PERFORM refuse_task(name, 'has too many values, 500000 are allowed: send it in parts, or as a text');
        ELSIF found.odd IS NOT NULL THEN
            PERFORM refuse_task(name, format('has %s, which can''t be kept exactly: write it as a text, or round it to 15 digits',
                found.odd));
        END IF;
    END LOOP;
END $$;

CREATE FUNCTION task_messages(messages jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    field text;
    message jsonb;
BEGIN
    IF messages IS NULL THEN
        RETURN;
    ELSIF jsonb_typeof(messages) <> 'array' THEN
        PERFORM refuse_kind('messages', messages, 'a list');
    ELSIF messages = '[]' THEN
        PERFORM refuse_task('messages', 'is empty: give at least one');
    END IF;
    FOR field, message IN SELECT format('messages[%s]', place - 1), one FROM jsonb_array_elements(messages) WITH ORDINALITY AS m (one, place) LOOP
        IF jsonb_typeof(message) <> 'object' OR coalesce(jsonb_typeof(message -> 'role'), '') <> 'string'
            OR coalesce(jsonb_typeof(message -> 'content'), '') <> 'string' OR message - 'role' - 'content' <> '{}' THEN
            PERFORM refuse_task(field, 'is no message: write {"role": "user", "content": "…"}');
        ELSIF message ->> 'role' NOT IN ('system', 'user', 'assistant') THEN
            PERFORM refuse_task(field || '.role', format('is "%s": write one of system, user, assistant', left(message ->> 'role', 60)));
        ELSIF is_blank(message ->> 'content') THEN
            PERFORM refuse_task(field || '.content', 'is empty');
        END IF;
    END LOOP;
END $$;

CREATE FUNCTION task_input(input jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    field text;
    one jsonb;
BEGIN
    IF input IS NULL THEN
        RETURN;
    ELSIF jsonb_typeof(input) <> 'array' THEN
        PERFORM refuse_kind('input', input, 'a list');
    ELSIF input = '[]' THEN
        PERFORM refuse_task('input', 'is empty: give at least one text to embed');
    END IF;
    FOR field, one IN SELECT format('input[%s]', place - 1), i.one FROM jsonb_array_elements(input) WITH ORDINALITY AS i (one, place) LOOP
        IF jsonb_typeof(one) <> 'string' THEN
            PERFORM refuse_kind(field, one, 'a text');
        ELSIF is_blank(one #>> '{}') THEN
            PERFORM refuse_task(field, 'is empty');
        END IF;
    END LOOP;
END $$;

CREATE FUNCTION task_labels(labels jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    field text;
    label text;
    value jsonb;
BEGIN
    IF labels IS NULL THEN
        RETURN;
    ELSIF jsonb_typeof(labels) <> 'object' THEN
        PERFORM refuse_kind('labels', labels, 'an object');
    ELSIF (SELECT count(*) FROM jsonb_object_keys(labels)) > 32 THEN
        PERFORM refuse_task('labels', format('has %s, 32 are allowed', (SELECT count(*) FROM jsonb_object_keys(labels))));
    END IF;
    FOR field, label, value IN SELECT 'labels.' || left(l.key, 200), l.key, l.value FROM jsonb_each(labels) AS l LOOP
        IF label = '' OR length(label) > 63 OR label ~ '[=,]' OR has_control_characters(label) THEN
            PERFORM refuse_task(field, 'is no label''s name: 1 to 63 characters, without `=` and `,`');
        ELSIF jsonb_typeof(value) <> 'string' THEN
            PERFORM refuse_kind(field, value, 'a text');
        ELSIF length(value #>> '{}') > 63 OR value #>> '{}' ~ '[=,]' OR has_control_characters(value #>> '{}') THEN
            PERFORM refuse_task(field, 'is no label''s value: at most 63 characters, without `=` and `,`');
        END IF;
    END LOOP;
END $$;

-- What is to be done, as it is stored.
CREATE FUNCTION task_payload(task jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    contents text[] := ARRAY(SELECT c FROM unnest(ARRAY['prompt', 'messages', 'input', 'data']) WITH ORDINALITY AS w (c, place)
        WHERE task ? c ORDER BY place);
    payload text;
BEGIN
    IF cardinality(contents) = 0 THEN
        PERFORM refuse_task('prompt', 'is required: say what is to be done (or give messages, input or data)');
    ELSIF cardinality(contents) > 1 THEN
        PERFORM refuse_task(contents[2], format('cannot be combined with %s: set one of them', contents[1]));
    ELSIF is_blank(task_string(task, 'prompt')) THEN
        PERFORM refuse_task('prompt', 'is empty: say what is to be done');
    END IF;
    PERFORM task_messages(task -> 'messages'), task_input(task -> 'input');
    PERFORM task_integer(task, 'maxTokens', 1, 1000000);
    IF jsonb_typeof(task -> 'schema') <> 'object' THEN
        PERFORM refuse_kind('schema', task -> 'schema', 'a JSON Schema as an object');
    ELSIF octet_length((task -> 'schema')::text) > 131072 THEN
        PERFORM refuse_task('schema', format('has %s bytes, 131072 are allowed', octet_length((task -> 'schema')::text)));
    END IF;
    SELECT jsonb_object_agg(key, value)::text INTO payload FROM jsonb_each(task)
    WHERE key IN ('prompt', 'messages', 'input', 'data', 'schema', 'maxTokens');
    IF octet_length(payload) > 1048576 THEN
        PERFORM refuse_task(contents[1], format('has %s bytes, 1048576 are allowed: store it elsewhere and give its address',
            octet_length(payload)));
    END IF;
    RETURN payload;
END $$;

-- Adds a task within the caller's transaction, and returns its id: that of the task that exists, where its queue has the key already.
CREATE FUNCTION add_task(task jsonb, namespace text DEFAULT 'default') RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER AS $$
#variable_conflict use_column
DECLARE
    fields CONSTANT text[] := ARRAY['queue', 'domain', 'role', 'prompt', 'messages', 'input', 'data', 'schema', 'maxTokens', 'model',
        'priority', 'runAfter', 'deadline', 'key', 'labels', 'expert'];
    clock timestamptz := clock_timestamp();
    new tasks;
    payload text;
    unknown text;
    owner bigint;
BEGIN
    IF task IS NULL OR jsonb_typeof(task) <> 'object' THEN
        PERFORM refuse_kind('task', coalesce(task, 'null'), 'one JSON object');
    ELSIF namespace IS NULL OR is_blank(namespace) OR length(namespace) > 63 THEN
        PERFORM refuse_task('namespace', 'is no name of 1 to 63 characters');
    END IF;
    -- A field that is null is as good as absent.
    SELECT coalesce(jsonb_object_agg(key, value), '{}') INTO task FROM jsonb_each(task) WHERE value <> 'null';
    SELECT key INTO unknown FROM jsonb_object_keys(task) AS given (key) WHERE key <> ALL (fields) LIMIT 1;
    IF FOUND THEN
        PERFORM refuse_task(left(unknown, 200), 'unknown field: a task has ' || array_to_string(fields, ', '));
    END IF;
    PERFORM task_can_be_kept(task);
    new.namespace := namespace;
    new.queue := coalesce(task_text(task, 'queue', 63), 'default');
    new.domain := coalesce(task_text(task, 'domain', 100), '');
    new.role := coalesce(task_text(task, 'role', 100), '');
    new.model := task_text(task, 'model', 200);
    new.priority := coalesce(task_integer(task, 'priority', -100, 100), 0);
    new.run_after := task_time(task, 'runAfter', clock);
    new.deadline := task_time(task, 'deadline', clock);
    new.key := task_text(task, 'key', 200);
    PERFORM task_labels(task -> 'labels');
    new.expert := task_text(task, 'expert', 63);
    payload := task_payload(task);
    PERFORM task_refers('queue', 'TaskQueue', new.queue, namespace), task_refers('expert', 'Expert', new.expert, namespace);
    IF new.deadline <= clock THEN
        PERFORM refuse_task('deadline', rtrim(rtrim(to_char(new.deadline AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), '0'), '.')
            || 'Z is over');
    ELSIF new.run_after >= new.deadline THEN
        PERFORM refuse_task('deadline', 'is not after runAfter: it would never run');
    END IF;
    new.id := nextval('tasks_id_seq');
    -- Whoever gives the same key in waits here for the other transaction's end. One that was purged in between is taken.
    WHILE new.key IS NOT NULL AND owner IS NULL LOOP
        INSERT INTO task_keys (namespace, queue, key, id) VALUES (new.namespace, new.queue, new.key, new.id) ON CONFLICT DO NOTHING;
        SELECT k.id INTO owner FROM task_keys AS k
        WHERE k.namespace = new.namespace AND k.queue = new.queue AND k.key = new.key;
    END LOOP;
    IF owner <> new.id THEN
        RETURN owner;
    END IF;
    -- A queue's deadline counts from when the task may first run.
    INSERT INTO tasks (id, namespace, queue, domain, role, payload, model, priority, run_after, deadline, key, labels, created_at,
        state_since, rank, bytes, expert)
    SELECT new.id, new.namespace, new.queue, new.domain, new.role, payload::json, new.model, new.priority, new.run_after,
        coalesce(new.deadline, greatest(clock, new.run_after) + make_interval(secs =>
            nullif((q.spec ->> 'deadlineSeconds')::double precision, 0))),
        new.key, coalesce(task -> 'labels', '{}')::text::json, clock, clock, task_rank(clock, new.run_after, new.priority, clock),
        octet_length(payload), new.expert
    FROM declared AS q WHERE q.kind = 'TaskQueue' AND q.namespace = new.namespace AND q.name = new.queue AND q.gone_at IS NULL;
    -- Topics::NEW, from nobody who listens: told with the commit.
    PERFORM pg_notify(current_schema(), '1 ');
    RETURN new.id;
END $$;

-- Whatever search_path its caller has: and no table of theirs stands in for one of these.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION add_task(jsonb, text) SET search_path = %I, pg_temp', current_schema());
END $$;
REVOKE ALL ON FUNCTION add_task(jsonb, text) FROM PUBLIC;

-- Tasks that ended, as long as they are kept.
CREATE VIEW results AS
    SELECT id, namespace, queue, key, labels, domain, role, expert, coalesce(assigned_model, model) AS model, state, reason, result,
        attempts_used AS attempts, created_at, state_since AS ended_at
    FROM finished_tasks;
