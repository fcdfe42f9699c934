//! Masks on any arrays: no panic; what is scored lies in one span, and tokens of bytes and of places agree.

use alignkit_core::masks::{Ids, Spans, Tokens, UNSCORED, mask_labels, score_bytes};
use arbitrary::Arbitrary;

#[derive(Arbitrary, Debug)]
pub struct Case {
    lengths: Vec<u8>,
    gaps: Vec<(u8, u8)>,
    ids: Vec<i32>,
    starts: Vec<i64>,
    ends: Vec<i64>,
    row_offsets: Vec<i64>,
    spans: Vec<[i64; 2]>,
    span_offsets: Vec<i64>,
}

pub fn check(case: &Case) {
    any_arrays(case);
    one_text(case);
}

/// Arrays that need not belong together: an error, or as many labels as ids, each the id or -100.
fn any_arrays(case: &Case) {
    let tokens = Tokens { ids: &case.ids, starts: &case.starts, ends: &case.ends, row_offsets: &case.row_offsets };
    let spans = Spans { spans: &case.spans, row_offsets: &case.span_offsets };
    if let Ok(labels) = mask_labels(&tokens, &spans) {
        assert_eq!(labels.len(), case.ids.len());
        assert!(labels.iter().zip(&case.ids).all(|(label, id)| label == id || *label == UNSCORED));
    }
    let lengths: Vec<i32> = case.lengths.iter().map(|&length| i32::from(length) - 8).collect();
    let ids =
        Ids { ids: &case.ids, row_offsets: &case.row_offsets, token_lengths: &lengths, text_lengths: &case.starts };
    if let Ok(scores) = score_bytes(&ids, &spans) {
        assert_eq!(scores.scored.len(), case.ids.len());
    }
}

/// A text cut into tokens of these lengths, with spans in it: both kernels agree with the plain rule.
fn one_text(case: &Case) {
    let lengths: Vec<i32> = case.lengths.iter().map(|&length| i32::from(length)).collect();
    let ids: Vec<i32> = (0..lengths.len() as i32).collect();
    let ends: Vec<i64> = lengths
        .iter()
        .scan(0_i64, |at, &length| {
            *at += i64::from(length);
            Some(*at)
        })
        .collect();
    let starts: Vec<i64> = ends.iter().zip(&lengths).map(|(end, &length)| end - i64::from(length)).collect();
    let mut at = 0;
    let mut spans = Vec::new();
    for &(gap, length) in &case.gaps {
        let start = at + i64::from(gap);
        at = start + i64::from(length);
        if length > 0 {
            spans.push([start, at]);
        }
    }
    let row_offsets = &[0, ids.len() as i64];
    let own = Spans { spans: &spans, row_offsets: &[0, spans.len() as i64] };
    let labels = mask_labels(&Tokens { ids: &ids, starts: &starts, ends: &ends, row_offsets }, &own)
        .expect("a text cut into tokens");
    let text_lengths = &[ends.last().copied().unwrap_or(0)];
    let scores = score_bytes(&Ids { ids: &ids, row_offsets, token_lengths: &lengths, text_lengths }, &own)
        .expect("a text cut into tokens");
    assert!(scores.unequal_rows.is_empty());
    for (token, (&start, &end)) in starts.iter().zip(&ends).enumerate() {
        let is_inside = spans.iter().any(|span| span[0] <= start && start < span[1] && end <= span[1]);
        assert_eq!(labels[token] != UNSCORED, is_inside, "token {token} at [{start}, {end}) of {spans:?}");
        assert_eq!(scores.scored[token], is_inside, "token {token} at [{start}, {end}) of {spans:?}");
    }
}
