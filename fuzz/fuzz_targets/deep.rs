//! The target `deep`: see `naikon_fuzz::TARGETS`.
#![cfg_attr(fuzzing, no_main)]

naikon_fuzz::target!(deep);
