"""The trained model as a plain Hugging Face folder, reloaded and compared with what was trained."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from alignkit import storage
from alignkit.data.chat.chat import Chat
from alignkit.data.trees.packs import lay_out
from alignkit.data.trees.trees import Tree
from alignkit.errors import InputError, RunStopped
from alignkit.policy import four_bits
from alignkit.policy.cuda.layers import widen_frozen
from alignkit.policy.load import load_policy
from alignkit.policy.policy import Policy
from alignkit.pretrained.saved_files import settle_config, settle_tokenizer
from alignkit.pretrained.weights import weight_files
from alignkit.training.checkpoints.checkpoint import check_space

_PAD = "<|pad|>"
_TOLERANCE = 1e-4  # nats; the same weights in the same kernels


@dataclass(frozen=True)
class Exported:
    """Largest differences in log-prob, in nats, on a few rows of the data.

    Args:
        difference: of the folder loaded again from the model that was written; 1e-4 at most.
        rounding: of the model that is saved, computed in fp32, from the policy as training computed it: under autocast
            that is with its weights rounded to bf16. 0 where training is in fp32 and so is what it saves.
        rounding_mean: the same, a token in the mean.
        dtype: of the saved weights.
    """

    difference: float
    rounding: float
    rounding_mean: float
    dtype: str


def export(
    policy: Policy,
    chat: Chat,
    folder: Path,
    *,
    trees: Sequence[Tree],
    source: Path | None = None,
    adapter: Path | None = None,
    dtype: torch.dtype | None = None,
    go_on: Callable[[], str] = lambda: "--resume",
) -> Exported:
    """Write safetensors, tokenizer and template into `folder`, whole or not at all; LoRA adapters are merged.

    The policy is measured as it was trained, with its adapter; then merged and measured again, rounded to the type of
    the weights that it came from, written, loaded again and measured. A folder that stood there before is kept until
    the new one is proved and on disk. Rounding takes nothing that training saw: under autocast it saw rounded weights.
    The turn's end token is set as end of text in the tokenizer and in generation_config, and no pad is an end token.
    Settings are written as transformers 4 and 5 both read them.

    Args:
        source: the folder that the model came from; None: fp32, and settings as transformers writes them.
        adapter: where an adapter is written too, before it is merged.
        dtype: of the saved weights; default: the source's.
        go_on: gives the command that goes on with the run.

    Raises:
        RunStopped: the disk refuses, or the folder cannot be loaded or does not give the trained model's log-probs.
    """
    working = storage.part_of_folder(folder)
    checked = _checked(trees)
    trained, as_trained = _measured(policy, checked), _measured(policy, checked, in_fp32=False)
    try:
        storage.restore(folder)
        shutil.rmtree(working, ignore_errors=True)
        working.mkdir(mode=storage.PRIVATE_FOLDER, parents=True)
        check_space(working, sum(p.nbytes for p in policy.parameters()))
        if adapter is not None and policy.has_adapter:
            save_adapter(policy, adapter)
        _merge(policy)
        _prove(_gap(_measured(policy, checked), trained), working, "merged")
        if dtype is None:
            dtype = torch.float32 if source is None else source_dtype(source)
        _round(policy, dtype)
        written = _measured(policy, checked)
        rounding, rounding_mean = _gap(written, as_trained), _mean_gap(written, as_trained)
        _save(policy, chat, working, source=source, dtype=dtype)
        difference = _gap(_loaded_again(policy, working, checked), written)
        _prove(difference, working, "loaded again")
        storage.sync_tree(working)
        storage.put_in_place(working, folder)
    except InputError as error:
        raise RunStopped(f"{working}: what was written cannot be used: {error}") from error
    except (OSError, SafetensorError) as error:
        shutil.rmtree(working, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise RunStopped(
            f"{folder}: the model cannot be written: {reason}; make room and go on with: {go_on()}"
        ) from error
    return Exported(difference, rounding, rounding_mean, str(dtype).removeprefix("torch."))


def save_adapter(policy: Policy, folder: Path) -> None:
    """Write a policy's LoRA adapter as PEFT has it, whole or not at all. Raises OSError where the disk refuses."""
    model: Any = policy.model
    storage.restore(folder)
    with storage.new_folder(folder) as working:
        model.save_pretrained(str(working), safe_serialization=True, save_embedding_layers=False)
        (working / "README.md").unlink(missing_ok=True)  # PEFT's, which says nothing of this run


def _prove(difference: float, folder: Path, when: str) -> None:
    """Stop where a model differs from what was trained; also where the difference is nan."""
    if not difference <= _TOLERANCE:
        raise RunStopped(
            f"{folder}: {when} it differs by {difference:.2g} nats from the trained model; not used"
            + ("; its log-probs are no numbers: lower --learning-rate" if math.isnan(difference) else "")
        )


def source_dtype(folder: Path) -> torch.dtype:
    """Type that most numbers of a folder's weights have; fp32 where it is none of bf16, fp16 and fp32."""
    from safetensors import safe_open

    kinds = {"BF16": torch.bfloat16, "F16": torch.float16}
    sizes: Counter[str] = Counter()
    for file in weight_files(folder).values():
        with safe_open(file, framework="numpy") as opened:
            for name in opened.keys():  # noqa: SIM118  # no mapping
                part = opened.get_slice(name)
                sizes[part.get_dtype()] += math.prod(part.get_shape())
    return kinds.get(max(sizes, key=lambda kind: sizes[kind], default="F32"), torch.float32)


def _merge(policy: Policy) -> None:
    if policy.has_adapter:
        four_bits.restore(policy.model)
        widen_frozen(policy.model)
        policy.model = policy.model.merge_and_unload()


def _round(policy: Policy, dtype: torch.dtype) -> None:
    """Round the weights in place to what the saved type holds; they stay fp32."""
    if dtype == torch.float32:
        return
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(parameter.to(dtype))


@contextmanager
def _held_as(model: Any, dtype: torch.dtype) -> Iterator[None]:
    """Hold the parameters in another type for a while; ties stay."""
    before = [(parameter, parameter.dtype) for parameter in model.parameters() if parameter.is_floating_point()]
    for parameter, _ in before:
        parameter.grad = None
        parameter.data = parameter.data.to(dtype)
    try:
        yield
    finally:
        for parameter, own in before:
            parameter.data = parameter.data.to(own)


def _save(policy: Policy, chat: Chat, folder: Path, *, source: Path | None, dtype: torch.dtype) -> None:
    tokenizer = chat.tokenizer
    model: Any = policy.model
    num_tokens = len(tokenizer)
    tokenizer.chat_template = chat.template
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(chat.turn_end_id)
    _set_pad(policy, model, chat)
    model.config.eos_token_id = chat.turn_end_id
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.eos_token_id = sorted(chat.end_ids)
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    with policy.on_path("plain"), policy.dropout.as_configured(), _held_as(model, dtype):
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settle_config(folder, source, dtype=str(dtype).removeprefix("torch."))
    settle_tokenizer(folder, source, tokenizer, added=len(tokenizer) > num_tokens)


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


def _measured(policy: Policy, trees: Sequence[Tree], *, in_fp32: bool = True) -> Tensor | None:
    """The policy's log-probs of a few rows, or the values of its scalar head; in fp32, or as training computes."""
    if not trees:
        return None
    was_training = policy.training
    policy.eval()
    try:
        with torch.no_grad(), policy.in_fp32() if in_fp32 else nullcontext():
            output = policy(lay_out(trees))
    finally:
        policy.train(was_training)
    return output.logprob_T if output.value_N is None else output.value_N


def _loaded_again(policy: Policy, folder: Path, trees: Sequence[Tree]) -> Tensor | None:
    if not trees:
        return None
    return _measured(
        load_policy(
            folder, precision="fp32", attention=policy.path, scalar_head=policy.scalar_head, device=policy.device
        ),
        trees,
    )


def _gap(found: Tensor | None, expected: Tensor | None) -> float:
    """Largest difference, nats; nan where either is nan, 0 where nothing was measured."""
    if found is None or expected is None or not len(found):
        return 0.0
    return float((found - expected).abs().max())


def _mean_gap(found: Tensor | None, expected: Tensor | None) -> float:
    """Mean difference, nats; nan and 0 as `_gap`."""
    if found is None or expected is None or not len(found):
        return 0.0
    return float((found - expected).abs().mean())
