//! Trees laid one after another into one row: what one forward pass sees.
//!
//! A tree's first segment is its prompt, the others are completions. Position ids restart at the prompt's length for every
//! completion, and the first token of each is predicted from the prompt's last hidden state.

use std::error;
use std::fmt;

/// Trees end to end: tree t has the segments `segment_ends[t]..segment_ends[t + 1]`, segment s the tokens
/// `token_ends[s]..token_ends[s + 1]`.
pub struct Trees<'a> {
    pub ids: &'a [i32],
    pub scored: &'a [bool],
    /// One entry more than segments.
    pub token_ends: &'a [i64],
    /// One entry more than trees.
    pub segment_ends: &'a [i64],
}

/// One row. S tokens laid out, T scored tokens, N completions.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Row {
    /// [S]
    pub ids: Vec<i64>,
    /// [S]
    pub positions: Vec<i64>,
    /// [T], index in S of the hidden state that predicts the token.
    pub sources: Vec<i64>,
    /// [T], the token's id.
    pub targets: Vec<i64>,
    /// [T], the completion it belongs to.
    pub completions: Vec<i64>,
    /// [N], which of the trees each completion belongs to.
    pub groups: Vec<i64>,
    /// [N], scored tokens.
    pub num_tokens: Vec<i64>,
    /// [N], index in S of each completion's last token; of the prompt's where it has none.
    pub last: Vec<i64>,
    /// Where each segment ends in S, tree after tree.
    pub ends: Vec<i64>,
}

/// Why trees cannot be laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayoutError {
    Disagree { ids: usize, scored: usize },
    UnknownTree { number: i64, trees: usize },
    Segments { number: i64 },
    Tokens { number: i64 },
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disagree { ids, scored } => write!(f, "{ids} ids, but {scored} scores: each token needs both"),
            Self::UnknownTree { number, trees } => write!(f, "there is no tree {number} among {trees}"),
            Self::Segments { number } => write!(f, "tree {number}: its segments are not among those given"),
            Self::Tokens { number } => write!(f, "tree {number}: its tokens are not among those given"),
        }
    }
}

impl error::Error for LayoutError {}

/// Lays the trees of these numbers one after another.
///
/// # Errors
///
/// Arrays that do not belong together, or a number that no tree has.
pub fn lay_out(trees: &Trees, numbers: &[i64]) -> Result<Row, LayoutError> {
    if trees.ids.len() != trees.scored.len() {
        return Err(LayoutError::Disagree { ids: trees.ids.len(), scored: trees.scored.len() });
    }
    let mut row = Row::default();
    for (group, &number) in numbers.iter().enumerate() {
        let count = trees.segment_ends.len().saturating_sub(1);
        let at = usize::try_from(number).ok().filter(|&at| at < count);
        let at = at.ok_or(LayoutError::UnknownTree { number, trees: count })?;
        let segments = stretch(trees.segment_ends, at, trees.token_ends.len().saturating_sub(1));
        let (first, end) = segments.ok_or(LayoutError::Segments { number })?;
        let (mut prompt_length, mut prompt_end) = (0, row.ids.len() as i64);
        for segment in first..end {
            let tokens = stretch(trees.token_ends, segment, trees.ids.len());
            let (from, to) = tokens.ok_or(LayoutError::Tokens { number })?;
            let start = row.ids.len() as i64;
            let is_prompt = segment == first;
            if is_prompt {
                (prompt_length, prompt_end) = ((to - from) as i64, start + (to - from) as i64);
            }
            row.lay(&trees.ids[from..to], if is_prompt { 0 } else { prompt_length });
            let scored = row.score(&trees.ids[from..to], &trees.scored[from..to], start, prompt_end);
            if !is_prompt {
                row.completions.resize(row.targets.len(), row.groups.len() as i64);
                row.groups.push(group as i64);
                row.num_tokens.push(scored);
                row.last.push(if to > from { row.ids.len() as i64 } else { prompt_end } - 1);
            }
            row.ends.push(row.ids.len() as i64);
        }
    }
    Ok(row)
}

impl Row {
    fn lay(&mut self, ids: &[i32], position: i64) {
        self.ids.extend(ids.iter().map(|&id| i64::from(id)));
        self.positions.extend(position..position + ids.len() as i64);
    }

    /// Notes the scored tokens of a segment that starts at `start`; returns how many.
    fn score(&mut self, ids: &[i32], scored: &[bool], start: i64, prompt_end: i64) -> i64 {
        let before = self.targets.len();
        for (at, (&id, _)) in ids.iter().zip(scored).enumerate().filter(|(_, (_, is_scored))| **is_scored) {
            self.sources.push(if at == 0 { prompt_end } else { start + at as i64 } - 1);
            self.targets.push(i64::from(id));
        }
        (self.targets.len() - before) as i64
    }
}

/// Entry `at` of offsets, where it is a stretch within `len`.
fn stretch(offsets: &[i64], at: usize, len: usize) -> Option<(usize, usize)> {
    let (start, end) = (usize::try_from(*offsets.get(at)?).ok()?, usize::try_from(*offsets.get(at + 1)?).ok()?);
    (start <= end && end <= len).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two trees: prompt 1 2, completions 3 4 and 5; prompt 6, completion 7 8, of which 7 is not scored.
    const IDS: &[i32] = &[1, 2, 3, 4, 5, 6, 7, 8];
    const SCORED: &[bool] = &[false, false, true, true, true, false, false, true];

    fn trees<'a>(token_ends: &'a [i64], segment_ends: &'a [i64]) -> Trees<'a> {
        Trees { ids: IDS, scored: SCORED, token_ends, segment_ends }
    }

    #[test]
    fn a_hand_computed_row() {
        let found = lay_out(&trees(&[0, 2, 4, 5, 6, 8], &[0, 3, 5]), &[1, 0]);
        let expected = Row {
            ids: vec![6, 7, 8, 1, 2, 3, 4, 5],
            positions: vec![0, 1, 2, 0, 1, 2, 3, 2],
            sources: vec![1, 4, 5, 4],
            targets: vec![8, 3, 4, 5],
            completions: vec![0, 1, 1, 2],
            groups: vec![0, 1, 1],
            num_tokens: vec![1, 2, 1],
            last: vec![2, 6, 7],
            ends: vec![1, 3, 5, 7, 8],
        };
        assert_eq!(found, Ok(expected));
        assert_eq!(lay_out(&trees(&[0], &[0]), &[]), Ok(Row::default()));
    }

    #[test]
    fn what_does_not_belong_together_is_named() {
        let whole: &[i64] = &[0, 2, 4, 5, 6, 8];
        assert_eq!(lay_out(&trees(whole, &[0, 3]), &[1]), Err(LayoutError::UnknownTree { number: 1, trees: 1 }));
        assert_eq!(lay_out(&trees(whole, &[0, 3]), &[-1]), Err(LayoutError::UnknownTree { number: -1, trees: 1 }));
        assert_eq!(lay_out(&trees(whole, &[0, 9]), &[0]), Err(LayoutError::Segments { number: 0 }));
        assert_eq!(lay_out(&trees(&[0, 9], &[0, 1]), &[0]), Err(LayoutError::Tokens { number: 0 }));
        assert_eq!(lay_out(&trees(&[2, 1], &[0, 1]), &[0]), Err(LayoutError::Tokens { number: 0 }));
        let short = Trees { ids: IDS, scored: &SCORED[1..], token_ends: whole, segment_ends: &[0, 3] };
        assert_eq!(lay_out(&short, &[0]), Err(LayoutError::Disagree { ids: 8, scored: 7 }));
    }
}
