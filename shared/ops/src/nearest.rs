//! Owns the guess at what somebody meant to write: the known name that is fewest edits away, if it is near enough to
//! be worth saying. Names longer than [`NAME_MAX`] get no guess, so that a hostile one costs nothing.

/// Longest name, in bytes, for which a guess is made. Kubernetes names end at 253.
const NAME_MAX: usize = 253;
/// Most edits of a slip: beyond, another word was meant.
const EDITS_MAX: usize = 2;
/// Most candidates compared for one guess.
const CANDIDATES_MAX: usize = 1_000;

/// The candidate nearest to `name`: at most two of its letters differ, and at most a third of a short one's.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > NAME_MAX {
        return None;
    }
    let name = lower(name);
    let allowed = (name.len() / 3).clamp(1, EDITS_MAX);
    candidates
        .into_iter()
        .take(CANDIDATES_MAX)
        .filter(|candidate| candidate.len() <= NAME_MAX)
        .map(|candidate| (lower(candidate), candidate))
        // Each letter that one has more is an edit: no need to measure.
        .filter(|(letters, _)| letters.len().abs_diff(name.len()) <= allowed)
        .map(|(letters, candidate)| (distance(&name, &letters), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

fn lower(text: &str) -> Vec<char> {
    text.to_lowercase().chars().collect()
}

/// Levenshtein distance with neighbours swapped counted as one edit: the commonest slip of the fingers.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let change = last[j] + usize::from(a[i] != b[j]);
            let mut best = change.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                best = best.min(before_last[j - 1] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_what_was_meant() {
        let known = ["voting", "emoji", "web", "containers", "initContainers"];
        for (typed, meant) in [
            ("votng", Some("voting")),
            ("conatiners", Some("containers")),
            ("WEB", Some("web")),
            ("emojii", Some("emoji")),
            ("database", None),
            ("initConatniners", Some("initContainers")),
            ("fewContainers", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, known), meant, "{typed}");
        }
        assert_eq!(nearest(&"x".repeat(NAME_MAX + 1), known), None);
    }

    #[test]
    fn distances() {
        for (a, b, edits) in [("", "", 0), ("a", "", 1), ("", "ab", 2), ("ab", "ba", 1), ("kitten", "sitting", 3)] {
            assert_eq!(distance(&lower(a), &lower(b)), edits, "{a} {b}");
            assert_eq!(distance(&lower(b), &lower(a)), edits, "{b} {a}");
        }
    }
}
