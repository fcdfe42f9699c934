#![no_main]

#[path = "../cases/masks.rs"]
mod masks;

libfuzzer_sys::fuzz_target!(|case: masks::Case| masks::check(&case));
