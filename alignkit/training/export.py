"""The trained model as a plain Hugging Face folder, reloaded and compared with what was trained."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from alignkit import storage
from alignkit.data.chat import Chat
from alignkit.data.packs import lay_out
from alignkit.data.trees import Tree
from alignkit.errors import InputError, RunStopped
from alignkit.policy import four_bits
from alignkit.policy.load import load_policy
from alignkit.policy.policy import Policy
from alignkit.training.checkpoint import check_space

_PAD = "<|pad|>"
_TOLERANCE = 1e-4  # nats; the same weights in the same kernels


def export(policy: Policy, chat: Chat, folder: Path, *, trees: Sequence[Tree]) -> float:
    """Write fp32 safetensors, tokenizer and template into `folder`, whole or not at all; LoRA adapters are merged.

    The policy is measured as it was trained, with its adapter; then merged, written, loaded again and measured. A
    folder that stood there before is kept until the new one is proved and on disk. The turn's end token is set as end
    of text in the tokenizer and in generation_config, and no pad is an end token.

    Returns:
        largest difference in log-prob between the policy and the folder loaded again, nats.

    Raises:
        RunStopped: the disk refuses, or the folder cannot be loaded or does not give the trained model's log-probs.
    """
    working = folder.with_name(f".{folder.name}.part")
    checked = _checked(trees)
    trained = _measured(policy, checked)
    try:
        storage.restore(folder)
        shutil.rmtree(working, ignore_errors=True)
        working.mkdir(mode=storage.PRIVATE_FOLDER, parents=True)
        check_space(working, sum(p.nbytes for p in policy.parameters()))
        _save(policy, chat, working)
        difference = _difference(policy, working, checked, trained)
        if not difference <= _TOLERANCE:  # also where it is nan
            raise RunStopped(
                f"{working}: loaded again it differs by {difference:.2g} nats from the trained model; not used"
                + ("; its log-probs are no numbers: lower --learning-rate" if math.isnan(difference) else "")
            )
        storage.sync_tree(working)
        storage.put_in_place(working, folder)
    except InputError as error:
        raise RunStopped(f"{working}: what was written cannot be used: {error}") from error
    except (OSError, SafetensorError) as error:
        shutil.rmtree(working, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise RunStopped(
            f"{folder}: the model cannot be written: {reason}; make room and go on with --resume"
        ) from error
    return difference


def _save(policy: Policy, chat: Chat, folder: Path) -> None:
    tokenizer = chat.tokenizer
    model: Any = policy.model
    if hasattr(model, "merge_and_unload"):
        four_bits.restore(model)
        model = policy.model = model.merge_and_unload()
    tokenizer.chat_template = chat.template
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(chat.turn_end_id)
    _set_pad(policy, model, chat)
    model.config.eos_token_id = chat.turn_end_id
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.eos_token_id = sorted(chat.end_ids)
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    with policy.on_path("plain"), policy.dropout.as_configured():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _set_pad(policy: Policy, model: Any, chat: Chat) -> None:
    """Set as pad a special token that ends nothing and stands in no rendering; add one where there is none.

    In a padded batch transformers reads a scalar head at the last token that is no pad: a pad within a text, or at its
    end, would move it. What looks like a special token in a message is tokenized as text: the template alone decides.
    """
    tokenizer = chat.tokenizer
    used = chat.end_ids | {tokenizer.bos_token_id}
    own = [] if tokenizer.pad_token_id is None else [(tokenizer.pad_token_id, str(tokenizer.pad_token))]
    special = [(number, str(t)) for number, t in sorted(tokenizer.added_tokens_decoder.items()) if t.special]
    free = [token for number, token in [*own, *special] if number not in used and token not in chat.template]
    rows = model.get_input_embeddings().weight.shape[0]
    if free:
        tokenizer.pad_token = free[0]
    elif rows > len(tokenizer) or policy.scalar_head:
        tokenizer.add_special_tokens({"pad_token": _PAD})
        if tokenizer.pad_token_id >= rows:
            model.resize_token_embeddings(tokenizer.pad_token_id + 1)
    else:
        tokenizer.pad_token = str(tokenizer.pad_token or tokenizer.eos_token)
    model.config.pad_token_id = tokenizer.pad_token_id


def _checked(trees: Sequence[Tree]) -> list[Tree]:
    """The shortest two rows."""
    return sorted((tree for tree in trees if tree.completions), key=len)[:2]


def _measured(policy: Policy, trees: Sequence[Tree]) -> Tensor | None:
    """The policy's log-probs of a few rows, or the values of its scalar head; computed in the weights' precision."""
    if not trees:
        return None
    autocast, policy.autocast = policy.autocast, None
    was_training = policy.training
    policy.eval()
    try:
        with torch.no_grad():
            output = policy(lay_out(trees))
    finally:
        policy.autocast = autocast
        policy.train(was_training)
    return output.logprob_T if output.value_N is None else output.value_N


def _difference(policy: Policy, folder: Path, trees: Sequence[Tree], trained: Tensor | None) -> float:
    """Load the folder and compare it with what was measured before it was written, nats; nan where either is nan."""
    if trained is None:
        return 0.0
    again = load_policy(
        folder, precision="fp32", attention=policy.path, scalar_head=policy.scalar_head, device=policy.device
    )
    found = _measured(again, trees)
    assert found is not None
    return float((found - trained).abs().max()) if len(found) else 0.0
