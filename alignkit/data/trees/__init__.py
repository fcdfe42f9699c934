"""Token ids as trees (a prompt and its completions), and trees as packs: what one forward pass sees.

In: token ids and masks of many rows. Out: `Pack`s, each at most so many tokens.

Read trees.py first: one row looked at. flat.py holds many of them end to end, which is how they are stored; packs.py
decides which share a pack and lays them out (`lay_out(trees, numbers)`, straight from the flat arrays).
mismatched.py gives prompts the answers of others, for losses that estimate a KL with them.
"""
