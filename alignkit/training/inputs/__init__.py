"""What a run needs before its first step, cheapest checks first.

In: a method and its resolved configuration. Out: `Inputs` (rows, trees, judges, fingerprints), then `Models` (policy,
reference, sampler).

Read setup.py: `read_inputs` finds the model, reads and tokenizes rows and asks the judges; `load_models` loads the
weights; `load_start` loads them again as they were. pair_accuracy.py measures a reward model on held-out pairs.
"""
