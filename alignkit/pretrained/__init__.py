"""A model's folder: found by a name, checked, read and hashed, before anything computes with it.

What enters is a name (a run, a folder, the embedded model, a hub name); what leaves is a folder whose files are safe to
read, and what transformers makes of them. No code of a folder is run, and no pickle is opened.

Read names.py (a name becomes a folder), weights.py (which files hold the weights, whether they are whole, their
hashes), read.py (the one place that calls transformers' loaders), embedded.py (the model out of a Python package),
adapters.py (a LoRA adapter and its base, as one model) and saved_files.py (a finished model's settings, in the form
that servers read).
"""
