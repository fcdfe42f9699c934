"""How far a model moved from another one, on what it answers itself.

    KL = sum over the answers' tokens of sum_v p(v) (log p(v) - log q(v)) / number of the tokens

p is the model, q the other, both over the whole vocabulary at temperature 1, each given the answer so far (teacher
forcing). Of answers sampled at temperature 1 its expectation is the KL of the two models' answers a token; of beam
search or the likeliest tokens it is the KL along those.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from alignkit.data.trees.packs import lay_out, pack
from alignkit.judging.answers import Answer, Answering
from alignkit.policy.policy import Policy
from alignkit.training.gradient.reference import Reference, exact_kl


def answers_kl(
    answering: Answering, other: Policy, answers: Sequence[Answer], *, most_tokens: int
) -> dict[str, tuple[float, int]]:
    """Of each row's id the summed KL of its answer's tokens, in nats, and how many they are.

    A truncated answer has no end token; one that is empty, whose thoughts were cut off, or whose prompt leaves it no
    room, is left out.

    Args:
        answering: the model that gave the answers.
        other: of the same vocabulary.
        most_tokens: of all answers together; the first ones count, one at least.
    """
    known: list[Answer] = []
    total = 0
    for answer in answers:
        if not answer.text.strip() or answer.num_thinking_tokens:
            continue
        total += answer.num_tokens
        if known and total > most_tokens:
            break
        known.append(answer)
    if not known:
        return {}
    chosen = [({"role": "assistant", "content": answer.text},) for answer in known]
    rows = [
        dataclasses.replace(answer.row, chosen=message, is_conversation=False)
        for answer, message in zip(known, chosen, strict=True)
    ]
    prepared = answering.prepared(rows)
    truncated = {answer.row.id for answer in known if answer.truncated}
    reference, found = Reference(answering.policy, frozen=other), {}
    for numbers in pack(prepared.trees, answering.row_tokens):
        trees = [prepared.trees[n] for n in numbers]
        row = lay_out(trees)
        kl_T = exact_kl(answering.policy, reference, row).double().cpu().numpy()
        for n, tree in enumerate(trees):
            own = kl_T[row.completion_T == n]
            own = own[:-1] if tree.row_id in truncated else own
            found[tree.row_id] = (float(own.sum()), len(own))
    return {row: one for row, one in found.items() if np.isfinite(one[0]) and one[1]}
