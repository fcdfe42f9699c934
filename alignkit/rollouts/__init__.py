"""Completions drawn from a model: the Sampler protocol and what implements it."""
