//! The target `capture`: see `naikon_fuzz::TARGETS`.
#![cfg_attr(fuzzing, no_main)]

naikon_fuzz::target!(capture);
