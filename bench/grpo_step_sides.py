"""The sides of bench/grpo_step.py: GRPO steps with everything in them, as each tool's own command would take them."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.rollout_sides import real_prompts

NUM_PROMPTS, GROUP, NUM_TOKENS = 4, 8, 64
PROMPT_TOKENS = (140, 160)
REWARD = Path(__file__).with_name("grpo_reward.py")


def own(sampler: str, steps: int) -> dict[str, Any]:
    """`alignkit train grpo`; the first step is not counted."""
    import alignkit
    from alignkit.memory import peak_mib

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prompts = real_prompts(NUM_PROMPTS + 1, shortest=PROMPT_TOKENS[0], longest=PROMPT_TOKENS[1])
        rows = [{"id": f"row-{n}", "prompt": prompt} for n, prompt in enumerate(prompts)]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        run = alignkit.train(
            "grpo",
            model="SmolLM2-135M-Instruct",
            data=str(folder / "rows.jsonl"),
            out=str(folder / "run"),
            reward=[f"{REWARD}:letters"],
            sampler=sampler,
            split="first-1",
            batch_size=NUM_PROMPTS,
            group_size=GROUP,
            temperatures=[1.0],
            max_new_tokens=NUM_TOKENS,
            max_steps=steps + 1,
            kl=0.0,
            optimizer="adamw",
            schedule="constant",
            warmup_steps=0,
            learning_rate=1e-6,
            zero_variance_groups="keep",
            validation_interval=10_000,
            sample_interval=10_000,
            checkpoint_interval=10_000,
        )
        finished = json.loads((run.path / "run.json").read_text(encoding="utf-8"))["finished"]
        found = {
            name: _values(run, name)[1:] for name in ("seconds", "generate_s", "score_s", "samples_length", "sync_s")
        }
    return found | {"peak_mib": finished["peak_mib"], "process_mib": peak_mib()}


def _values(run: Any, name: str) -> list[float]:
    values: list[float] = run.metrics.filter(run.metrics["name"] == name).sort("step")["value"].to_list()
    return values


def trl(variant: str, steps: int) -> dict[str, Any]:
    """TRL's GRPOTrainer on transformers; the first step is not counted.

    Variants: `default` (its own defaults beside the batch's size), `grouped` (a group a device, accumulated, without
    gradient checkpointing), `bf16` (the same with bf16 weights).
    """
    import time

    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from alignkit.memory import peak_mib
    from alignkit.pretrained import embedded
    from bench.grpo_reward import letters
    from bench.train_step_sides import resident_mib
    from bench.train_step_trl import StepEnds
    from tests.helpers.trl_trainers import has_fast_bf16

    dtype = torch.bfloat16 if variant == "bf16" else torch.float32
    policy = AutoModelForCausalLM.from_pretrained(embedded.folder(), dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(embedded.folder())
    prompts = real_prompts(NUM_PROMPTS, shortest=PROMPT_TOKENS[0], longest=PROMPT_TOKENS[1])

    def rewards(completions: list[Any], **_: Any) -> list[float]:
        return [letters(turns[-1]["content"], {}) for turns in completions]

    size = NUM_PROMPTS * GROUP if variant == "default" else GROUP
    more: dict[str, Any] = {} if variant == "default" else {"gradient_checkpointing": False}
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            bf16=has_fast_bf16(),
            per_device_train_batch_size=size,
            max_steps=steps + 1,
            num_generations=GROUP,
            gradient_accumulation_steps=NUM_PROMPTS * GROUP // size,
            max_completion_length=NUM_TOKENS,
            temperature=1.0,
            top_k=0,
            learning_rate=1e-6,
            lr_scheduler_type="constant",
            logging_steps=1,
            **more,
        )
        trainer = GRPOTrainer(
            policy,
            args=config,
            train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
            processing_class=tokenizer,
            reward_funcs=rewards,
        )
        clock = StepEnds()
        trainer.add_callback(clock.callback())
        before = resident_mib()
        clock.ends.append(time.perf_counter())
        trainer.train()
    history = [entry for entry in trainer.state.log_history if "completions/mean_length" in entry]
    return {
        "seconds": [b - a for a, b in zip(clock.ends[1:-1], clock.ends[2:], strict=True)],
        "samples_length": [entry["completions/mean_length"] for entry in history[1:]],
        "peak_mib": peak_mib(),
        "before_mib": before,
    }


if __name__ == "__main__":
    sides = {"own": own, "trl": trl}
    print(json.dumps(sides[sys.argv[1]](**json.loads(sys.argv[2]))))
