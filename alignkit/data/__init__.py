"""Rows -> conversations -> token ids -> trees -> packs: from a file to what one forward pass sees.

In: `--data`. Out: packs of token ids with masks, for `training` and `judging`.

The rooms in the order of the way: reading (files -> rows), chat (messages -> text), encoding (text -> token ids), trees
(token ids -> trees -> packs), prepared (all of it at once, kept in a cache), looking (what users look at first). Units
of training are in alignkit/units.py: which answers of a row become completions.
"""
