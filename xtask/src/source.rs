//! Rust source as the house rules see it: code without comments, texts and test modules. Line by line, so that a
//! finding has a place. Knows as much of the language as that takes, and relies on rustfmt for the rest.

/// One file's code.
pub(crate) struct Source {
    /// Line number from 1, and the line with comments and the insides of texts blanked out.
    pub(crate) lines: Vec<(usize, String)>,
}

impl Source {
    pub(crate) fn new(text: &str) -> Self {
        let blanked = blank(text);
        let mut lines = Vec::new();
        let mut all = blanked.lines().zip(1..).peekable();
        while let Some((line, number)) = all.next() {
            let opens_tests = line.starts_with("#[cfg(test)]")
                && all.peek().is_some_and(|(next, _)| next.starts_with("mod ") && next.ends_with('{'));
            if opens_tests {
                // rustfmt puts the brace that ends a module on a line of its own, at its start.
                all.by_ref().find(|(line, _)| line.starts_with('}'));
            } else {
                lines.push((number, line.to_owned()));
            }
        }
        Source { lines }
    }

    /// Lines that hold code.
    pub(crate) fn code_lines(&self) -> usize {
        self.lines.iter().filter(|(_, line)| !line.trim().is_empty()).count()
    }

    /// Every line that holds `word` with no letter, digit or underscore at either side.
    pub(crate) fn lines_with<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        self.lines.iter().filter(|(_, line)| has_word(line, word)).map(|(number, _)| *number)
    }

    /// The full paths that `use` statements name, with the line where the statement starts.
    pub(crate) fn imports(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        let mut statement: Option<(usize, String)> = None;
        for (number, line) in &self.lines {
            let line = line.trim();
            if statement.is_none() {
                let start = line.strip_prefix("use ").or_else(|| {
                    line.starts_with("pub").then(|| line.split_once(" use ").map(|(_, rest)| rest)).flatten()
                });
                statement = start.map(|start| (*number, start.to_owned()));
            } else if let Some((_, text)) = &mut statement {
                text.push_str(line);
            }
            if let Some((first, text)) = statement.take_if(|(_, text)| text.contains(';')) {
                let tree = text.split(';').next().unwrap_or_default();
                expand("", tree, &mut |path| found.push((first, path)));
            }
        }
        found
    }
}

/// Spells out a `use` tree: `a::{b, c::{d, e}}` gives `a::b`, `a::c::d`, `a::c::e`.
fn expand(prefix: &str, tree: &str, found: &mut impl FnMut(String)) {
    let tree = tree.trim();
    let Some((before, inside)) = tree.split_once('{') else {
        let name = tree.split(" as ").next().unwrap_or(tree).trim();
        if !name.is_empty() {
            found(format!("{prefix}{name}"));
        }
        return;
    };
    let prefix = format!("{prefix}{before}");
    let inside = inside.strip_suffix('}').unwrap_or(inside);
    let (mut depth, mut start) = (0_usize, 0);
    for (at, character) in inside.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                expand(&prefix, inside.get(start..at).unwrap_or_default(), found);
                start = at + 1;
            }
            _ => {}
        }
    }
    expand(&prefix, inside.get(start..).unwrap_or_default(), found);
}

/// Whether `text` holds `word` with no identifier character at either side.
fn has_word(text: &str, word: &str) -> bool {
    let identifier = |character: char| character.is_alphanumeric() || character == '_';
    text.match_indices(word).any(|(at, _)| {
        let before = text.get(..at).and_then(|before| before.chars().next_back());
        let after = text.get(at + word.len()..).and_then(|after| after.chars().next());
        !before.is_some_and(identifier) && !after.is_some_and(identifier)
    })
}

/// Replaces comments and the insides of texts by blanks; lines keep their numbers.
fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if character == '"' {
            quoted(rest)
        } else if let Some(length) = raw(rest, out.chars().next_back()) {
            length
        } else if let Some(length) = character_literal(rest) {
            length
        } else {
            out.push(character);
            rest = rest.get(character.len_utf8()..).unwrap_or_default();
            continue;
        };
        let (skip, remaining) = rest.split_at_checked(skipped).unwrap_or((rest, ""));
        out.extend(skip.chars().map(|character| if character == '\n' { '\n' } else { ' ' }));
        rest = remaining;
    }
    out
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Length of a raw text such as `r#"..."#` at the start of `text`.
fn raw(text: &str, before: Option<char>) -> Option<usize> {
    if before.is_some_and(|before| before.is_alphanumeric() && before != 'b' || before == '_') {
        return None;
    }
    let hashes = text.strip_prefix('r')?.chars().take_while(|character| *character == '#').count();
    let open = 1 + hashes;
    let body = text.get(open..)?.strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    Some(body.find(&close).map_or(text.len(), |at| open + 1 + at + close.len()))
}

/// Length of a character literal at the start of `text`; a lifetime is none.
fn character_literal(text: &str) -> Option<usize> {
    let body = text.strip_prefix('\'')?;
    if body.starts_with('\\') {
        let end = body.char_indices().skip(2).find(|(_, character)| *character == '\'')?.0;
        return Some(1 + end + 1);
    }
    let character = body.chars().next()?;
    body.get(character.len_utf8()..)?.starts_with('\'').then(|| 2 + character.len_utf8())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imports(text: &str) -> Vec<String> {
        Source::new(text).imports().into_iter().map(|(_, path)| path).collect()
    }

    #[test]
    fn comments_and_texts_are_no_code() {
        let text = "a // unsafe\n/* unsafe /* x */ unsafe */ b\n\"unsafe \\\" unsafe\" c r#\"unsafe \" unsafe\"# '\"' d 'x e\n";
        let source = Source::new(text);
        assert_eq!(source.lines_with("unsafe").count(), 0);
        for word in ["a", "b", "c", "d", "e"] {
            assert_eq!(source.lines_with(word).count(), 1, "{word}");
        }
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("unsafe {", "unsafe"));
        assert!(has_word("#[unsafe(no_mangle)]", "unsafe"));
        assert!(!has_word("#[expect(unsafe_code)]", "unsafe"));
    }

    #[test]
    fn test_modules_are_left_out_and_what_follows_is_not() {
        let source = Source::new("one\n#[cfg(test)]\nmod tests {\n    two\n}\nthree\n");
        assert_eq!(source.lines.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 6]);
        assert_eq!(source.code_lines(), 2);
    }

    #[test]
    fn imports_are_spelled_out() {
        assert_eq!(imports("use std::{fs, io::{self, Read as _}};\n"), ["std::fs", "std::io::self", "std::io::Read"]);
        assert_eq!(
            imports("pub(crate) use crate::{\n    kernel::Kernel,\n    daemon,\n};\n"),
            ["crate::kernel::Kernel", "crate::daemon"]
        );
    }
}
