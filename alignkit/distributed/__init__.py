"""More than one process: the ranks that torchrun starts, and the weights that they share.

In: rank and size from torchrun's environment. Out: a `World` that answers every question, alone or together.

Read ranks.py first: what ranks tell each other, and how the error of one reaches all. fsdp.py shards the policy by
FSDP2, shares a step's trees and samples among the ranks, and norms and clips over shards. shards.py writes and reads
tensors in pieces that any number of ranks can read.
"""
