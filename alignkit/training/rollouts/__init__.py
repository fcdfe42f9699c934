"""Steps on rollouts: prompts are answered by the policy, the answers are scored, and rewards become advantages.

In: rows and trees of prompts, the run's models, its judges. Out: an optimizer step's micro-batches and its numbers.

Read source.py first: `RolloutSource` walks the whole way. Then, in the order of that way: sampling.py (completions for
prompts, as groups), scoring.py (judges, a deadline, what happens when they fail), micro_batches.py (rewards to
advantages to micro-batches). journal.py keeps what was sampled and scored on the disk, so that a resumed run reads it.

Beside the way: reward_checks.py (reward hacking, rewards that teach nothing), sample_log.py (samples.jsonl, metrics),
eval_rollouts.py and eval_loss.py (what is measured on validation prompts).
"""
