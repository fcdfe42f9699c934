"""People vote on two models' answers, on a local page.

In: two models, prompts, and how answers are drawn. Out: votes in the ledger (alignkit/scoring/votes.py), which are a
judge, rows to train on, and a check of every other judge (alignkit/judging/people.py).

poll.py draws what is asked, and in which order; ballots.py gives a voter the next pair and takes the vote; server.py
is the page's small web server, templates/ the page; rows.py writes votes as preference rows.
"""
