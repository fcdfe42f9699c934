"""What fits into the memory that is there: refusals before a run, and the way on after a full memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from alignkit.config.file import Resolved
from alignkit.errors import RunStopped, UsageError
from alignkit.memory import Card, is_out_of_memory
from alignkit.methods import Method
from alignkit.policy.architecture import read_architecture
from alignkit.pretrained.names import find_model
from alignkit.training.run.plan import TOKENS, Plan, longest_row, make_plan

_LORA_RANK = 16  # of what is proposed


def refuse_unfit(method: Method, resolved: Resolved, made: Plan, *, goes_on: bool = False) -> None:
    """Refuse what a GPU has no room for, before anything is loaded. A size of micro-batch that the user named is tried.

    Args:
        goes_on: the run began before, with the plan's micro-batches.

    Raises:
        UsageError: --vllm-memory takes more than the policy leaves, or too little for the model.
        RunStopped: the card's free memory is less than the smallest plan needs.
    """
    card = made.card
    if card is None:
        return
    there = f"{card.name}: {_mib(card.free)} of {_mib(card.total)} are free"
    share = resolved.rollouts.vllm_memory
    if share is not None and made.vllm_memory is not None:
        room = max(0, card.free - made.always)
        if share * card.total > room:
            text = f"{there}, and the policy leaves {_mib(room)}; take at most {int(100 * room / card.total) / 100}"
            raise UsageError(f"--vllm-memory {share:g} ({_mib(share * card.total)}): {text}, or leave it out")
        if share * card.total < made.engine_least:
            least = -(-100 * made.engine_least // card.total) / 100
            text = f"vLLM needs {_mib(made.engine_least)} for the model and one sequence; take at least {least}"
            raise UsageError(f"--vllm-memory {share:g} ({_mib(share * card.total)}): {text}, or leave it out")
    if resolved.model.micro_batch_tokens is not None:
        return
    lacks_engine = made.vllm_memory is not None and made.vllm_memory * card.total < made.engine_least
    if made.total <= card.free and not lacks_engine:
        return
    fitting = that_fit(method, made.settled(resolved), card.free, made.longest, card=card)
    ways = [*(["--sampler transformers"] if lacks_engine else []), *fitting, "a smaller model"]
    needs = f"{made.line()}; vLLM's least {_mib(made.engine_least)} beside it" if lacks_engine else made.line()
    others = "; end what else runs there" if card.free < 0.9 * card.total else ""
    allowed = " with --allow-changed micro_batch_tokens" if goes_on else ""
    raise RunStopped(
        f"{there}, which is too little for {'this' if goes_on else 'the smallest'} {needs}{others}; these need less: "
        f"{'; '.join(ways)}; --micro-batch-tokens {made.micro_batch_tokens} tries it all the same{allowed}"
    )


def that_fit(
    method: Method, resolved: Resolved, available: int, longest: int | None = None, *, card: Card | None = None
) -> list[str]:
    """Return the options that would need less memory than is available, each with what it needs; [] where none does.

    First those that train the same.
    """
    model, train = resolved.model, resolved.method
    sizes = read_architecture(find_model(model.model).folder, scalar_head="scalar_head" in method.needs)

    def with_model(**options: Any) -> Resolved:
        return replace(resolved, model=model.model_copy(update=options))

    def needs(changed: Resolved) -> int:
        return make_plan(method, changed, longest=longest, card=card).total

    before = make_plan(method, resolved, longest=longest, card=card)
    changes: list[tuple[str, Resolved]] = []
    for tokens in (size for size in TOKENS if size < min(before.micro_batch_tokens, before.tokens)):
        fewer = with_model(micro_batch_tokens=tokens)
        if needs(fewer) < min(available, before.total):
            changes.append((f"--micro-batch-tokens {tokens}", fewer))
            break
    if not model.gradient_checkpointing:
        changes.append(("--gradient-checkpointing", with_model(gradient_checkpointing=True)))
    if model.precision != "bf16":
        changes.append(("--precision bf16", with_model(precision="bf16")))
    if train.batch_size > 1:
        smaller = train.model_copy(update={"batch_size": 1})
        changes.append(("--batch-size 1", replace(resolved, method=smaller)))
    allowed = longest_row(resolved, sizes)
    halved = max(8, (allowed if longest is None else min(allowed, longest)) // 2)
    shorter = resolved.data.model_copy(update={"max_length": halved})
    changes.append((f"--max-length {halved}", replace(resolved, data=shorter)))
    if model.lora_rank is None:
        adapter = with_model(lora_rank=_LORA_RANK)
        changes.append((f"--lora-rank {_LORA_RANK}", adapter))
        changes.append((f"--lora-rank {_LORA_RANK} --max-length {halved}", replace(adapter, data=shorter)))
    found = [(text, needs(changed)) for text, changed in changes]
    return [f"{text} ({total / 2**20:,.0f} MiB)" for text, total in found if total < available]


@contextlib.contextmanager
def out_of_memory_explained(
    method: Method, resolved: Resolved, made: Plan, *, available: int, go_on: Callable[..., str]
) -> Iterator[None]:
    """Turn an exhausted memory into a stopped run that says what was planned and what would fit.

    `go_on` is training/resume.py's resume_command, of this run.

    Raises:
        RunStopped: the device or the machine has no memory left.
    """
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = str(error) or type(error).__name__
        if not is_out_of_memory(error):
            raise
        told = made.settled(resolved)
        fitting = that_fit(method, told, min(available, made.total), made.longest, card=made.card)
        advice = f"by the plan these need less: {'; '.join(fitting)}" if fitting else "take a smaller model"
        kept = [option for option in fitting if "--lora-rank" not in option]  # no adapter goes on from whole weights
        if kept:
            options = _options(kept[0])
            keys = [*options, *(["data"] if "max_length" in options else [])]
            advice += f"; go on with: {go_on(keys, instead=options)}"
        elif fitting:
            advice += "; begin anew with one of them and another --out"
        raise RunStopped(
            f"out of memory ({text.strip().splitlines()[0][:160]}); {made.line()}; {_mib(available)} are there; "
            f"{advice}"
        ) from error


def _options(typed: str) -> dict[str, str | bool]:
    """The options of a line of `that_fit`, by their Python names; one without a value is a switch."""
    words = [part.split() for part in typed.partition(" (")[0].split("--")[1:]]
    return {name.replace("-", "_"): value[0] if value else True for name, *value in words}


def _mib(count: float) -> str:
    return f"{count / 2**20:,.0f} MiB"
