//! Packing of any lengths: an error, or every tree in one row, no row over capacity, no two rows that one could hold.

use alignkit_core::packing::pack_trees;
use alignkit_core::ranks::share_rows;
use arbitrary::Arbitrary;

#[derive(Arbitrary, Debug)]
pub struct Case {
    lengths: Vec<u16>,
    capacity: u16,
    any_lengths: Vec<i64>,
    any_capacity: i64,
    num_ranks: u8,
}

pub fn check(case: &Case) {
    if case.any_capacity < 1 << 12 {
        check_packing(&case.any_lengths, case.any_capacity);
    }
    let capacity = i64::from(case.capacity) + 1;
    let lengths: Vec<i64> = case.lengths.iter().map(|&length| i64::from(length) % (capacity + 1)).collect();
    assert!(check_packing(&lengths, capacity), "lengths that fit were refused");
    if let Ok(rank_of) = share_rows(&lengths, usize::from(case.num_ranks), lengths.len()) {
        assert_eq!(rank_of.len(), lengths.len());
        assert!(rank_of.iter().all(|&rank| (0..i64::from(case.num_ranks)).contains(&rank)));
    }
}

fn check_packing(lengths: &[i64], capacity: i64) -> bool {
    let Ok(packing) = pack_trees(lengths, capacity) else { return false };
    assert_eq!(packing.row_of.len(), lengths.len());
    let mut filled = vec![0_i64; packing.num_rows];
    let mut is_used = vec![false; packing.num_rows];
    for (&row, &length) in packing.row_of.iter().zip(lengths) {
        filled[row as usize] += length;
        is_used[row as usize] = true;
    }
    assert!(is_used.iter().all(|&used| used));
    assert!(filled.iter().all(|&tokens| tokens <= capacity));
    filled.sort_unstable();
    assert!(filled.len() < 2 || filled[0] + filled[1] > capacity || filled[1] == 0);
    true
}
