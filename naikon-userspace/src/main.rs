//! Arguments to exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    naikon_userspace::cli::main()
}
