"""Samplers: prompts in, completions out, as token ids with their log-probs; never a text round trip.

In: `Request`s (prompt ids, temperature, top-p, a seed of their own). Out: a `Completion` for each, in order.

Read sampler.py first (the contract), then batched.py (a policy generates with its own weights) and beams.py with
beam_generation.py (the likeliest completion). decoding.py keeps a step of one token from copying keys and values;
picking.py picks its token. On CUDA static.py decodes in buffers that a graph can hold, with fewer_kernels.py.
An engine with a copy of the weights is a `CopyingSampler` (copying.py): the copy is renewed before each batch, and
agreement.py compares its log-probs with the policy's, after what can be read of its tensors.
"""
