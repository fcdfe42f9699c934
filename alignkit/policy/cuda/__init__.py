"""What only a policy on CUDA needs; on a CPU nothing of it runs.

head.py has log-probs by chunks of tokens, around the one kernel of head_kernel.py; docs/decisions/009 has the reasons
and the arithmetic. flash_trees.py has tree attention by FlashAttention's kernels; attention.py's FlexAttention is the
general way. layers.py has linear layers with copies of their weights, and norms.
"""
