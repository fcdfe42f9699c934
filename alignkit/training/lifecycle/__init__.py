"""How a run ends before its last step.

In: a signal, or a phase that takes too long. Out: an exception that the loop turns into a checkpoint and a way on.

signals.py notes Ctrl-C and SIGTERM until the step in progress is done. deadlines.py gives generate, score, sync and
train a limit each; watchdog.py is the process beside the run that keeps it where native code does not listen.
memory_owners.py says in the log who holds the memory.
"""
