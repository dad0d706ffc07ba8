use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// The example of the specification's reference libraries.
#[test]
fn the_specifications_example_is_signed_as_the_specification_says() {
    let secret = SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    let signed = sign_as(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek".into(), br#"{"test": 2432232314}"#, at(1614265330));
    assert_eq!(signed.signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
}

#[test]
fn a_signed_request_is_for_one_agent_path_and_leader() {
    let (secret, now) = (SigningSecret::generate(), at(1_000));
    let bound = Bound {
        agent: "mac",
        method: "POST",
        path: "/v1/operations?x=1",
        installation: "i",
        epoch: "7",
        idempotency_key: "k",
    };
    let given = sign_request(&secret, bound, b"{}", now);
    let verify = |covers, body: &[u8]| verify_covering(&secret, &given, covers, body, now);
    assert_eq!(verify(Covers::Request(bound), b"{}"), Ok(()));
    let others = [
        Bound { agent: "other", ..bound },
        Bound { method: "GET", ..bound },
        Bound { path: "/v1/operations", ..bound },
        Bound { path: "/v1/care", ..bound },
        Bound { installation: "j", ..bound },
        Bound { epoch: "8", ..bound },
        Bound { epoch: "", ..bound },
        Bound { idempotency_key: "l", ..bound },
        // A text that moves to the next line.
        Bound { installation: "", epoch: "i", idempotency_key: "7", ..bound },
    ];
    for other in others {
        assert_eq!(verify(Covers::Request(other), b"{}"), Err(SignatureError::Mismatch), "{other:?}");
    }
    assert_eq!(verify(Covers::Request(bound), b"{ }"), Err(SignatureError::Mismatch));
    assert_eq!(verify(Covers::Body, b"{}"), Err(SignatureError::Mismatch));
    // As the body of a webhook it is not taken either: the id would need a line break.
    let text = bound.lines(&given.id, &given.timestamp) + "{}";
    let (id, rest) = text.split_once('.').unwrap_or((&text, ""));
    let forged = Signature { id: id.to_owned(), ..given.clone() };
    assert!(super::verify(&secret, &forged, rest.as_bytes(), now).is_err());
}

#[test]
fn a_signature_holds_for_its_own_secret_body_and_time_only() {
    let secret = SigningSecret::generate();
    let good = sign(&secret, b"body", at(1_000_000));
    let other = SigningSecret::generate();
    let changed = |f: fn(&mut Signature)| {
        let mut s = good.clone();
        f(&mut s);
        s
    };
    let cases = [
        ("as signed", &secret, good.clone(), "body", 1_000_000, Ok(())),
        ("300 s later", &secret, good.clone(), "body", 1_000_300, Ok(())),
        ("300 s earlier", &secret, good.clone(), "body", 999_700, Ok(())),
        ("301 s later", &secret, good.clone(), "body", 1_000_301, Err(SignatureError::Stale(301))),
        ("301 s earlier", &secret, good.clone(), "body", 999_699, Err(SignatureError::Stale(-301))),
        ("other body", &secret, good.clone(), "bodx", 1_000_000, Err(SignatureError::Mismatch)),
        ("other secret", &other, good.clone(), "body", 1_000_000, Err(SignatureError::Mismatch)),
        ("other id", &secret, changed(|s| s.id.push('x')), "body", 1_000_000, Err(SignatureError::Mismatch)),
        (
            "time moved",
            &secret,
            changed(|s| s.timestamp = "1000001".into()),
            "body",
            1_000_000,
            Err(SignatureError::Mismatch),
        ),
        (
            "no time",
            &secret,
            changed(|s| s.timestamp = "now".into()),
            "body",
            1_000_000,
            Err(SignatureError::Malformed),
        ),
        ("empty id", &secret, changed(|s| s.id.clear()), "body", 1_000_000, Err(SignatureError::Malformed)),
        (
            "stop in the id",
            &secret,
            changed(|s| s.id = "a.b".into()),
            "body",
            1_000_000,
            Err(SignatureError::Malformed),
        ),
        (
            "no version",
            &secret,
            changed(|s| s.signature = s.signature[3..].into()),
            "body",
            1_000_000,
            Err(SignatureError::Mismatch),
        ),
        (
            "second of two",
            &secret,
            changed(|s| s.signature = format!("v1,AAAA {}", s.signature)),
            "body",
            1_000_000,
            Ok(()),
        ),
        ("none", &secret, changed(|s| s.signature.clear()), "body", 1_000_000, Err(SignatureError::Mismatch)),
    ];
    for (name, secret, given, body, now, expected) in cases {
        assert_eq!(verify(secret, &given, body.as_bytes(), at(now)), expected, "{name}");
    }
}

#[test]
fn a_claim_is_proven_for_its_own_secret_task_and_epoch_only() {
    let (secret, other) = (SigningSecret::generate(), SigningSecret::generate());
    let token = claim_token(&secret, 17, 3);
    assert_eq!(named_claim(&token), Some((17, 3)));
    assert!(verify_claim(&secret, &token) && !verify_claim(&other, &token), "{token}");
    for changed in
        [token.replace("_3_", "_4_"), token.replace("_17_", "_18_"), format!("{token}a"), "claim_17_3_".into()]
    {
        assert!(!verify_claim(&secret, &changed), "{changed}");
    }
    for none in ["", "claim", "claim_1", "claim_a_1_x", "whsec_1_2_3"] {
        assert_eq!(named_claim(none), None, "{none:?}");
    }
}

#[test]
fn only_equal_texts_are_the_same() {
    assert!(same(b"token", b"token"));
    for (a, b) in [("token", "tokem"), ("token", "toke"), ("", "t"), ("token", "token ")] {
        assert!(!same(a.as_bytes(), b.as_bytes()), "{a:?} {b:?}");
    }
}

#[test]
fn a_secret_is_read_as_it_is_written_and_never_shown() {
    let secret = SigningSecret::generate();
    assert_eq!(SigningSecret::parse(&format!("{}\n", secret.expose())).unwrap(), secret);
    assert_eq!(format!("{secret:?}"), "SigningSecret(..)");
    assert_eq!(SigningSecret::parse("hunter2"), Err(SigningSecretError::NoPrefix));
    assert_eq!(SigningSecret::parse("whsec_###"), Err(SigningSecretError::NotBase64));
    assert_eq!(SigningSecret::parse("whsec_aGVsbG8="), Err(SigningSecretError::Length(5)));
}
