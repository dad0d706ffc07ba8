//! Those who wait for slots, and the time that slots are taken.

use crate::tasks::share::WAIT_LAPSES;

/// Gives a slot back, counts the time that it was taken, and tells whether somebody waits. Of the minutes that are kept each has its place.
pub(super) const RELEASE: &str = "WITH released AS (
        UPDATE slots SET frees_at = clock_timestamp() + $5 * interval '1 microsecond'
        WHERE server_url = $1 AND number = $2 AND holder = $3 AND epoch = $4 AND frees_at IS NULL
        RETURNING class, coalesce(caller, '') AS caller, taken_at, floor(extract(epoch FROM clock_timestamp()) / 60)::bigint AS minute
    ), counted AS (
        INSERT INTO slot_shares AS s (server_url, class, caller, place, minute, micros)
        SELECT $1, class, caller, minute % 11, minute, greatest(0, extract(epoch FROM clock_timestamp() - taken_at) * 1000000)::bigint
        FROM released WHERE class IS NOT NULL
        ON CONFLICT (server_url, class, caller, place) DO UPDATE SET minute = excluded.minute,
            micros = CASE WHEN s.minute = excluded.minute THEN s.micros ELSE 0 END + excluded.micros
    )
    SELECT EXISTS (SELECT FROM slot_waits
        WHERE server_url = $1 AND seen_at > clock_timestamp() - $6 * interval '1 microsecond') FROM released";

/// Refreshes what a process waits for.
pub(super) const WAIT: &str = "INSERT INTO slot_waits AS w (server_url, holder, class, caller, weight, calls, since, seen_at)
    SELECT server_url, $1, class, caller, weight, calls, clock_timestamp(), clock_timestamp()
    FROM unnest($2::text[], $3::text[], $4::text[], $5::integer[], $6::bigint[]) AS given (server_url, class, caller, weight, calls)
    ORDER BY server_url, class, caller
    ON CONFLICT (server_url, holder, class, caller) DO UPDATE SET calls = excluded.calls, weight = excluded.weight, seen_at = excluded.seen_at,
        since = CASE WHEN w.seen_at > excluded.seen_at - $7 * interval '1 microsecond' THEN w.since ELSE excluded.since END";

/// Forgets what it waits for no more, and what processes left that are gone.
pub(super) const WAIT_NO_MORE: &str = "DELETE FROM slot_waits WHERE ctid IN (
    SELECT ctid FROM slot_waits AS w
    WHERE (holder = $1 AND NOT EXISTS (SELECT FROM unnest($2::text[], $3::text[], $4::text[]) AS given (server_url, class, caller)
            WHERE given.server_url = w.server_url AND given.class = w.class AND given.caller = w.caller))
        OR seen_at < clock_timestamp() - interval '10 minutes'
    FOR UPDATE SKIP LOCKED)";

pub(super) fn lapse_micros() -> i64 {
    i64::try_from(WAIT_LAPSES.as_micros()).unwrap_or(i64::MAX)
}
