"""Arithmetic on plain arrays and texts that any room may use: no model, no row, no score is known here.

In: numbers per prompt (float64 [P], nan where missing), which prompts belong together, or a text. Out: means, shares
and fits with their intervals. One function for each formula; scipy does what scipy does.

Read in this order: `resampling` (clusters, bootstrap), `intervals` (Wilson, Tango, Student, BCa), `win_rate` (outcomes
and the rate that decides a verdict), `crossed` (means over training seeds and prompts), `logistic` (regressions on a
few columns), `texts` (one number per text).
"""
