"""What a preference set will teach, before any training: `alignkit data audit`.

In: `--data`, and where one is named, the policy's tokenizer and embeddings. Out: `Findings`, one record of everything
that was found, which `--json` writes and the page shows; and lists of rows, with a reason beside each.

Read in this order: `pairs` (the set as columns, from one pass over the rows), `findings` (the record), `audit` (the
parts in order). Then the parts, each by itself: `surface` (what the two answers of a pair look like), `biases` (which
kind is chosen), `cross_fit` (scores by a model that has not seen the pair), `flips` and `reasons` (pairs whose answers
probably stand the wrong way round), `embeddings` and `body` (answers as the policy sees them), `clean` (what is
written), `measures` and `phrases` (what is counted in a text), `repeats` (rows that say nearly the same) and `texts`
(what else stands in texts).
"""
