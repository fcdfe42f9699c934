"""Texts -> token ids: many at once, with the mask of what is scored.

In: rendered texts and the stretches of them that are scored. Out: int32 ids and a bool beside each.

texts.py holds texts end to end; encoder.py runs the tokenizer over them, and says which tokens lie in which stretch.
"""
