//! Labels of Eq. 1: a token's id where the loss sees it, -100 elsewhere.
//!
//! A token is scored when its text lies wholly inside one span of its row. A token across a span's border is not: part
//! of it would be the prompt's. A token without text (an inserted special token) belongs to the place before the text
//! that follows it, so that it is scored at a span's start and within, and not at the span's end.

pub use crate::mask_error::MaskError;

/// The label of a token that the loss does not see.
pub const UNSCORED: i32 = -100;

/// The tokens of all rows, one after another.
pub struct Tokens<'a> {
    pub ids: &'a [i32],
    /// Where each token's text begins in its row's text.
    pub starts: &'a [i64],
    /// Where it ends (exclusive).
    pub ends: &'a [i64],
    /// One entry more than rows.
    pub row_offsets: &'a [i64],
}

/// The half-open stretches `[start, end)` of each row's text that are scored, sorted and without overlap.
pub struct Spans<'a> {
    pub spans: &'a [[i64; 2]],
    /// One entry more than rows.
    pub row_offsets: &'a [i64],
}

/// The ids of all rows, of a tokenizer whose tokens stand for bytes: where each lies follows from those before it.
pub struct Ids<'a> {
    pub ids: &'a [i32],
    /// One entry more than rows.
    pub row_offsets: &'a [i64],
    /// How many bytes each token of the vocabulary stands for.
    pub token_lengths: &'a [i32],
    /// How many bytes each row's text has.
    pub text_lengths: &'a [i64],
}

/// Which tokens are scored, and the rows whose tokens' bytes are not as many as their text's (nothing of them is).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scores {
    pub scored: Vec<bool>,
    pub unequal_rows: Vec<i64>,
}

/// Labels every token with its id where its text lies wholly inside one of its row's spans, else with [`UNSCORED`].
///
/// # Errors
///
/// Lengths or rows that disagree, offsets that do not divide their entries, a negative or reversed token or span, spans
/// that are unsorted or overlap.
pub fn mask_labels(tokens: &Tokens, spans: &Spans) -> Result<Vec<i32>, MaskError> {
    let num_tokens = tokens.ids.len();
    if tokens.starts.len() != num_tokens || tokens.ends.len() != num_tokens {
        return Err(MaskError::TokensDisagree {
            ids: num_tokens,
            starts: tokens.starts.len(),
            ends: tokens.ends.len(),
        });
    }
    check_offsets("row_offsets", tokens.row_offsets, num_tokens)?;
    check_offsets("span_offsets", spans.row_offsets, spans.spans.len())?;
    if tokens.row_offsets.len() != spans.row_offsets.len() {
        return Err(MaskError::RowsDisagree {
            tokens: tokens.row_offsets.len() - 1,
            spans: spans.row_offsets.len() - 1,
        });
    }
    let mut labels = Vec::with_capacity(num_tokens);
    for (row, (place, span_place)) in tokens.row_offsets.windows(2).zip(spans.row_offsets.windows(2)).enumerate() {
        let own = place[0] as usize..place[1] as usize;
        let own_spans = &spans.spans[span_place[0] as usize..span_place[1] as usize];
        check_spans(row, own_spans)?;
        for (token, at) in own.enumerate() {
            let (start, end) = (tokens.starts[at], tokens.ends[at]);
            if start < 0 || end < start {
                return Err(MaskError::Token { row, token, start, end });
            }
            labels.push(if is_inside(start, end, own_spans) { tokens.ids[at] } else { UNSCORED });
        }
    }
    Ok(labels)
}

/// Scores every token whose bytes lie wholly inside one of its row's spans (in bytes).
///
/// # Errors
///
/// As [`mask_labels`], and an id that the vocabulary does not have.
pub fn score_bytes(tokens: &Ids, spans: &Spans) -> Result<Scores, MaskError> {
    check_offsets("row_offsets", tokens.row_offsets, tokens.ids.len())?;
    check_offsets("span_offsets", spans.row_offsets, spans.spans.len())?;
    let num_rows = tokens.row_offsets.len() - 1;
    if spans.row_offsets.len() - 1 != num_rows {
        return Err(MaskError::RowsDisagree { tokens: num_rows, spans: spans.row_offsets.len() - 1 });
    }
    if tokens.text_lengths.len() != num_rows {
        return Err(MaskError::TextsDisagree { tokens: num_rows, texts: tokens.text_lengths.len() });
    }
    let mut scored = Vec::with_capacity(tokens.ids.len());
    let mut unequal_rows = Vec::new();
    for row in 0..num_rows {
        let own = &tokens.ids[tokens.row_offsets[row] as usize..tokens.row_offsets[row + 1] as usize];
        let own_spans = &spans.spans[spans.row_offsets[row] as usize..spans.row_offsets[row + 1] as usize];
        check_spans(row, own_spans)?;
        let first = scored.len();
        let (mut at, mut next) = (0_i64, 0);
        for (token, &id) in own.iter().enumerate() {
            let length = usize::try_from(id).ok().and_then(|id| tokens.token_lengths.get(id));
            let end = at + i64::from(*length.ok_or(MaskError::UnknownId { row, token, id })?);
            while next < own_spans.len() && own_spans[next][1] <= at {
                next += 1;
            }
            scored.push(own_spans.get(next).is_some_and(|span| span[0] <= at && end <= span[1]));
            at = end;
        }
        if at != tokens.text_lengths[row] {
            scored[first..].fill(false);
            unequal_rows.push(row as i64);
        }
    }
    Ok(Scores { scored, unequal_rows })
}

/// Whether `[start, end)` lies wholly inside one span; only the last span that begins at or before `start` can hold it.
fn is_inside(start: i64, end: i64, spans: &[[i64; 2]]) -> bool {
    match spans.partition_point(|span| span[0] <= start) {
        0 => false,
        after => start < spans[after - 1][1] && end <= spans[after - 1][1],
    }
}

fn check_offsets(name: &'static str, offsets: &[i64], len: usize) -> Result<(), MaskError> {
    let (Some(&begin), Some(&end)) = (offsets.first(), offsets.last()) else {
        return Err(MaskError::OffsetsEmpty { name });
    };
    if begin != 0 {
        return Err(MaskError::OffsetsBegin { name, begin });
    }
    if let Some(row) = offsets.windows(2).position(|pair| pair[1] < pair[0]) {
        return Err(MaskError::OffsetsFall { name, row, begin: offsets[row], end: offsets[row + 1] });
    }
    if end as usize != len {
        return Err(MaskError::OffsetsEnd { name, end, len });
    }
    Ok(())
}

fn check_spans(row: usize, spans: &[[i64; 2]]) -> Result<(), MaskError> {
    let mut previous_end = 0;
    for (span, &[start, end]) in spans.iter().enumerate() {
        if start < 0 || end < start {
            return Err(MaskError::Span { row, span, start, end });
        }
        if start < previous_end {
            return Err(MaskError::SpanOrder { row, span, start, previous_end });
        }
        previous_end = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Labels of one row whose tokens have the ids 0, 1, 2, ...
    fn labels(places: &[[i64; 2]], spans: &[[i64; 2]]) -> Result<Vec<i32>, MaskError> {
        let ids: Vec<i32> = (0..places.len() as i32).collect();
        let starts: Vec<i64> = places.iter().map(|place| place[0]).collect();
        let ends: Vec<i64> = places.iter().map(|place| place[1]).collect();
        mask_labels(
            &Tokens { ids: &ids, starts: &starts, ends: &ends, row_offsets: &[0, places.len() as i64] },
            &Spans { spans, row_offsets: &[0, spans.len() as i64] },
        )
    }

    /// Scores of one row of tokens of these lengths.
    fn scores(lengths: &[i32], spans: &[[i64; 2]], text_length: i64) -> Result<Scores, MaskError> {
        let ids: Vec<i32> = (0..lengths.len() as i32).collect();
        let row_offsets = &[0, lengths.len() as i64];
        score_bytes(
            &Ids { ids: &ids, row_offsets, token_lengths: lengths, text_lengths: &[text_length] },
            &Spans { spans, row_offsets: &[0, spans.len() as i64] },
        )
    }

    #[test]
    fn bytes_are_scored_only_wholly_inside_a_span() {
        let expected = vec![false, true, true, false, true];
        let found = scores(&[2, 2, 2, 3, 1], &[[2, 6], [8, 10]], 10);
        assert_eq!(found, Ok(Scores { scored: expected, unequal_rows: vec![] }));
    }

    #[test]
    fn a_row_whose_bytes_are_not_its_texts_is_named_and_not_scored() {
        let found = scores(&[2, 2], &[[0, 4]], 5);
        assert_eq!(found, Ok(Scores { scored: vec![false, false], unequal_rows: vec![0] }));
    }

    #[test]
    fn ids_out_of_the_vocabulary_are_refused() {
        for id in [-1, 2] {
            let tokens = Ids { ids: &[0, id], row_offsets: &[0, 2], token_lengths: &[1, 1], text_lengths: &[2] };
            let found = score_bytes(&tokens, &Spans { spans: &[], row_offsets: &[0, 0] });
            assert_eq!(found, Err(MaskError::UnknownId { row: 0, token: 1, id }));
        }
    }

    #[test]
    fn tokens_keep_their_ids_only_wholly_inside_a_span() {
        let places = [[0, 2], [2, 4], [4, 6], [6, 9], [9, 10]];
        assert_eq!(labels(&places, &[[2, 6], [8, 10]]), Ok(vec![-100, 1, 2, -100, 4]));
    }

    #[test]
    fn a_token_across_two_adjacent_spans_is_not_scored() {
        assert_eq!(labels(&[[0, 3], [3, 7], [7, 9]], &[[0, 5], [5, 9]]), Ok(vec![0, -100, 2]));
    }

    #[test]
    fn a_token_without_text_belongs_to_what_follows_it() {
        let places = [[1, 1], [2, 2], [3, 3], [4, 4], [6, 6], [8, 8]];
        assert_eq!(labels(&places, &[[2, 4], [4, 8]]), Ok(vec![-100, 1, 2, 3, 4, -100]));
    }

    #[test]
    fn an_empty_span_holds_nothing() {
        assert_eq!(labels(&[[2, 2], [2, 3]], &[[2, 2]]), Ok(vec![-100, -100]));
        assert_eq!(labels(&[[2, 2], [2, 3]], &[[2, 2], [2, 3]]), Ok(vec![0, 1]));
    }

    #[test]
    fn each_row_has_its_own_spans() {
        let tokens =
            Tokens { ids: &[7, 8, 7, 8], starts: &[0, 1, 0, 1], ends: &[1, 2, 1, 2], row_offsets: &[0, 2, 2, 4] };
        let spans = Spans { spans: &[[0, 1], [1, 2]], row_offsets: &[0, 1, 1, 2] };
        assert_eq!(mask_labels(&tokens, &spans), Ok(vec![7, -100, -100, 8]));
    }

    #[test]
    fn no_rows_have_no_labels() {
        let tokens = Tokens { ids: &[], starts: &[], ends: &[], row_offsets: &[0] };
        assert_eq!(mask_labels(&tokens, &Spans { spans: &[], row_offsets: &[0] }), Ok(vec![]));
    }

    #[test]
    fn spans_and_tokens_that_are_no_text_are_refused() {
        assert_eq!(labels(&[], &[[-1, 2]]), Err(MaskError::Span { row: 0, span: 0, start: -1, end: 2 }));
        assert_eq!(labels(&[], &[[3, 2]]), Err(MaskError::Span { row: 0, span: 0, start: 3, end: 2 }));
        assert_eq!(
            labels(&[], &[[0, 4], [3, 5]]),
            Err(MaskError::SpanOrder { row: 0, span: 1, start: 3, previous_end: 4 })
        );
        assert_eq!(labels(&[[0, 1], [3, 2]], &[]), Err(MaskError::Token { row: 0, token: 1, start: 3, end: 2 }));
        assert_eq!(labels(&[[-2, 1]], &[]), Err(MaskError::Token { row: 0, token: 0, start: -2, end: 1 }));
    }

    #[test]
    fn offsets_that_do_not_divide_the_tokens_are_refused() {
        let refused = |row_offsets: &[i64]| {
            let tokens = Tokens { ids: &[1, 2], starts: &[0, 1], ends: &[1, 2], row_offsets };
            mask_labels(&tokens, &Spans { spans: &[], row_offsets: &[0, 0, 0] }).unwrap_err()
        };
        let name = "row_offsets";
        assert_eq!(refused(&[]), MaskError::OffsetsEmpty { name });
        assert_eq!(refused(&[1, 2]), MaskError::OffsetsBegin { name, begin: 1 });
        assert_eq!(refused(&[0, 3, 2]), MaskError::OffsetsFall { name, row: 1, begin: 3, end: 2 });
        assert_eq!(refused(&[0, 1, 3]), MaskError::OffsetsEnd { name, end: 3, len: 2 });
        assert_eq!(refused(&[0, 2]), MaskError::RowsDisagree { tokens: 1, spans: 2 });
    }

    #[test]
    fn columns_of_different_length_are_refused() {
        let tokens = Tokens { ids: &[1, 2], starts: &[0], ends: &[1, 2], row_offsets: &[0, 2] };
        assert_eq!(
            mask_labels(&tokens, &Spans { spans: &[], row_offsets: &[0, 0] }),
            Err(MaskError::TokensDisagree { ids: 2, starts: 1, ends: 2 })
        );
    }
}
