//! Memory and disk sizes as Kubernetes writes them.

/// Bytes of a quantity such as `512Mi`, `2Gi`, `1.5G` or `1048576`; `None` when it is none or exceeds 8 EiB.
/// Milli, exponents and signs are not read: no size of ours needs them.
pub fn bytes(quantity: &str) -> Option<u64> {
    let digits = quantity.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(quantity.len());
    let (number, suffix) = quantity.split_at(digits);
    let unit: u64 = match suffix {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let mut total: u128 = whole.parse::<u64>().ok()?.into();
    total *= u128::from(unit);
    if !fraction.is_empty() {
        let scale = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        total += u128::from(fraction.parse::<u64>().ok()?) * u128::from(unit) / scale;
    }
    u64::try_from(total).ok().filter(|&n| n <= 1 << 63)
}

/// The pattern that schemas give such a field.
pub const PATTERN: &str = r"^[0-9]{1,15}(\.[0-9]{1,3})?(k|M|G|T|Ki|Mi|Gi|Ti)?$";

/// The same for CPU, which is also counted in thousandths.
pub const CPU_OR_MEMORY: &str = r"^[0-9]{1,15}(\.[0-9]{1,3})?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$";

/// Bytes as people write them: `1229Mi`.
pub fn shown(bytes: i64) -> String {
    for (unit, size) in [("Gi", 1_i64 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)] {
        if bytes >= size && bytes % size == 0 {
            return format!("{}{unit}", bytes / size);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MI: i64 = 1 << 20;

    #[test]
    fn bytes_are_shown_in_the_largest_unit_that_fits() {
        for (bytes, expected) in
            [(120 * MI, "120Mi"), (2 << 30, "2Gi"), (1 << 10, "1Ki"), (1000, "1000"), (20_000_001, "20000001")]
        {
            assert_eq!(shown(bytes), expected);
        }
    }

    #[test]
    fn sizes_are_read_as_kubernetes_reads_them() {
        for (text, expected) in [
            ("1", Some(1)),
            ("50Mi", Some(50 << 20)),
            ("1.5Gi", Some(3 << 29)),
            ("2k", Some(2_000)),
            ("0.25M", Some(250_000)),
            ("", None),
            ("Mi", None),
            ("-1", None),
            ("1.", Some(1)),
            ("1mi", None),
            ("1e3", None),
            ("1.2.3", None),
            ("999999999999999Ti", None),
        ] {
            assert_eq!(bytes(text), expected, "{text:?}");
        }
    }
}
