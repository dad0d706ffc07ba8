//! Which type a scalar has, as go-yaml v2 resolves it (which kubectl and the API server read manifests with).

use serde_json::{Number, Value};

/// The JSON value of a scalar. `tag` is an explicit one, such as `tag:yaml.org,2002:str`.
pub fn resolve(text: &str, plain: bool, tag: Option<&str>) -> Result<Value, String> {
    let tag = tag.map(|tag| tag.trim_start_matches("tag:yaml.org,2002:").trim_start_matches("!!").to_owned());
    match tag.as_deref() {
        None if plain => untagged(text),
        None | Some("str" | "!" | "binary" | "timestamp") => Ok(Value::String(text.to_owned())),
        Some(wanted) => {
            let value = untagged(text)?;
            let fits = match wanted {
                "int" => value.is_i64() || value.is_u64(),
                "float" => value.is_number(),
                "bool" => value.is_boolean(),
                "null" => value.is_null(),
                _ => false,
            };
            if fits { Ok(value) } else { Err(format!("{text:?} can't be read as !!{wanted}")) }
        }
    }
}

fn untagged(text: &str) -> Result<Value, String> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Ok(Value::Bool(true));
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Ok(Value::Bool(false));
        }
        ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "-.inf" | "-.Inf"
        | "-.INF" => {
            return Err(format!("{text} is no number that JSON has"));
        }
        _ => {}
    }
    let begins_like_a_number = text.chars().next().is_some_and(|c| c.is_ascii_digit() || matches!(c, '+' | '-' | '.'));
    if begins_like_a_number && let Some(number) = number(text)? {
        return Ok(number);
    }
    Ok(Value::String(text.to_owned()))
}

fn number(text: &str) -> Result<Option<Value>, String> {
    let digits = text.replace('_', "");
    if let Some(integer) = integer(&digits) {
        return Ok(Some(integer));
    }
    if !looks_like_a_float(&digits) {
        return Ok(None);
    }
    let Ok(float) = digits.parse::<f64>() else {
        return Ok(None);
    };
    if !float.is_finite() {
        return Err(format!("{text} is too large for a number"));
    }
    // JSON writes a whole float without its fraction, so `2.0` reaches the API server as 2.
    if float.fract() == 0.0 && float.abs() < 9e18 {
        return Ok(Some(Value::from(float as i64)));
    }
    Ok(Number::from_f64(float).map(Value::Number))
}

/// As Go's `ParseInt(_, 0, 64)`: 0x, 0o, 0b, and a leading 0 means octal.
fn integer(digits: &str) -> Option<Value> {
    let (negative, rest) = match digits.as_bytes().first()? {
        b'-' => (true, &digits[1..]),
        b'+' => (false, &digits[1..]),
        _ => (false, digits),
    };
    let lower = rest.to_ascii_lowercase();
    let (radix, body) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if body.is_empty() || body.starts_with(['+', '-']) {
        return None;
    }
    let magnitude = i128::from_str_radix(body, radix).ok()?;
    let value = if negative { -magnitude } else { magnitude };
    i64::try_from(value).map(Value::from).or_else(|_| u64::try_from(value).map(Value::from)).ok()
}

/// `^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`
fn looks_like_a_float(digits: &str) -> bool {
    let unsigned = digits.strip_prefix(['-', '+']).unwrap_or(digits);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let mantissa_fits = match mantissa.split_once('.') {
        Some(("", fraction)) => all_digits(fraction),
        Some((whole, fraction)) => all_digits(whole) && (fraction.is_empty() || all_digits(fraction)),
        None => all_digits(mantissa),
    };
    mantissa_fits && exponent.is_none_or(|e| all_digits(e.strip_prefix(['-', '+']).unwrap_or(e)))
}
