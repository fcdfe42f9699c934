"""Several ways to train compared in one table: the same rows, budget, prompts and judge for all, over seeds.

In: [tournament] and [entrants] of alignkit.toml, a plugin's preset, or entrants from Python. Out: a folder of runs,
answers and scores, and `Results`. Whatever is there already is not made again.

entrants.py who takes part, sweeps.py one entrant of several values, prompts.py which prompts judge, price.py and
planning.py what it takes and how many seeds, work.py one entrant with one seed, pieces.py all of them in order,
slots.py the processes that they run in, tournament.py the whole, times.py where its time went, judged.py the answers'
scores, answer_kl.py how far models moved, results.py what was found, comparison.py what can be said of it, measures.py
and table.py all that is shown, page.py the report. Begin with results.py and tournament.py.
"""
