"""Rows -> trees in files: tokenized once, kept in a cache, mapped into memory.

In: a [data] section, a `Chat` and a unit. Out: `Stored`: trees, their rows, and an account of every row left out.

Read tokens.py first: `prepare` does all of it for rows in memory (tokenized_rows.py tokenizes, it cuts and skips).
selection.py decides which rows train and which validate; cache.py prepares them part by part, or finds them prepared;
store.py is the format on disk.
"""
