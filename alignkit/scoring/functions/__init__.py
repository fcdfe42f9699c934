"""Reward functions: a user's own Python as a judge.

In: `--reward FILE.py:function`, or a function handed over in Python. Out: a `Judge` that gives one number per item. The
functions of a file run in a process of their own, so that nothing they do can harm the run; a function handed over in
Python runs in the caller's process.

Read judge.py first (the file's function as a judge), then process.py (its process, as alignkit sees it), worker.py (the
script which that process runs) and sources.py (which files decide a score, for its key in the ledger). given.py is the
function handed over in Python.
"""
