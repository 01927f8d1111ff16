//! "Did you mean": the nearest of the words that would have been right.

/// The nearest of `known` to `word`, if it is near enough to be what was meant. Ties go to the first.
#[must_use]
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Comparing costs the product of the lengths; nothing that long is a misspelling.
    if word.len() > 100 {
        return None;
    }
    let lower = word.to_lowercase();
    let far = (word.chars().count() / 3).max(1);
    let mut best: Option<(usize, &str)> = None;
    for candidate in known.into_iter().filter(|candidate| candidate.len() <= 100) {
        let distance = distance(&lower, &candidate.to_lowercase());
        if distance <= far && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// A help line for a word that is not among `known`: the nearest one, or all of them while they are few.
#[must_use]
pub fn did_you_mean<'a>(
    word: &str,
    known: impl IntoIterator<Item = &'a str> + Clone,
    what: &str,
) -> Option<String> {
    const LISTED_MAX: usize = 12;
    if let Some(near) = nearest(word, known.clone()) {
        return Some(format!("did you mean `{near}`?"));
    }
    let all: Vec<&str> = known.into_iter().take(LISTED_MAX + 1).collect();
    let names: Vec<String> = all
        .iter()
        .take(LISTED_MAX)
        .map(|name| format!("`{name}`"))
        .collect();
    match all.len() {
        0 => None,
        n if n > LISTED_MAX => Some(format!("known {what}: {}, …", names.join(", "))),
        _ => Some(format!("known {what}: {}", names.join(", "))),
    }
}

/// Optimal string alignment: insertions, deletions, replacements, and swaps of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let known = ["memory", "vcpus", "net", "deleteBudget"];
        assert_eq!(nearest("memroy", known), Some("memory"));
        assert_eq!(nearest("Memory", known), Some("memory"));
        assert_eq!(nearest("delete_budget", known), Some("deleteBudget"));
        assert_eq!(nearest("vcpu", known), Some("vcpus"));
        assert_eq!(nearest("frobnicate", known), None);
        assert_eq!(nearest(&"m".repeat(1 << 20), known), None);
    }

    #[test]
    fn without_a_near_word_the_known_ones_are_listed() {
        assert_eq!(
            did_you_mean("x7", ["net", "disk"], "fields").unwrap(),
            "known fields: `net`, `disk`"
        );
        assert_eq!(did_you_mean("x", [], "nodes"), None);
    }
}
