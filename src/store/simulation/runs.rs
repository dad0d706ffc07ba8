//! Runs, one for each seed.

use super::{Broken, Fault, Simulation, Trouble, home::SimStore, model::ReferenceModel, sqlite};
use crate::store::stamp::Stamp;

/// Plays one seed; the error is the rule that does not hold.
fn play(
    home: &mut dyn SimStore,
    seed: u64,
    steps: usize,
    broken: Option<Broken>,
    trouble: Trouble,
) -> Result<(), String> {
    let mut simulation = Simulation::new(home, seed, broken, trouble);
    let mut step = 0;
    let mut run = || {
        while step < steps {
            simulation.step()?;
            step += 1;
        }
        simulation.settle()
    };
    match run() {
        Ok(()) => {}
        Err(Fault::Broken(why)) => return Err(format!("seed {seed}, step {step}: {why}")),
        Err(fault) => return Err(format!("seed {seed}, step {step}: {fault:?} where nobody was to blame")),
    }
    let lost = simulation.watch.leases_lost;
    if trouble == Trouble::Sleep && lost > 0 {
        return Err(format!("seed {seed}: a pause is not a death, and {lost} leases were lost by it"));
    }
    Ok(())
}

fn play_model(seed: u64, broken: Option<Broken>, trouble: Trouble) -> Result<(), String> {
    let mut model = ReferenceModel::new(broken, Stamp::now());
    play(&mut model, seed, 200, broken, trouble)
}

/// The seeds of a test: so many, or as many as somebody wants, or the one that somebody wants to see again.
fn seeds(usually: u64) -> Vec<u64> {
    let told = |name: &str| std::env::var(name).ok().and_then(|number| number.parse::<u64>().ok());
    match told("OSTLER_SEED") {
        Some(seed) => vec![seed],
        None => (0..told("OSTLER_RUNS").unwrap_or(usually)).collect(),
    }
}

/// Plays them on a few threads; panics with the first that fails.
fn all_hold(seeds: &[u64], play: impl Fn(u64) -> Result<(), String> + Sync) {
    const THREADS: usize = 2;
    let failed: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (own, play) = (seeds.iter().skip(thread).step_by(THREADS), &play);
                scope.spawn(move || own.copied().find_map(|seed| play(seed).err()))
            })
            .collect();
        threads.into_iter().filter_map(|thread| thread.join().expect("no panic")).collect()
    });
    if let Some(why) = failed.first() {
        panic!("{why}; to see it again: OSTLER_SEED=N cargo test --lib simulation");
    }
}

#[test]
fn everything_holds_whatever_crashes() {
    all_hold(&seeds(1_200), |seed| play_model(seed, None, Trouble::Everything));
}

#[test]
fn a_pause_of_hours_is_not_a_death() {
    all_hold(&seeds(300), |seed| play_model(seed, None, Trouble::Sleep));
}

#[test]
fn restarts_of_engines_free_no_slot_too_early() {
    all_hold(&seeds(300), |seed| play_model(seed, None, Trouble::Restarts));
}

#[test]
fn known_deaths_free_no_slot_too_early() {
    all_hold(&seeds(600), |seed| play_model(seed, None, Trouble::Deaths));
}

#[test]
fn a_rule_that_is_broken_is_noticed() {
    let unnoticed: Vec<Broken> = [
        (Broken::EpochIgnored, Trouble::Everything, "completion"),
        (Broken::LapsedSlotsFree, Trouble::Everything, "above the limit"),
        (Broken::PlacesUncounted, Trouble::Everything, "places taken"),
        (Broken::LossesUncounted, Trouble::Everything, "more than"),
        (Broken::SendsLate, Trouble::Everything, "above the limit"),
        (Broken::SendsUnsure, Trouble::Restarts, "above the limit"),
        (Broken::AnyInstanceFrees, Trouble::Restarts, "above the limit"),
        (Broken::ClaimsUndoubted, Trouble::Everything, "there is still"),
        (Broken::DeadFreeAtOnce, Trouble::Deaths, "above the limit"),
        (Broken::DeadFreeBlindly, Trouble::Everything, "above the limit"),
        (Broken::NoPatience, Trouble::Sleep, "a pause is not a death"),
    ]
    .into_iter()
    .filter_map(|(broken, trouble, word)| {
        let mut found = (0..2_000).filter_map(|seed| play_model(seed, Some(broken), trouble).err());
        let why = found.find(|why| why.contains(word));
        println!("{broken:?}: {}", why.as_deref().unwrap_or("not noticed in 2,000 runs"));
        why.is_none().then_some(broken)
    })
    .collect();
    assert!(unnoticed.is_empty(), "not noticed: {unnoticed:?}");
}

#[test]
fn everything_holds_in_sqlite_too() {
    all_hold(&seeds(20), |seed| play(&mut sqlite::Sqlite::new(), seed, 50, None, Trouble::Everything));
}
