"""Looking at rows before training: how long they are (lengths.py), which prompts two data sets share (overlap.py)."""
