//! Man pages and completions, made of the command line itself: `cargo run --example manual -- DIR` fills `DIR/man1` and
//! `DIR/completions`. For packages; nothing of it is in the product. `SOURCE_DATE_EPOCH` is the date of the pages.

use std::{
    env, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use clap::{
    Command,
    builder::{Resettable, StyledStr},
};
use clap_complete::{Shell, generate_to};
use clap_mangen::{
    Man,
    roff::{Inline, Roff, bold, roman},
};
use naikon_userspace::{
    cli,
    config::{CONTROL, PIN_DIR, STATE_DIR},
};

/// What naikon reads and writes, as the package has it.
const FILES: [(&str, &str); 8] = [
    ("/etc/naikon/naikon.toml", "the configuration that the service runs with; every key is explained in it"),
    ("/etc/naikon/lists.d/", "lists whose entries are dropped; each file is a list"),
    ("/etc/naikon/allow.d/", "addresses that are never dropped"),
    ("/usr/share/naikon/lists/", "the shipped lists; none is enforced until it is copied to lists.d"),
    ("/usr/share/doc/naikon/", "quick start, configuration reference, troubleshooting"),
    (STATE_DIR, "the last good content of each list"),
    (CONTROL, "the control socket: root and the service's user may change things, the group naikon may read"),
    (PIN_DIR, "programs and tables: they enforce without the daemon, too"),
];

fn main() -> io::Result<()> {
    let folder = env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.ok_or_else(|| io::Error::other("name the folder to write to: manual DIR"))?;
    let count = pages(&folder.join("man1"))? + completions(&folder.join("completions"))?;
    writeln!(io::stdout(), "{count} files in {}", folder.display())
}

fn command() -> Command {
    let mut command = shown(&cli::command()).disable_help_subcommand(true).subcommand_value_name("COMMAND");
    command.build();
    command
}

/// The command without what its help hides: completions would tell it.
fn shown(command: &Command) -> Command {
    // clap holds names that live for ever.
    let name: &'static str = command.get_name().to_owned().leak();
    let bare = Command::new(name)
        .args(command.get_arguments().filter(|argument| !argument.is_hide_set()).cloned())
        .subcommands(command.get_subcommands().filter(|sub| !sub.is_hide_set()).map(shown));
    let bare = if command.get_version().is_some() { bare.version(env!("CARGO_PKG_VERSION")) } else { bare };
    let told = |text: Option<&StyledStr>| Resettable::from(text.cloned());
    bare.about(told(command.get_about()))
        .long_about(told(command.get_long_about()))
        .after_help(told(command.get_after_help()))
        .after_long_help(told(command.get_after_long_help()))
}

/// How a page is called: `naikon`, `naikon-run`.
fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn completions(folder: &Path) -> io::Result<usize> {
    fs::create_dir_all(folder)?;
    let shells = [Shell::Bash, Shell::Zsh, Shell::Fish];
    for shell in shells {
        let path = generate_to(shell, &mut command(), "naikon", folder)?;
        if shell == Shell::Bash {
            fs::rename(path, folder.join("naikon.bash"))?;
        }
    }
    Ok(shells.len())
}

fn pages(folder: &Path) -> io::Result<usize> {
    fs::create_dir_all(folder)?;
    let command = command();
    let pages: Vec<&Command> = [&command].into_iter().chain(command.get_subcommands()).collect();
    let names: Vec<&str> = pages.iter().map(|page| name(page)).collect();
    let date = date()?;
    for page in &pages {
        let is_main = std::ptr::eq(*page, &raw const command);
        fs::write(folder.join(format!("{}.1", name(page))), render(page, is_main, &names, &date)?)?;
    }
    Ok(pages.len())
}

fn render(page: &Command, is_main: bool, names: &[&str], date: &str) -> io::Result<String> {
    let man = Man::new(page.clone());
    let mut text = Vec::new();
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if is_main {
        let rows = page.get_subcommands().map(|sub| (reference(name(sub)), about(sub)));
        section("COMMANDS", rows).to_writer(&mut text)?;
    }
    for (head, lines) in told_at_the_end(page) {
        let mut roff = Roff::default();
        roff.control("SH", [head.to_uppercase().as_str()]).control("nf", []);
        for line in lines {
            roff.text([roman(line)]);
        }
        roff.control("fi", []).to_writer(&mut text)?;
    }
    let codes = cli::exit_codes().map(|(code, meaning)| (vec![bold(code.to_string())], meaning.to_owned()));
    if is_main {
        section("EXIT STATUS", codes).to_writer(&mut text)?;
        let files = FILES.map(|(path, meaning)| (vec![bold(path)], meaning.to_owned()));
        section("FILES", files).to_writer(&mut text)?;
    } else {
        let mut roff = Roff::default();
        roff.control("SH", ["EXIT STATUS"]).text([roman("As in "), bold("naikon"), roman("(1).")]);
        roff.to_writer(&mut text)?;
    }
    let mut roff = Roff::default();
    let mut others: Vec<Inline> = Vec::new();
    for other in names.iter().filter(|other| **other != name(page)) {
        if !others.is_empty() {
            others.push(roman(", "));
        }
        others.extend(reference(other));
    }
    roff.control("SH", ["SEE ALSO"]).text(others).to_writer(&mut text)?;
    let text = String::from_utf8(text).map_err(io::Error::other)?;
    // Each section comes with the same preamble. Nor does roff want two breaks with nothing between them.
    let preamble = Roff::default().render();
    let title =
        format!(".TH {} 1 \"{date}\" \"naikon {}\" \"naikon\"\n", name(page).to_uppercase(), env!("CARGO_PKG_VERSION"));
    let text = text.replace(&preamble, "").replace("\n.br\n\n.br\n", "\n.sp\n").replace(" \n", "\n");
    Ok(format!("{preamble}{title}{text}"))
}

/// The day of `SOURCE_DATE_EPOCH`, or none: the same source makes the same pages.
fn date() -> io::Result<String> {
    let Ok(seconds) = env::var("SOURCE_DATE_EPOCH") else { return Ok(String::new()) };
    let seconds = seconds.parse().map_err(|error| io::Error::other(format!("SOURCE_DATE_EPOCH: {error}")))?;
    let time = jiff::Timestamp::from_second(seconds).map_err(io::Error::other)?;
    Ok(time.strftime("%Y-%m-%d").to_string())
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

fn reference(page: &str) -> Vec<Inline> {
    vec![bold(page), roman("(1)")]
}

/// A section of terms and what they mean.
fn section(head: &str, rows: impl IntoIterator<Item = (Vec<Inline>, String)>) -> Roff {
    let mut roff = Roff::default();
    roff.control("SH", [head]);
    for (term, meaning) in rows {
        roff.control("TP", []).text(term).text([roman(meaning)]);
    }
    roff
}

/// What stands below the options in the help, by its heads: `Examples:` and the lines that follow. Exit codes have a
/// section of their own.
fn told_at_the_end(command: &Command) -> Vec<(String, Vec<String>)> {
    let Some(text) = command.get_after_long_help().or_else(|| command.get_after_help()) else { return Vec::new() };
    let text = text.to_string();
    let mut sections: Vec<(String, Vec<String>)> = Vec::new();
    for line in text.lines().map(str::trim_end) {
        match (line.split_once(':'), sections.last_mut()) {
            (Some((head, rest)), _) if is_head(head, rest) => {
                let first = Some(rest.trim()).filter(|rest| !rest.is_empty());
                sections.push((head.to_owned(), first.into_iter().map(str::to_owned).collect()));
            }
            (_, Some((_, lines))) => lines.push(line.to_owned()),
            (_, None) => sections.push(("Notes".into(), vec![line.to_owned()])),
        }
    }
    sections.retain(|(head, _)| !head.starts_with("Exit"));
    for (_, lines) in &mut sections {
        let indent =
            lines.iter().filter(|line| !line.is_empty()).map(|line| line.len() - line.trim_start().len()).min();
        let indent = indent.unwrap_or_default();
        for line in lines.iter_mut() {
            *line = line.chars().skip(indent).collect();
        }
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
    }
    sections
}

/// `Examples:` alone, or `Exit codes: 0 done`; never a line that is set off.
fn is_head(head: &str, rest: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphabetic() || c == ' ';
    head.starts_with(|c: char| c.is_ascii_uppercase())
        && head.len() <= 20
        && head.chars().all(is_word)
        && (rest.is_empty() || rest.starts_with(' '))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Arg;
    use std::collections::BTreeMap;

    /// Every file that is made, by its path.
    fn made() -> BTreeMap<String, String> {
        let folder = tempfile::tempdir().unwrap();
        pages(&folder.path().join("man1")).unwrap();
        completions(&folder.path().join("completions")).unwrap();
        let mut found = BTreeMap::new();
        for part in ["man1", "completions"] {
            for entry in fs::read_dir(folder.path().join(part)).unwrap().map(Result::unwrap) {
                let name = format!("{part}/{}", entry.file_name().display());
                found.insert(name, fs::read_to_string(entry.path()).unwrap());
            }
        }
        found
    }

    #[test]
    fn every_command_has_a_page_that_names_all_others() {
        let made = made();
        let command = command();
        let names: Vec<&str> = [&command].into_iter().chain(command.get_subcommands()).map(name).collect();
        assert!(names.contains(&"naikon-run") && names.len() > 10, "{names:?}");
        for page in &names {
            let text = &made[&format!("man1/{page}.1")];
            for other in names.iter().filter(|other| *other != page) {
                let reference = format!("\\fB{}\\fR(1)", other.replace('-', "\\-"));
                assert!(text.contains(&reference), "{page} should name {reference}:\n{text}");
            }
        }
        assert_eq!(made.keys().filter(|file| file.starts_with("man1/")).count(), names.len());
    }

    #[test]
    fn main_page_has_examples_exit_codes_and_files() {
        let text = &made()["man1/naikon.1"];
        for part in [".SH EXAMPLES", ".SH \"EXIT STATUS\"", ".SH FILES", "\\fB9\\fR\nno daemon answers", "naikon.toml"]
        {
            assert!(text.contains(part), "{part} should be in:\n{text}");
        }
    }

    #[test]
    fn what_help_hides_is_nowhere() {
        let hidden = Command::new("secret").hide(true);
        let option = Arg::new("quiet-option").long("hidden-option").hide(true);
        let sub = Command::new("run").about("go").after_help("Examples:\n  x").arg(option).arg(Arg::new("FILE"));
        let command = shown(&Command::new("naikon").subcommand(hidden).subcommand(sub));
        assert_eq!(command.get_subcommands().map(Command::get_name).collect::<Vec<_>>(), ["run"]);
        let run = command.get_subcommands().next().unwrap();
        assert_eq!(run.get_arguments().map(|argument| argument.get_id().as_str()).collect::<Vec<_>>(), ["FILE"]);
        assert_eq!(about(run), "go");
        assert_eq!(told_at_the_end(run), [("Examples".into(), vec!["x".into()])]);
    }

    #[test]
    fn completions_are_there_for_three_shells() {
        let made = made();
        for file in ["naikon.bash", "_naikon", "naikon.fish"] {
            let text = made.get(&format!("completions/{file}")).unwrap_or_else(|| panic!("{file} should be there"));
            assert!(text.contains("on-exit") && text.contains("doctor"), "{file}");
        }
    }

    #[test]
    fn help_below_the_options_becomes_sections() {
        let text = "Examples:\n  naikon x   one\n    more: of it\n\nExit codes: 0 done,\n1 no.\n\nFormat: a line";
        let found = told_at_the_end(&Command::new("naikon").after_help(text));
        let expected = [("Examples", vec!["naikon x   one", "  more: of it"]), ("Format", vec!["a line"])];
        assert_eq!(found, expected.map(|(head, lines)| (head.into(), lines.into_iter().map(str::to_owned).collect())));
    }
}
