//! Words of a guest's kernel command line: what templates and slivers may add, and how a driver writes its own.

/// Checks a word that a template or a sliver adds; `reserved` are the beginnings of words that only the driver may say,
/// since they name its own devices.
///
/// # Errors
/// Why the word cannot be taken.
pub fn check_word(word: &str, reserved: &[&str]) -> Result<(), &'static str> {
    if word.is_empty() || !word.bytes().all(|b| b.is_ascii_graphic() && b != b'"') {
        return Err("a word is printable ASCII without spaces and double quotes");
    }
    if word == "--" {
        return Err("what follows it would not reach the kernel");
    }
    if reserved.iter().any(|start| word.starts_with(start)) {
        return Err("the driver sets it");
    }
    Ok(())
}

/// Writes a value so that it is one word and has no colon: `%XX` for all but letters, digits and `/.,-_@+`, which the
/// guest's first program reads back.
#[must_use]
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"/.,-_@+".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded += &format!("%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_one_word_and_nobody_elses() {
        let reserved = ["console="];
        assert_eq!(check_word("quiet", &reserved), Ok(()));
        for (word, why) in [
            ("", "printable"),
            ("two words", "printable"),
            ("a\"b", "printable"),
            ("é", "printable"),
            ("--", "not reach"),
            ("console=ttyS1", "the driver"),
        ] {
            let refused = check_word(word, &reserved).unwrap_err();
            assert!(refused.contains(why), "{word:?}: {refused}");
        }
    }

    #[test]
    fn a_value_stays_one_word_without_a_colon() {
        assert_eq!(encode("/srv/a b:c%=é"), "/srv/a%20b%3Ac%25%3D%C3%A9");
    }
}
