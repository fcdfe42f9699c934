"""Several ways to train compared in one table: the same rows, budget, prompts and judge for all, over seeds.

In: a tournament.toml, or entrants from Python. Out: a folder of runs, answers and scores, `Results`, and the table of
them. Whatever is there already is not made again.

Begin with results.py: what was found, as arrays.
"""
