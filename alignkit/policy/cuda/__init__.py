"""What only a policy on CUDA needs; on a CPU nothing of it runs.

Read head.py: log-probs by chunks of tokens, around the one kernel of head_kernel.py. docs/decisions/009 has the
reasons and the arithmetic.
"""
