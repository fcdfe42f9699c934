"""What only a policy on a CPU needs; on a GPU nothing of it runs.

Torch's CPU kernels save and free more than a small machine has, so here are their replacements. `CpuKernels`
(kernels.py) is the one entry: the policy makes one where its weights lie on a CPU, and asks it for the layers, the
tree attention and the memory of a micro-batch. Each replacement gives what the module it stands for gives.

Read kernels.py, then split_attention.py (tree attention), layers.py (linear, norm, gated MLP, embedding) and
activation_arena.py (where both put what they save for the backward pass). docs/decisions/007 has the measurements.
"""
