//! What was meant by a name that nothing has: the known one that is a slip of the keyboard away.

/// Longer ones are no slips, and comparing takes the product of both lengths.
const LONGEST: usize = 64;

/// The first of the nearest, if one is near: a letter too much, too few, wrong or swapped with its neighbour for every
/// three of them, whatever the case.
#[must_use]
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = typed.chars().count();
    if length > LONGEST {
        return None;
    }
    let typed = typed.to_lowercase();
    let near = |known: &'a str| {
        let length = length.max(known.chars().count());
        let distance = strsim::osa_distance(&typed, &known.to_lowercase());
        (distance <= (length / 3).max(1) && distance < length).then_some((distance, known))
    };
    known
        .into_iter()
        .filter(|known| known.len() <= 4 * LONGEST)
        .filter_map(near)
        .min_by_key(|(far, _)| *far)
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_understood_and_other_words_are_not() {
        let keys = ["interfaces", "mode", "on_exit", "hits", "pin_dir"];
        for (typed, meant) in [
            ("interfacse", Some("interfaces")),
            ("interface", Some("interfaces")),
            ("Mode", Some("mode")),
            ("mdoe", Some("mode")),
            ("on-exit", Some("on_exit")),
            ("pindir", Some("pin_dir")),
            ("hist", Some("hits")),
            // One in three letters may be wrong, and one in any word.
            ("pin_dxy", Some("pin_dir")),
            ("pin_xyz", None),
            ("hxts", Some("hits")),
            ("hxxs", None),
            ("", None),
            ("x", None),
            ("colour", None),
            ("output", None),
        ] {
            assert_eq!(nearest(typed, keys), meant, "{typed}");
        }
        assert_eq!(nearest("eht0", ["lo", "eth0", "eth1"]), Some("eth0"));
        assert_eq!(nearest(&"x".repeat(LONGEST + 1), [&*"x".repeat(LONGEST + 1)]), None);
        assert_eq!(nearest("y", ["x"]), None);
    }
}
