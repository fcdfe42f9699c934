"""A process that scores conversations by `vllm-reward` and prints {folder: scores}; vLLM wants a process of its own.

python vllm_rewards.py '{"items": [[prompt, completion], ...], "models": {FOLDER: {option: value}}}'
"""

from __future__ import annotations

import json
import sys

from alignkit_plugins.vllm_reward import VLLMReward, VLLMRewardConfig

from alignkit.scoring.judge import Item, Scored


def main(job: dict[str, object]) -> None:
    items = [Item([{"role": "user", "content": prompt}], completion) for prompt, completion in job["items"]]
    found = {}
    for folder, options in job["models"].items():
        judge = VLLMReward(VLLMRewardConfig(model=folder, precision="fp32", max_length=256, **options))
        judge.ready([])
        answers = judge.score(items)
        found[folder] = [answer.value if isinstance(answer, Scored) else answer.reason for answer in answers]
        judge.close()
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
