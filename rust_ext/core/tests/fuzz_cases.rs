//! The fuzz targets' cases on pseudo-random bytes: what `cargo fuzz` looks for with coverage, briefly and on stable Rust.

use arbitrary::{Arbitrary, Unstructured};

#[path = "../fuzz/cases/masks.rs"]
mod masks;
#[path = "../fuzz/cases/packing.rs"]
mod packing;

const NUM_CASES: usize = 2000;

/// Bytes of growing length; most are small, so that offsets, lengths and capacities often belong together.
fn random_bytes(state: &mut u64, length: usize) -> Vec<u8> {
    (0..length)
        .map(|_| {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let byte = (*state >> 56) as u8;
            if (*state >> 33).is_multiple_of(4) { byte } else { byte % 5 }
        })
        .collect()
}

fn run<C: for<'a> Arbitrary<'a>>(check: impl Fn(&C)) {
    let mut state = 20_260_u64;
    for number in 0..NUM_CASES {
        let bytes = random_bytes(&mut state, 16 + number % 700);
        check(&C::arbitrary(&mut Unstructured::new(&bytes)).expect("bytes make a case"));
    }
}

#[test]
fn masks_hold_for_any_case() {
    run(masks::check);
}

#[test]
fn packing_holds_for_any_case() {
    run(packing::check);
}
