"""What a run needs before its first step, cheapest checks first.

In: a method and its resolved configuration. Out: `Inputs` (rows, trees, judges, fingerprints), then `Models` (policy,
reference, sampler).

Read setup.py: `read_inputs` finds the model, reads and tokenizes rows, with model_options.py (which adapter, which
reference) and judges.py (who gives rewards); then weights.py: `load_models` loads them, and `load_start` once more as
they were. pair_accuracy.py measures a reward model on held-out pairs.
"""
