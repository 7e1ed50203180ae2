//! Plain scalars of YAML 1.1: null, booleans and numbers.

use serde_json::Value;

/// Resolves a plain scalar by the rules of YAML 1.1 as PyYAML implements them. Dates and base-60
/// numbers stay text, and so do infinities and NaN, which JSON cannot represent.
pub(crate) fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => {
            return Value::Bool(true);
        }
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    number(text).unwrap_or_else(|| Value::from(text))
}

fn number(text: &str) -> Option<Value> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let plain = digits.replace('_', "");
    let of_base = |digits: &str, base: u32| {
        let known = !digits.is_empty() && digits.chars().all(|c| c.is_digit(base));
        let value = known.then(|| i128::from_str_radix(digits, base).ok()).flatten()?;
        let value = if negative { -value } else { value };
        i64::try_from(value)
            .map(Value::from)
            .or_else(|_| u64::try_from(value).map(Value::from))
            .ok()
    };
    if let Some(hex) = plain.strip_prefix("0x") {
        return of_base(hex, 16);
    }
    if let Some(binary) = plain.strip_prefix("0b") {
        return of_base(binary, 2);
    }
    if plain.chars().all(|c| c.is_ascii_digit()) {
        return match plain.strip_prefix('0') {
            Some("") | None => of_base(&plain, 10).or_else(|| float(&plain, negative)),
            Some(octal) => of_base(octal, 8),
        };
    }
    // A float has a dot, and an exponent has a sign.
    let (mantissa, exponent) = match plain.find(['e', 'E']) {
        Some(at) => (&plain[..at], Some(&plain[at + 1..])),
        None => (plain.as_str(), None),
    };
    let (whole, fraction) = mantissa.split_once('.')?;
    let all_digits = |part: &str| part.chars().all(|c| c.is_ascii_digit());
    let signed = |part: &str| {
        let digits = part.strip_prefix(['+', '-']);
        digits.is_some_and(|digits| !digits.is_empty() && all_digits(digits))
    };
    let sound = all_digits(whole)
        && all_digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent.is_none_or(signed);
    if sound { float(&plain, negative) } else { None }
}

fn float(text: &str, negative: bool) -> Option<Value> {
    let value: f64 = text.parse().ok()?;
    serde_json::Number::from_f64(if negative { -value } else { value }).map(Value::Number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::resolve;

    #[test]
    fn plain_scalars_have_the_type_that_pyyaml_gives_them() {
        let cases = [
            ("y", json!("y")),
            ("n", json!("n")),
            ("yes", json!(true)),
            ("off", json!(false)),
            ("True", json!(true)),
            ("~", json!(null)),
            ("12", json!(12)),
            ("-1_000", json!(-1000)),
            ("0", json!(0)),
            ("010", json!(8)),
            ("08", json!("08")),
            ("0o17", json!("0o17")),
            ("0x1F", json!(31)),
            ("1e3", json!("1e3")),
            ("1234e567", json!("1234e567")),
            ("1.0e+3", json!(1000.0)),
            ("1.0e3", json!("1.0e3")),
            ("5.0", json!(5.0)),
            (".5", json!(0.5)),
            ("1.", json!(1.0)),
            ("-2.5", json!(-2.5)),
            (".", json!(".")),
            ("1.2.3", json!("1.2.3")),
            (".inf", json!(".inf")),
            (".nan", json!(".nan")),
            ("12:30", json!("12:30")),
            ("2026-11-23", json!("2026-11-23")),
            ("200ms", json!("200ms")),
            ("-", json!("-")),
            ("18446744073709551615", json!(18_446_744_073_709_551_615_u64)),
        ];
        for (text, expected) in cases {
            assert_eq!(resolve(text), expected, "{text}");
        }
    }
}
