"""TRL 1.16's own trainers on rows of token ids: their losses, their collation, and no text to tokenize.

Variants: `default` (8 rows a device, gradient checkpointing), `padded` (no checkpointing), `rowwise` (one row, pair or
group a device, accumulated: no padding but inside a pair or group; no checkpointing), `packed` (SFT alone).
"""

from __future__ import annotations

import logging
from typing import Any

import torch

Rows = list[dict[str, Any]]
BETA = 0.1  # of DPO
CLIP = 0.2  # of GRPO


def make_trainer(
    name: str,
    rows: Rows,
    model: str,
    folder: str,
    *,
    steps: int,
    variant: str,
    options: dict[str, Any],
    peft_config: Any = None,
) -> Any:
    """Make TRL's trainer for "sft", "dpo...", "kto" or "grpo_train" on rows of token ids; one step sees all rows."""
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer

    datasets.disable_progress_bars()
    logging.getLogger("trl").setLevel(logging.ERROR)
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model)
    policy.config.pad_token_id = tokenizer.pad_token_id
    one = variant == "rowwise"
    common = {
        "output_dir": folder,
        "max_steps": steps,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "weight_decay": 0.0,
        "optim": "adamw_torch_fused",
        "lr_scheduler_type": "constant",
        "gradient_checkpointing": variant == "default",
        "disable_tqdm": True,
        "dataloader_drop_last": False,
        "per_device_train_batch_size": 1 if one or variant == "packed" else len(rows),
        "gradient_accumulation_steps": len(rows) if one else 1,
        **options,
    }
    common = {"bf16": has_fast_bf16()} | common
    make = {"sft": _sft, "dpo": _dpo, "kto": _kto, "grpo": _grpo}[name.split("_")[0]]
    return make(rows, policy, tokenizer, common, variant, peft_config)


def _sft(rows: Rows, policy: Any, tokenizer: Any, common: dict[str, Any], variant: str, peft_config: Any) -> Any:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    texts = []
    for row in rows:
        (ids,) = row["completions"]
        mask = [0] * len(row["prompt"]) + [1] * len(ids)
        texts.append({"input_ids": row["prompt"] + ids, "completion_mask": mask})
    packed = variant == "packed"
    packing = {"max_length": 4096 if packed else 2048, "packing": packed, "packing_strategy": "bfd"}
    config = SFTConfig(**packing | common, completion_only_loss=True)
    return SFTTrainer(
        policy, args=config, train_dataset=Dataset.from_list(texts), processing_class=tokenizer, peft_config=peft_config
    )


def _on_tokenized(trainer: Any) -> Any:
    """One of TRL's trainers, for rows that are tokenized already."""

    class Tokenized(trainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    return Tokenized


def _dpo(rows: Rows, policy: Any, tokenizer: Any, common: dict[str, Any], variant: str, peft_config: Any) -> Any:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    table = [
        {
            "prompt": [],
            "chosen": [],
            "rejected": [],
            "prompt_ids": row["prompt"],
            "chosen_ids": row["completions"][0],
            "rejected_ids": row["completions"][1],
        }
        for row in rows
    ]
    config = DPOConfig(**{"precompute_ref_log_probs": True, "beta": BETA, "max_length": 2048, **common})
    return _on_tokenized(DPOTrainer)(
        policy, args=config, train_dataset=Dataset.from_list(table), processing_class=tokenizer, peft_config=peft_config
    )


def _kto(rows: Rows, policy: Any, tokenizer: Any, common: dict[str, Any], variant: str, peft_config: Any) -> Any:
    """Rows have a `label`, and as `other` the answer that TRL's KL is estimated with."""
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    names = {"prompt_ids": "prompt", "KL_completion_ids": "other", "label": "label"}
    table = [
        {"prompt": [], "completion": [], "completion_ids": row["completions"][0]}
        | {theirs: row[ours] for theirs, ours in names.items()}
        for row in rows
    ]
    config = KTOConfig(**{"max_length": 2048, **common})
    return _on_tokenized(KTOTrainer)(
        policy, args=config, train_dataset=Dataset.from_list(table), processing_class=tokenizer, peft_config=peft_config
    )


def _grpo(rows: Rows, policy: Any, tokenizer: Any, common: dict[str, Any], variant: str, peft_config: Any) -> Any:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    group = len(rows[0]["completions"])
    micro_batches = [rows[n : n + 1] for n in range(len(rows))] if variant == "rowwise" else [rows]

    class FixedRollouts(GRPOTrainer):  # type: ignore[misc]
        """TRL's trainer on rollouts that were drawn before: its loss, without its generation."""

        fixed: list[dict[str, Any]]

        def _prepare_inputs(self, generation_batch: Any) -> Any:
            return self.fixed[self._step % len(self.fixed)]

    size = group * len(micro_batches[0])
    common |= {"per_device_train_batch_size": size, "gradient_accumulation_steps": len(micro_batches)}
    longest = max(len(ids) for row in rows for ids in row["completions"])
    config = GRPOConfig(
        **{
            "beta": 0.0,
            "epsilon": CLIP,
            "loss_type": "dr_grpo",
            "max_completion_length": longest,
            "temperature": 1.0,
            "num_generations": group,
            "steps_per_generation": len(micro_batches),
            "scale_rewards": "none",
        }
        | common
    )
    prompts = Dataset.from_list([{"prompt": f"{row['id']}"} for row in rows])
    trainer = FixedRollouts(
        policy,
        args=config,
        train_dataset=prompts,
        processing_class=tokenizer,
        reward_funcs=lambda **_: [0.0],
        peft_config=peft_config,
    )
    trainer.fixed = [rollouts(policy, part, config.bf16) for part in micro_batches]
    return trainer


def rollouts(policy: Any, rows: Rows, bf16: bool) -> dict[str, Any]:
    """Lay rows out as TRL's sampler would, prompts left-padded, with behaviour log-probs `noise` above the policy's."""
    from torch.nn.utils.rnn import pad_sequence

    prompts = [torch.tensor(row["prompt"]) for row in rows for _ in row["completions"]]
    answers = [torch.tensor(ids) for row in rows for ids in row["completions"]]
    ones = [torch.ones(len(x), dtype=torch.long) for x in answers]
    batch = {
        "prompt_ids": pad_sequence(prompts, batch_first=True, padding_side="left"),
        "prompt_mask": pad_sequence([torch.ones_like(x) for x in prompts], batch_first=True, padding_side="left"),
        "completion_ids": pad_sequence(answers, batch_first=True),
        "completion_mask": pad_sequence(ones, batch_first=True),
        "advantages": torch.tensor([a for row in rows for a in row["advantages"]]),
        "num_items_in_batch": torch.tensor(sum(map(len, answers))),
    }
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    there = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    width = batch["completion_ids"].shape[1]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        logits = policy(input_ids=ids, attention_mask=there, logits_to_keep=width + 1).logits[:, :-1].float()
    found = logits.log_softmax(-1).gather(-1, batch["completion_ids"][..., None])[..., 0]
    noise = pad_sequence([torch.tensor(x) for row in rows for x in row["noise"]], batch_first=True)
    batch["old_per_token_logps"] = found + noise.to(found.dtype)
    if "reference_noise" in rows[0]:
        away = pad_sequence([torch.tensor(x) for row in rows for x in row["reference_noise"]], batch_first=True)
        batch["ref_per_token_logps"] = found + away.to(found.dtype)
    return batch


def has_fast_bf16() -> bool:
    from alignkit.policy.load import autocast_type

    return autocast_type("auto", torch.device("cpu")) is not None
