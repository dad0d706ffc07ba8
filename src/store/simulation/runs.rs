//! Runs, one for each seed.

use super::{Broken, Fault, Simulation, Trouble, home::Home, model::Model, sqlite};
use crate::store::stamp::Stamp;

/// Plays one seed; the error is the rule that does not hold.
fn play(home: &mut dyn Home, seed: u64, steps: usize, broken: Option<Broken>, trouble: Trouble) -> Result<(), String> {
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
    let mut model = Model::new(broken, Stamp::now());
    play(&mut model, seed, 200, broken, trouble)
}

/// The seeds of a test: all of them, or the one that somebody wants to see again.
fn seeds(all: std::ops::Range<u64>) -> Vec<u64> {
    match std::env::var("OSTLER_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None => all.collect(),
    }
}

fn all_hold(seeds: &[u64], trouble: Trouble) {
    for seed in seeds {
        if let Err(why) = play_model(*seed, None, trouble) {
            panic!("{why}; again with OSTLER_SEED={seed}");
        }
    }
}

#[test]
fn everything_holds_whatever_crashes() {
    all_hold(&seeds(0..1_000), Trouble::Everything);
}

#[test]
fn a_pause_of_hours_is_not_a_death() {
    all_hold(&seeds(0..150), Trouble::Sleep);
}

#[test]
fn a_rule_that_is_broken_is_noticed() {
    for (broken, trouble, word) in [
        (Broken::EpochIgnored, Trouble::Everything, "completion"),
        (Broken::LapsedSlotsFree, Trouble::Everything, "above the limit"),
        (Broken::PlacesUncounted, Trouble::Everything, "places taken"),
        (Broken::LossesUncounted, Trouble::Everything, "more than"),
        (Broken::SendsLate, Trouble::Everything, "above the limit"),
        (Broken::NoPauseGuard, Trouble::Sleep, "a pause is not a death"),
    ] {
        let mut found = (0..500).filter_map(|seed| play_model(seed, Some(broken), trouble).err());
        let why = found.find(|why| why.contains(word));
        println!("{broken:?}: {}", why.unwrap_or_else(|| panic!("{broken:?} was not noticed in 500 runs")));
    }
}

#[test]
fn everything_holds_in_sqlite_too() {
    for seed in seeds(0..6) {
        let mut home = sqlite::Sqlite::new();
        if let Err(why) = play(&mut home, seed, 80, None, Trouble::Everything) {
            panic!("{why}; again with OSTLER_SEED={seed}");
        }
    }
}
