use proptest::prelude::*;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

const EIGHT: Bounds = Bounds { min: 2, max: 8, adaptive: true };

fn heard(model: &str, sample: Sample) -> Heard {
    let failed_requests = usize::try_from(sample.errors).unwrap();
    Heard { samples: BTreeMap::from([(model.to_owned(), sample)]), failed_requests, ..Heard::default() }
}

/// Each failure under a request of its own.
fn one(calls: i64, errors: i64, tokens: i64, millis_per_token: i64) -> Heard {
    heard("m", Sample { calls, errors, tokens, token_millis: tokens * millis_per_token })
}

/// A server that was watched for five minutes at 30 ms/token.
fn used() -> Adaptive {
    let mut server = Adaptive::new(EIGHT, at(0));
    for second in (0..300).step_by(5) {
        assert_eq!(server.observe(EIGHT, &one(4, 0, 400, 30), at(second)), None);
    }
    server
}

#[test]
fn long_answers_are_not_taken_for_congestion_and_slow_tokens_and_errors_are() {
    for (samples, limit, what) in [
        (one(1, 0, 1_900, 30), 8, "one long answer"),
        (one(4, 0, 7_600, 31), 8, "four long answers"),
        (one(4, 0, 400, 55), 8, "a fuller batch"),
        (one(4, 0, 10, 500), 8, "too few tokens to tell"),
        (one(4, 0, 400, 70), 5, "more than twice as slow"),
        (one(10, 1, 400, 30), 8, "one error in ten"),
        (one(10, 2, 400, 30), 5, "one error in five"),
        (one(3, 3, 0, 0), 5, "nothing but errors"),
        (Heard { failed_requests: 1, ..one(3, 3, 0, 0) }, 8, "all under one request"),
        (Heard::default(), 8, "nothing to do"),
    ] {
        let mut server = used();
        server.observe(EIGHT, &samples, at(305));
        assert_eq!(server.limit, limit, "{what}");
    }
}

#[test]
fn another_model_has_its_own_pace() {
    let mut server = used();
    let large = heard("large", Sample { calls: 1, errors: 0, tokens: 100, token_millis: 40_000 });
    assert_eq!(server.observe(EIGHT, &large, at(305)), None);
    assert_eq!(server.limit, 8);
}

#[test]
fn it_goes_down_by_parts_to_the_minimum_and_up_by_ones() {
    let mut server = used();
    let mut limits = Vec::new();
    for second in (305..365).step_by(5) {
        let why = server.observe(EIGHT, &one(4, 0, 400, 200), at(second));
        limits.push(server.limit);
        assert_eq!(why.is_some(), [305, 320, 335].contains(&second), "{second}: {why:?}");
    }
    assert_eq!(limits, [5, 5, 5, 3, 3, 3, 2, 2, 2, 2, 2, 2]);
    for (second, limit) in [(370, 2), (380, 3), (409, 3), (411, 4), (441, 5), (471, 6), (501, 7), (531, 8), (561, 8)] {
        server.observe(EIGHT, &one(4, 0, 400, 30), at(second));
        assert_eq!(server.limit, limit, "at {second}");
    }
}

#[test]
fn what_lasts_becomes_usual() {
    let mut server = used();
    for second in (305..3_600).step_by(5) {
        server.observe(EIGHT, &one(4, 0, 400, 75), at(second));
    }
    assert_eq!(server.limit, 8);
}

#[test]
fn another_declared_maximum_holds_at_once_and_so_does_a_fixed_limit() {
    let mut server = used();
    server.observe(EIGHT, &one(4, 4, 0, 0), at(305));
    assert_eq!(server.limit, 5);
    server.observe(Bounds { max: 16, ..EIGHT }, &Heard::default(), at(306));
    assert_eq!(server.limit, 16);
    server.observe(Bounds { max: 4, ..EIGHT }, &Heard::default(), at(307));
    assert_eq!(server.limit, 4);
    let fixed = Bounds { max: 4, adaptive: false, ..EIGHT };
    assert_eq!(server.observe(fixed, &one(9, 9, 0, 0), at(400)), None);
    assert_eq!(server.limit, 4);
}

#[test]
fn why_it_is_limited_is_told_until_it_is_not() {
    let mut server = used();
    assert_eq!(server.limited_by(), None);
    server.observe(EIGHT, &one(4, 0, 400, 80), at(305));
    assert_eq!(server.limited_by().as_deref(), Some("m takes 80 ms/token, usually 30"));
    server.observe(EIGHT, &one(4, 2, 0, 0), at(325));
    assert_eq!((server.limit, server.limited_by().as_deref()), (3, Some("2 of the last 4 calls failed")));
    for second in (330..600).step_by(5) {
        server.observe(EIGHT, &one(4, 0, 400, 30), at(second));
    }
    assert_eq!((server.limit, server.limited_by()), (8, None));
}

#[test]
fn it_stays_below_what_the_server_runs_at_once_unless_it_is_fixed() {
    let bounds = Bounds { min: 1, max: 4, adaptive: true };
    let mut server = Adaptive::new(bounds, at(0));
    // Two calls get bytes in turns of twenty seconds.
    let call = |number, began: i64, byte: Option<i64>| SampledCall {
        slot: (number, 1),
        model: Some("m".into()),
        began_at: at(began),
        last_byte_at: byte.map(at),
    };
    let mut lowered = Vec::new();
    for second in (20..80).step_by(2) {
        let turn = (second - 20) / 20;
        let calls = vec![call(turn, 0, Some(second)), call(turn + 1, 0, None), call(turn + 2, 0, None)];
        let heard = Heard { calls, more_waits: true, ..Heard::default() };
        lowered.extend(server.observe(bounds, &heard, at(second)).map(|why| (second, why.to_string())));
    }
    assert_eq!(lowered, [(50, "it runs 1 call at a time; 2 waited inside it".to_owned())]);
    assert_eq!((server.limit, server.limited_by()), (1, Some(lowered[0].1.clone())));
    let kept: Adaptive = serde_json::from_value(serde_json::to_value(&server).unwrap()).unwrap();
    assert_eq!((kept.limit, kept.limited_by()), (1, Some(lowered[0].1.clone())));
    server.observe(Bounds { adaptive: false, ..bounds }, &Heard::default(), at(100));
    assert_eq!((server.limit, server.limited_by()), (4, None));
}

#[test]
fn what_is_remembered_survives_a_change_of_leader() {
    let mut server = used();
    server.observe(EIGHT, &one(4, 4, 0, 0), at(305));
    let document = serde_json::to_value(&server).unwrap();
    assert_eq!(serde_json::from_value::<Adaptive>(document).unwrap(), server);
}

proptest! {
    #[test]
    fn the_limit_stays_between_its_bounds(
        steps in proptest::collection::vec((0_i64..20, 0_i64..20, 0_i64..3_000, 0_i64..90_000, 1_i64..60), 1..80),
        min in 1_i32..4,
        more in 0_i32..12,
    ) {
        let bounds = Bounds { min, max: min + more, adaptive: true };
        let mut server = Adaptive::new(bounds, at(0));
        let mut second = 0;
        for (calls, errors, tokens, token_millis, later) in steps {
            second += later;
            let before = server.limit;
            let heard = heard("m", Sample { calls, errors, tokens, token_millis });
            let why = server.observe(bounds, &heard, at(second));
            prop_assert!((bounds.min..=bounds.max).contains(&server.limit));
            prop_assert!(server.limit <= before + 1);
            prop_assert_eq!(why.is_some(), server.limit < before);
        }
    }
}
