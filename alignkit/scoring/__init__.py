"""Scores of completions, and where they come from.

In: items (a prompt, a completion, its row) and judges named by the user. Out: one score or one reason per item, kept
for good, and one reward per sample.

Read judge.py first (`Judge`, what every judge is), then specs.py (--judge and --reward -> judge), rewards.py (several
judges -> one reward) and confirm_cost.py (asking before money is spent). Scores already obtained: score_cache.py asks
ledger.py, whose file is ledger_file.py's; claims.py lets processes share it, and looks.py counts how often two models
were judged. Judges by kind: functions/ runs a user's own Python, remote/ asks a service; all others are plugins.
"""
