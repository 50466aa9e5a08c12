//! The pages as they are installed: a link to what is only in the source becomes its text.

use super::{Maker, remove_folder};
use anyhow::{Context as _, Result};
use std::{fs, path::Path};

impl Maker<'_> {
    /// Writes them to `pages`, as README.md and docs lie beside each other in the source.
    pub(super) fn pages(&self) -> Result<()> {
        let made = self.folder.join("pages");
        remove_folder(&made)?;
        fs::create_dir_all(made.join("docs")).with_context(|| format!("making {}", made.display()))?;
        let docs = self.workspace.join("docs");
        let mut names = vec!["README.md".to_owned()];
        for entry in fs::read_dir(&docs).with_context(|| format!("reading {}", docs.display()))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.ends_with(".md") {
                names.push(format!("docs/{name}"));
            }
        }
        for name in names {
            let source = self.workspace.join(&name);
            let text = fs::read_to_string(&source).with_context(|| format!("reading {}", source.display()))?;
            let in_docs = Path::new(&name).parent() == Some(Path::new("docs"));
            let page = made.join(&name);
            fs::write(&page, installed(&text, in_docs)).with_context(|| format!("writing {}", page.display()))?;
        }
        Ok(())
    }
}

/// The text with only those links that lead somewhere where README.md and docs are alone.
fn installed(text: &str, in_docs: bool) -> String {
    let leads_somewhere = |target: &str| {
        let is_elsewhere = target.starts_with('#') || target.contains("://");
        is_elsewhere
            || if in_docs {
                !target.starts_with("../") || target.starts_with("../README.md")
            } else {
                target.starts_with("docs/")
            }
    };
    let mut made = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("](") {
        // A label may hold a picture, never another link.
        let (kept, label) = before.rsplit_once('[').unwrap_or((before, ""));
        match after.split_once(')') {
            Some((target, behind)) if before.contains('[') && !leads_somewhere(target) => {
                made.push_str(kept);
                made.push_str(label);
                rest = behind;
            }
            _ => {
                made.push_str(before);
                made.push_str("](");
                rest = after;
            }
        }
    }
    made + rest
}

#[cfg(test)]
mod tests {
    use super::installed;

    #[test]
    fn links_into_the_source_become_their_text() {
        for (in_docs, text, expected) in [
            (true, "see [rules](../packaging/x.yml), [lists](lists.md#a).", "see rules, [lists](lists.md#a)."),
            (true, "[read me](../README.md#limits) [here](#a)", "[read me](../README.md#limits) [here](#a)"),
            (
                false,
                "[LICENSE](LICENSE) and [how](docs/bench.md) ![plot](docs/bench.svg)",
                "LICENSE and [how](docs/bench.md) ![plot](docs/bench.svg)",
            ),
            (false, "`a[0](b` [x](https://example.org/)", "`a[0](b` [x](https://example.org/)"),
        ] {
            assert_eq!(installed(text, in_docs), expected);
        }
    }
}
