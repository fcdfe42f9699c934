"""Model folder -> policy: safetensors only, no remote code, finite weights in fp32, and code that computes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from alignkit.errors import InputError, RunStopped, UsageError, first_line, nearest
from alignkit.gpu import lost_gpu
from alignkit.memory import bound_kernels, is_out_of_memory
from alignkit.policy import four_bits
from alignkit.policy.architecture import refusal
from alignkit.policy.attention import tree_refusal
from alignkit.policy.cuda.layers import hold_frozen
from alignkit.policy.dropout import find_dropout, switch_off_dropout
from alignkit.policy.head import UnknownHeadError
from alignkit.policy.policy import Policy, non_finite
from alignkit.pretrained.adapters import WEIGHTS, put_on, read_adapter
from alignkit.pretrained.read import quieten, read_config, read_model

_logger = logging.getLogger(__name__)

COMPUTE_ERRORS = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)  # what a model's code raises


def pick_device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def autocast_type(precision: str, device: torch.device) -> torch.dtype | None:
    """Compute type under fp32 weights for "bf16", "fp32" or "auto": bf16 where the device computes it fast.

    Raises:
        UsageError: bf16 is asked of a GPU that does not compute it.
    """
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        if precision == "bf16" and not fast:
            name = torch.cuda.get_device_name(device)
            raise UsageError(f"--precision bf16: {name} computes no bf16; leave it out, or give --precision fp32")
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if precision == "bf16" or (precision == "auto" and fast) else None


def load_policy(
    folder: str | Path,
    *,
    precision: str = "auto",
    attention: str = "auto",
    lora_rank: int | None = None,
    lora_alpha: int | None = None,
    lora_dropout: float = 0.0,
    lora_targets: Sequence[str] = (),
    adapter: Path | None = None,
    scalar_head: bool = False,
    seed: int = 0,
    gradient_checkpointing: bool = False,
    compiled: bool = False,
    in_four_bits: bool = False,
    dropout: bool = False,
    device: torch.device | None = None,
) -> Policy:
    """Load a dense causal model with fp32 weights.

    Args:
        attention: "tree", "plain", or "auto" (tree where the architecture allows it).
        lora_rank: add a LoRA adapter of this rank and freeze the rest.
        lora_alpha: its product is scaled by alpha / rank; default: 2 rank.
        lora_dropout: share of its inputs that training drops.
        lora_targets: names of the linear layers that have one, as in q_proj; (): all but the head.
        adapter: put the LoRA adapter of this PEFT folder on instead, and freeze the rest; its rank, alpha and
            layers are its own.
        scalar_head: a sequence-classification head of one value, new where the folder has none.
        seed: of new weights (head, adapter).
        gradient_checkpointing: save each layer's input alone; the backward pass computes the layer again.
        compiled: compile the layers by torch.compile; on CUDA only, and not in 4 bits.
        in_four_bits: hold the linear layers in 4 bits; needs `lora_rank`.
        dropout: keep the dropout that the model came with, in training mode; else it is switched off.

    Raises:
        UsageError: the architecture has no gradient checkpointing, no linear layer has one of the names in
            `lora_targets`, or 4 bits lack an adapter or bitsandbytes.
        InputError: not a folder of a dense causal model with safetensors, a weight is not finite, or the tree path was
            asked for and cannot be.
    """
    device = device or pick_device()
    if device.type == "cpu":
        bound_kernels()
    torch.manual_seed(seed)
    model = _load_model(Path(folder), scalar_head)
    known = find_dropout(model) if dropout else switch_off_dropout(model)
    reason = tree_refusal(model)
    if reason is None and known.is_on and known.attention:
        reason = f"attention dropout {known.attention:g}"
    if reason and attention == "tree":
        raise InputError(
            f"{folder}: this model has {reason}, which the tree path does not compute; use --set attention=plain"
        )
    if reason and attention == "auto":
        _logger.warning("%s: plain path, a prompt is computed for each of its completions: %s", folder, reason)
    path = "plain" if attention == "plain" or reason else "tree"
    autocast = autocast_type(precision, device)
    if in_four_bits:
        four_bits.require(lora_rank)
        four_bits.quantize(model, model.score if scalar_head else model.get_output_embeddings(), device)
    if adapter is not None:
        model = _with_adapter(model, adapter, scalar_head=scalar_head, dropout=lora_dropout)
    elif lora_rank is not None:
        model = _with_lora(
            model, lora_rank, scalar_head, alpha=lora_alpha, dropout=lora_dropout, targets=tuple(lora_targets)
        )
    if (adapter or lora_rank) and autocast is not None and device.type == "cuda":
        hold_frozen(model, autocast)
    try:
        policy = Policy(model.to(device), path=path, autocast=autocast, scalar_head=scalar_head).train()
    except UnknownHeadError as error:
        raise InputError(f"{folder}: a model of type {model.config.model_type} cannot be scored: {error}") from error
    policy.dropout = known
    policy.starts_at_base = adapter is None
    if gradient_checkpointing:
        _checkpoint(policy, folder)
    if compiled and device.type == "cuda" and not in_four_bits:  # each 4-bit layer would be a graph apart
        policy.compile_layers()
    return policy


def not_computed(policy: Policy, error: Exception) -> str:
    """Name the type of a model and what its code raised in a forward pass."""
    return f"a model of type {policy.config.model_type} cannot be computed: {type(error).__name__}: {first_line(error)}"


def refuse_uncomputed(policy: Policy, folder: Path) -> None:
    """Compute two tokens on the model's own path, before anything else is computed with it.

    Raises:
        RunStopped: its code fails; sizes that do not fit each other are seen nowhere else.
    """
    ids = torch.zeros(1, 2, dtype=torch.long, device=policy.device)
    was_training = policy.training
    policy.eval()  # a pass that drops out would move the random numbers of training
    try:
        with policy.on_path("plain"), policy.computing(), torch.no_grad():
            policy.body(input_ids=ids, use_cache=False)
    except COMPUTE_ERRORS as error:
        if is_out_of_memory(error) or lost_gpu(error):
            raise
        raise RunStopped(f"{folder}: start-up check failed: {not_computed(policy, error)}") from error
    finally:
        policy.train(was_training)


def _checkpoint(policy: Policy, folder: str | Path) -> None:
    """Let the backward pass compute every layer again.

    Raises:
        UsageError: the architecture does not know how.
    """
    if not getattr(policy.base, "supports_gradient_checkpointing", False):
        raise UsageError(f"--gradient-checkpointing: {folder}: transformers' {type(policy.base).__name__} has none")
    base = policy.base
    enable = getattr(base, "activation_checkpointing_enable", None)  # its name from transformers 5.24 on
    (enable or base.gradient_checkpointing_enable)({"use_reentrant": False})


def _load_model(folder: Path, scalar_head: bool) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    quieten()
    config = read_config(folder, **({"num_labels": 1} if scalar_head else {}))
    if (reason := refusal(config)) is not None:
        raise InputError(f"{folder}: a model of type {config.model_type} cannot be trained: {reason}")
    kind: Any = AutoModelForSequenceClassification if scalar_head else AutoModelForCausalLM
    model = read_model(kind, folder, config=config, what="a causal model", dtype=torch.float32)
    if names := non_finite(model.named_parameters()):
        more = f" and {len(names) - 1} more tensors" if len(names) > 1 else ""
        raise InputError(f"{folder}: {names[0]}{more} holds nan or infinite weights: the model is spoilt, take another")
    return model


def _with_lora(
    model: Any, rank: int, scalar_head: bool, *, alpha: int | None, dropout: float, targets: tuple[str, ...]
) -> Any:
    """LoRA on every linear layer but the head, or on those of some names, scaled by alpha / rank."""
    from peft import LoraConfig, get_peft_model

    is_transposed = any(type(module).__name__ == "Conv1D" for module in model.modules())  # GPT-2's
    if targets and tuple(targets) != ("all-linear",):
        head = model.score if scalar_head else model.get_output_embeddings()
        linear = {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if module is not head and getattr(module, "weight", None) is not None and module.weight.ndim == 2
            if "Linear" in type(module).__name__ or type(module).__name__ == "Conv1D"
        }
        for name in targets:
            if name not in linear:
                known = ", ".join(["all-linear", *sorted(linear)])
                raise UsageError(
                    f"--lora-targets {name}: this model has no linear layer of that name"
                    f"{nearest(name, sorted(linear))}; known: {known}"
                )
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        lora_dropout=dropout,
        fan_in_fan_out=is_transposed,
        target_modules=list(targets) if targets and tuple(targets) != ("all-linear",) else "all-linear",
        task_type="SEQ_CLS" if scalar_head else "CAUSAL_LM",
        modules_to_save=["score"] if scalar_head else None,
    )
    return get_peft_model(model, config)


def _with_adapter(model: Any, folder: Path, *, scalar_head: bool, dropout: float) -> Any:
    """Put a PEFT folder's LoRA adapter on; of a scorer, with the head that was trained beside it.

    Raises:
        InputError: it is none of safetensors, or does not fit.
    """
    from peft import PeftModel

    if not scalar_head:
        return put_on(model, read_adapter(folder), dropout=dropout)
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{folder}: no adapter of safetensors in it ({WEIGHTS})")
    try:
        return PeftModel.from_pretrained(model, str(folder), is_trainable=True, local_files_only=True)
    except (*COMPUTE_ERRORS, OSError) as error:
        if is_out_of_memory(error):
            raise
        raise InputError(f"{folder}: the adapter does not fit its base: {first_line(error)}") from error
