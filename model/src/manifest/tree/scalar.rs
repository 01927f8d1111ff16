//! What an unquoted word is: text, a number, true or false, nothing.

/// What a scalar is, by the core schema as the typed decoder applies it (YAML 1.2.2 §10.3.2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ScalarKind {
    Null,
    Bool(bool),
    Unsigned(u64),
    OtherNumber,
    Text,
}

/// What a plain scalar is.
pub(crate) fn plain_kind(text: &str) -> ScalarKind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return ScalarKind::Null,
        "true" | "True" | "TRUE" => return ScalarKind::Bool(true),
        "false" | "False" | "FALSE" => return ScalarKind::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return ScalarKind::OtherNumber,
        _ => {}
    }
    let (signed, rest) = match text.strip_prefix(['+', '-']) {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if matches!(rest, ".inf" | ".Inf" | ".INF") {
        return ScalarKind::OtherNumber;
    }
    if rest.starts_with(['+', '-']) {
        return ScalarKind::Text;
    }
    let digits = |text: &str, radix: u32| {
        let all = !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
        all.then(|| u64::from_str_radix(text, radix).ok())
    };
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(number) = rest.strip_prefix(prefix).and_then(|rest| digits(rest, radix)) {
            return match number {
                Some(number) if !text.starts_with('-') => ScalarKind::Unsigned(number),
                _ => ScalarKind::OtherNumber,
            };
        }
    }
    if let Some(number) = digits(rest, 10) {
        if rest.len() > 1 && rest.starts_with('0') {
            return ScalarKind::Text;
        }
        return match number {
            Some(number) if !signed || text.starts_with('+') => ScalarKind::Unsigned(number),
            _ => ScalarKind::OtherNumber,
        };
    }
    let number_like = rest
        .bytes()
        .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'))
        && rest.bytes().any(|b| b.is_ascii_digit());
    match rest.parse::<f64>() {
        Ok(number) if number_like && number.is_finite() => ScalarKind::OtherNumber,
        _ => ScalarKind::Text,
    }
}
