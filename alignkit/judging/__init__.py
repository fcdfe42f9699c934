"""Is this model better than that one? Prompts, answers, scores, win rate, length, caveats, verdict.

In: two models, rows, a judge. Out: a `Verdict`, and what stands beside it (metrics, text health, length, caveats).
Nothing here knows of training; the arithmetic lies in alignkit/statistics.

Read in this order: `compare` (the steps of a verdict), `prompts`, `auto` (which judge), `answers`, `scores`,
`decision` (the rule), `guards` and `guard_sets` (not worse elsewhere), `length`, `metric` and `metrics`, `health`,
`caveats`, `verdict` (its record) and `verdict_text` (its words), `requirements`. Beside it: `evaluation` measures one
model, `external_judgements` judges a file, `probes` tries a judge.
"""
