"""The sides of bench/rollouts.py: 16 real prompts, 4 samples of exactly 64 tokens each, at temperature 1.

Each generates once to warm up and then `repeats` times; the seconds of each repeat come back.
"""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from bench.train_step_cases import TEXTS

NUM_PROMPTS, NUM_SAMPLES, NUM_TOKENS = 16, 4, 64


def real_prompts(count: int, *, shortest: int, longest: int) -> list[list[dict[str, str]]]:
    """Real prompts whose ids with SmolLM2's template are so many tokens; the first ones of the shared file.

    Raises:
        SystemExit: the real rows are not here.
    """
    from transformers import AutoTokenizer

    from alignkit.pretrained import embedded

    if not TEXTS.exists():
        raise SystemExit(f"skipped: {TEXTS}, the real rows that this benchmark draws prompts from, is not here")
    tokenizer = AutoTokenizer.from_pretrained(embedded.folder())
    found = []
    with gzip.open(TEXTS, "rt", encoding="utf-8") as file:
        for line in file:
            prompt = json.loads(line)["prompt"]
            ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
            if shortest <= len(ids) <= longest and prompt not in found:
                found.append(prompt)
            if len(found) == count:
                return found
    raise SystemExit(f"only {len(found)} prompts of {shortest} to {longest} tokens in {TEXTS}")


def timed(draw: Callable[[], int], repeats: int) -> list[float]:
    """Seconds of each repeat after a first one; each must give all the tokens."""
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        drawn = draw()
        seconds.append(time.perf_counter() - began)
        assert drawn == NUM_PROMPTS * NUM_SAMPLES * NUM_TOKENS, drawn
    return seconds[1:]


def requests() -> list[Any]:
    from transformers import AutoTokenizer

    from alignkit.pretrained import embedded
    from alignkit.rollouts.sampler import Request

    tokenizer = AutoTokenizer.from_pretrained(embedded.folder())
    prompts = [
        tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        for prompt in real_prompts(NUM_PROMPTS, shortest=20, longest=300)
    ]
    return [Request(ids, 1.0, 1000 * n + k, NUM_TOKENS) for n, ids in enumerate(prompts) for k in range(NUM_SAMPLES)]


def vllm(repeats: int) -> dict[str, Any]:
    """alignkit's vLLM sampler and the same engine's own `generate`, alternating; and a sync with its check."""
    from alignkit_plugins.vllm_sampler import VLLMSampler

    from alignkit.policy.load import load_policy
    from alignkit.pretrained import embedded

    policy = load_policy(embedded.folder())
    sampler = VLLMSampler(policy, end_ids=frozenset())
    asked = requests()
    prompts = [{"prompt_token_ids": list(request.prompt_ids)} for request in asked]
    params = [sampler._params(request) for request in asked]
    sampler.generate(asked)

    def own() -> int:
        return sum(len(completion.ids) for completion in sampler.generate(asked))

    def bare() -> int:
        outputs = sampler._engine.generate(prompts, params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    seconds: dict[str, list[float]] = {"own": [], "bare": []}
    for _ in range(repeats):
        for name, draw in (("own", own), ("bare", bare)):
            seconds[name] += timed(draw, 1)
    syncs = []
    for _ in range(3):
        sampler.sync()
        syncs.append(sampler.metrics["sync_s"])
    result = {"seconds": seconds["own"], "bare": seconds["bare"], "sync_s": syncs, "dtype": str(policy.autocast)}
    result["mismatch"] = mismatch(sampler, asked[:16])
    sampler.close()
    return result


def mismatch(sampler: Any, asked: list[Any]) -> dict[str, float]:
    """Mean |log p(engine) - log p(policy)| a token: fresh, and after updates of that size that do not reach the engine.

    An update moves every weight by that much up or down, as Adam's first step does.
    """
    import torch

    from alignkit.rollouts.agreement import distance

    sampler.sync()
    samples = list(zip(asked, sampler.generate(asked), strict=True))
    found = {"fresh": distance(sampler.policy, samples)}
    moved = 0.0
    for size in (5e-6, 5e-5, 5e-4):
        with torch.no_grad():
            for parameter in sampler.policy.parameters():
                signs = torch.randint(0, 2, parameter.shape, dtype=torch.int8) * 2.0 - 1.0
                parameter.add_(signs * (size - moved))
        moved = size
        found[f"stale by {size:g}"] = distance(sampler.policy, samples)
    return found


def transformers(repeats: int) -> dict[str, Any]:
    """alignkit's transformers sampler."""
    from alignkit.policy.load import load_policy
    from alignkit.pretrained import embedded
    from alignkit.rollouts.batched import BatchedGeneration

    policy = load_policy(embedded.folder())
    sampler = BatchedGeneration(policy, end_ids=frozenset())
    asked = requests()
    seconds = timed(lambda: sum(len(completion.ids) for completion in sampler.generate(asked)), repeats)
    return {"seconds": seconds, "dtype": str(policy.autocast)}


def trl(variant: str, repeats: int) -> dict[str, Any]:
    """The generation inside TRL's GRPOTrainer on transformers.

    Variants: `autocast` (fp32 weights, bf16 autocast, its default on a CPU that has it) and `bf16` (weights too).
    """
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from alignkit.pretrained import embedded
    from tests.helpers.trl_trainers import has_fast_bf16

    dtype = torch.bfloat16 if variant == "bf16" else torch.float32
    policy = AutoModelForCausalLM.from_pretrained(embedded.folder(), dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(embedded.folder())
    prompts = real_prompts(NUM_PROMPTS, shortest=20, longest=300)
    size = NUM_PROMPTS * NUM_SAMPLES
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            use_cpu=True,
            report_to="none",
            per_device_train_batch_size=size,
            temperature=1.0,
            num_generations=NUM_SAMPLES,
            max_completion_length=NUM_TOKENS,
            bf16=has_fast_bf16(),
            top_k=0,
            generation_kwargs={"min_new_tokens": NUM_TOKENS},
            gradient_checkpointing=False,
            disable_tqdm=True,
        )
        trainer = GRPOTrainer(
            policy,
            args=config,
            train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
            processing_class=tokenizer,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
        )
        trainer.model_wrapped = trainer.accelerator.prepare(trainer.model)
        trainer.model.train()
        repeated = [prompt for prompt in prompts for _ in range(NUM_SAMPLES)]
        seconds = timed(lambda: sum(map(len, trainer._generate(repeated)[1])), repeats)
    return {"seconds": seconds, "dtype": str(dtype)}


if __name__ == "__main__":
    sides = {"vllm": vllm, "transformers": transformers, "trl": trl}
    print(json.dumps(sides[sys.argv[1]](**json.loads(sys.argv[2]))))
