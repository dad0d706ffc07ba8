//! Crash points: a testing aid. Tests name a point in `OSTLER_CRASH_POINT` and start again what died there, to show
//! that nothing is done twice and nothing is forgotten.

/// Aborts the process at once, as `kill -9` would, when the environment variable `OSTLER_CRASH_POINT` names this point.
/// Names are `room.before-or-after-what`, and stay as they are once tests rely on them.
pub fn crash_point(name: &str) {
    if std::env::var_os("OSTLER_CRASH_POINT").is_some_and(|wanted| wanted == name) {
        std::process::abort();
    }
}
