#![no_main]

#[path = "../cases/packing.rs"]
mod packing;

libfuzzer_sys::fuzz_target!(|case: packing::Case| packing::check(&case));
