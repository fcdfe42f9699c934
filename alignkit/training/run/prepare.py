"""`alignkit data prepare`: the data of a run made ready before it, and what packing will do with it."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

from alignkit.config.file import Resolved
from alignkit.data.chat.chat import make_chat
from alignkit.data.prepared.store import Stored
from alignkit.data.trees.packs import ROW_CAPACITY, attention_costs, fill, pack_lengths, share_rows
from alignkit.errors import UsageError
from alignkit.methods import Method, MethodConfig
from alignkit.pretrained.names import find_model
from alignkit.pretrained.read import names_model
from alignkit.training.inputs.setup import prepare_parts, refuse_untrainable
from alignkit.training.loop.source import step_rows, steps_per_epoch


def prepare_data(method: Method, resolved: Resolved, *, shard: str | None, ranks: int) -> dict[str, Any]:
    """Prepare the rows of a run, or one shard of them.

    Returns: {"training", "validation": an account each, "duplicates", "max_length", "seconds"}, and of all training
    rows "rows", into how many each step packs its own, "fill", the share of their space that holds tokens, and
    "balance", the attention cost of each step's most loaded rank divided by the mean rank's, over an epoch.

    Raises:
        UsageError: the shard is not i/n with i from 1 to n.
        InputError: as training with the same options.
    """
    started = time.monotonic()
    wanted = None if shard is None else parse_shard(shard)
    source = find_model(resolved.model.model, tokenizer_is_enough=True)
    chat = make_chat(source, resolved.model)
    if names_model(source.folder):
        refuse_untrainable(method, resolved, source, chat)
    max_length, training, validation = prepare_parts(method, resolved, source, chat, shard=wanted)
    account: dict[str, Any] = {
        "method": method.name,
        "shard": shard,
        "max_length": max_length,
        "training": _account(training),
        "validation": _account(validation),
        "duplicates": training.notes["duplicates"],
        "seconds": time.monotonic() - started,
    }
    if wanted is None and not method.trains_on.is_sampled:
        capacity = resolved.model.micro_batch_tokens or ROW_CAPACITY
        account |= packing(training, resolved.method, capacity=capacity, ranks=ranks)
    return account


def parse_shard(text: str) -> tuple[int, int]:
    """Read "i/n".

    Raises:
        UsageError: it is not that, or i is not between 1 and n.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise UsageError(f"--shard {text}: write i/n with i from 1 to n, as 2/8 for the second of eight parts")
    return int(found[1]), int(found[2])


def packing(training: Stored, config: MethodConfig, *, capacity: int, ranks: int) -> dict[str, Any]:
    """Return the fill of the first epoch's rows of at most `capacity` tokens, and how evenly they load the ranks."""
    length_P = training.trees.lengths()
    prompts_per_step = config.batch_size
    num_steps = steps_per_epoch(len(length_P), prompts_per_step)
    cost_P = attention_costs(training.trees)
    packed: list[list[int]] = []
    slowest = 0  # sum over steps: ranks wait for each other
    for step in range(1, num_steps + 1):
        order = step_rows(len(length_P), prompts_per_step, seed=config.seed, step=step)
        rows = [order[row].tolist() for row in pack_lengths(length_P[order], capacity)]
        costs = [int(cost_P[row].sum()) for row in rows]
        slowest += max(sum(costs[n] for n in own) for own in share_rows(costs, ranks, equally_many=True))
        packed += rows
    return {
        "micro_batch_tokens": capacity,
        "fill": fill(length_P, packed, capacity),
        "rows": len(packed),
        "ranks": ranks,
        "balance": slowest * ranks / int(cost_P.sum()),
    }


def _account(part: Stored) -> Mapping[str, Any]:
    return {
        "used": len(part.trees),
        "tokens": int(part.trees.lengths().sum()),
        "cut": part.num_cut,
        "dropped": part.num_dropped,
        "skipped": dict(part.skipped),
        "left_out": dict(part.left_out),
        "paired": part.num_paired,
        "ties": part.num_ties,
        "ties_kept": part.num_ties_kept,
        "ends_with_user": part.num_ends_with_user,
        "user_twice": part.num_user_twice,
        "reversed": part.num_reversed,
        "unscored": part.num_unscored,
        "tokenized_otherwise": part.num_tokenized_otherwise,
        "from_cache": part.from_cache,
    }
