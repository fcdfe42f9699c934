"""What a run keeps on disk, whole or not at all.

In: weights, the optimizer's moments, and a state of JSON types. Out: checkpoints/step-NNNNNN/ with a manifest that
proves every file; and the same put back, on as many ranks as there are.

Read checkpoint.py for one checkpoint (`save`, `newest`, `load`); run_folder.py for the folder around it, its lines that
grow and who may write it; folder_lock.py for the lock alone.
"""
