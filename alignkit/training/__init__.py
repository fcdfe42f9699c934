"""Training: from a configuration and rows to a model folder.

Read downwards; a room imports only those below it (import-linter checks it):

    run/          a run from its configuration to its model: what `alignkit train` does
    rollouts/     prompts are answered, answers scored: the micro-batches of methods on samples, and every evaluation
    inputs/       rows, judges and models, read and checked before the first step
    loop/         which micro-batches a step sees, and the steps themselves; usable without a run
    gradient/     the arithmetic of one step: gradient, reference, optimizer
    checkpoints/  what lies on disk, whole or not at all
    lifecycle/    signals, and deadlines of what may hang

To follow one step, read loop/train_loop.py, loop/source.py, loop/update.py, gradient/step.py and a method's loss.
"""
