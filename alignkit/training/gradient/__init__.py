"""The arithmetic of one optimizer step, on one rank or several.

In: the policy, a method and this rank's micro-batches. Out: gradients in `.grad`, the step's loss and what it logged;
then changed weights.

Read step.py first: `accumulate` counts what the step's means divide by, moves the micro-batches to the device, runs
each forward and backward, and adds up; its losses and logs stay on the device until `StepTensors.read`. models.py holds
what a run computes with, and gives unsharded weights. reference.py gives the frozen log-probs, reference_cache.py keeps
those of known rows on disk. optimizer.py has Adam and the learning rate, speed.py the share of a GPU's peak that a step
reaches.
"""
