//! What must hold for whatever bytes: one function a target, each a law that panics when it is broken.
//!
//! libFuzzer looks for such bytes (`cargo xtask fuzz`); the inputs kept in `corpus/` are tried by plain `cargo test`,
//! too. Only the public side of naikon is used.

mod capture;
mod frame;
mod list;
mod rules;
mod text;

use std::{env, fs, process::ExitCode};

pub use capture::capture;
pub use frame::deep;
pub use list::{csv, gzip, misp, plain, records, stix};
pub use rules::{delta, ruleset};
pub use text::{config, prefix};

/// The entry point of a target: libFuzzer's, and without it a program that tries the files that it is given.
#[macro_export]
macro_rules! target {
    ($target:ident) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|input: &[u8]| $crate::$target(input));

        #[cfg(not(fuzzing))]
        fn main() -> std::process::ExitCode {
            $crate::repeat($crate::$target)
        }
    };
}

/// Tries the files named on the command line: what a run found, with a debugger or `dbg!` at hand.
pub fn repeat(target: fn(&[u8])) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for name in env::args_os().skip(1) {
        match fs::read(&name) {
            Ok(input) => {
                target(&input);
                println!("{}: holds", name.display());
            }
            Err(error) => {
                eprintln!("{}: {error}", name.display());
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    type Target = (&'static str, fn(&[u8]));

    const TARGETS: [Target; 12] = [
        ("capture", capture),
        ("config", config),
        ("csv", csv),
        ("deep", deep),
        ("delta", delta),
        ("gzip", gzip),
        ("misp", misp),
        ("plain", plain),
        ("prefix", prefix),
        ("records", records),
        ("ruleset", ruleset),
        ("stix", stix),
    ];

    fn names_in(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn laws_hold_for_every_kept_input() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
        assert_eq!(names_in(&corpus), TARGETS.map(|(name, _)| name));
        for (target, holds) in TARGETS {
            let inputs = names_in(&corpus.join(target));
            assert!(!inputs.is_empty(), "{target}");
            for input in inputs {
                println!("{target}/{input}");
                holds(&fs::read(corpus.join(target).join(input)).unwrap());
            }
        }
    }
}
