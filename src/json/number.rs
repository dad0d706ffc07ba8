//! Which numbers are kept as they are written.

/// Whether a literal's value is kept exactly: a whole number of 64 bits, or a decimal that a double has and writes back. `-0` is
/// not: databases drop its sign.
pub fn is_kept(literal: &str) -> bool {
    if !literal.contains(['.', 'e', 'E']) {
        return literal != "-0" && (literal.parse::<i64>().is_ok() || literal.parse::<u64>().is_ok());
    }
    let Some(written) = Decimal::of(literal) else { return false };
    match literal.parse::<f64>() {
        Ok(double) if double.is_finite() => {
            // As the same writer puts it back: of two decimals that are equally near, another one may choose the other.
            let back = serde_json::to_string(&double).ok().and_then(|text| Decimal::of(&text));
            !(double == 0.0 && double.is_sign_negative()) && back.is_some_and(|kept| kept == written)
        }
        _ => false,
    }
}

/// A decimal by its digits, without zeros at either end, and the power of ten of the last of them.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    negative: bool,
    digits: String,
    exponent: i64,
}

impl Decimal {
    fn of(literal: &str) -> Option<Self> {
        let (mantissa, exponent) = literal.split_once(['e', 'E']).unwrap_or((literal, "0"));
        let exponent: i64 = exponent.parse().ok()?;
        let (negative, mantissa) = match mantissa.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, mantissa),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{whole}{fraction}");
        let digits = all.trim_end_matches('0');
        let exponent = exponent
            .checked_sub(i64::try_from(fraction.len()).ok()?)?
            .checked_add(i64::try_from(all.len() - digits.len()).ok()?)?;
        let digits = digits.trim_start_matches('0').to_owned();
        let exponent = if digits.is_empty() { 0 } else { exponent };
        Some(Self { negative, digits, exponent })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::is_kept;

    #[test]
    fn a_number_is_kept_exactly_or_not_at_all() {
        for kept in [
            "0",
            "7",
            "-7",
            "9223372036854775807",
            "-9223372036854775808",
            "18446744073709551615",
            "0.0",
            "1.0",
            "1.50",
            "0.1",
            "-0.25",
            "1e2",
            "1E+2",
            "12.5e-3",
            "0.30000000000000004",
            "1.7976931348623157e308",
            "5e-324",
            "123456789.125",
            "1594963147194997.2",
        ] {
            assert!(is_kept(kept), "{kept}");
        }
        for changed in [
            "-0",
            "-0.0",
            "-0e7",
            "18446744073709551616",
            "-9223372036854775809",
            "99999999999999999999",
            "0.12345678901234567890",
            "3.14159265358979323846",
            "9007199254740993.0",
            "1e400",
            "-1e400",
            "1e-400",
            "1.00000000000000000001",
            "1e99999999999999999999",
        ] {
            assert!(!is_kept(changed), "{changed}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_double_or_an_integer_writes_is_kept(double in any::<f64>(), whole in any::<i64>()) {
            prop_assume!(double.is_finite() && !(double == 0.0 && double.is_sign_negative()));
            prop_assert!(is_kept(&serde_json::to_string(&double).unwrap()));
            prop_assert!(is_kept(&whole.to_string()));
        }

        #[test]
        fn what_is_kept_is_read_back_as_it_was(literal in "-?[1-9][0-9]{0,24}(\\.[0-9]{1,24})?(e-?[0-9]{1,2})?") {
            let value: serde_json::Value = serde_json::from_str(&literal).unwrap();
            if is_kept(&literal) {
                let again: serde_json::Value = serde_json::from_str(&value.to_string()).unwrap();
                prop_assert_eq!(&again, &value);
                if !literal.contains(['.', 'e']) {
                    prop_assert_eq!(value.to_string(), literal);
                }
            }
        }
    }
}
