//! One binary, one module per subject; see CONTRIBUTING.md for where a new test goes.
