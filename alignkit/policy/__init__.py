"""A causal model of transformers that gives log-probs of scored tokens.

What enters is a row of trees (`Pack`: each prompt once, with its completions); what leaves is one log-prob per scored
token, with gradient. The model's code is not forked: attention is registered with transformers, the head is computed
beside it.

Read policy.py (the module and its forward pass), attention.py (a prompt computed once for all its completions),
separate_rows.py (the plain path: one completion a row), transfer.py (arrays to the device in one copy), logprobs.py
(the head, a tile of the vocabulary at a time), then load.py (a folder becomes a policy), architecture.py and head.py
(what a model is, and which ones are refused), dropout.py and four_bits.py. cpu/ is needed on a CPU only, cuda/ on a
card only.

Shape letters of this room, as suffixes of names and in docstrings:

    S tokens of a row    T scored tokens    N completions    H hidden size    V vocabulary
    I inputs and O outputs of a linear layer
    A query heads    K key heads    D head size    B queries of a block    M keys that they see
"""
