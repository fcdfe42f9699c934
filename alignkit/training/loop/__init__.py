"""The training loop, usable in a run, a notebook or a benchmark (docs/guide/loop.md).

In: a method, its options, models, and a source of micro-batches. Out: changed weights; numbers for trackers.

Read train_loop.py first: `Loop.train` measures and steps, `Loop.step` is one optimizer step. update.py is what
it does to the weights, reporter.py what it says of it. source.py says which rows
a step sees and how they are packed into micro-batches (`StepSource`; rollouts/source.py is another one). saver.py keeps
where the run is (`TrainState`), as checkpoints of a run's folder or not at all. health_checks.py stops a run before it
is spoilt, and says what is worth a line.
"""
