"""A run from its configuration to its model folder: what `alignkit train` does.

In: a method and a resolved configuration. Out: runs/NAME/ with run.json, metrics, checkpoints and model/.

Read train_run.py first: it opens the folder, reads the inputs, checks, puts the loop together, trains and exports.
plan.py estimates memory and disk before anything is loaded, fitting.py refuses what has no room and says what has,
manifest.py writes what run.json says, resume.py decides whether and from where a run goes on, self_checks.py compares
the fast paths with the plain one before the first step, start_checks.py says what follows from that, export.py writes
the model and proves it, run_log.py keeps log.txt, summary.py says what there is at the end, prepare.py fills the data
cache before a run.
"""
