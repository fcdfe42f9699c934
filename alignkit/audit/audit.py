"""The audit, part by part."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from alignkit.audit import repeats, texts
from alignkit.audit.biases import biases, explained, length_lessons, ties
from alignkit.audit.body import read_body
from alignkit.audit.clean import FLIPPED, kinds, removals, write_clean, write_list
from alignkit.audit.embeddings import read_tokens
from alignkit.audit.findings import Findings, SourceRows, Written
from alignkit.audit.flips import LIKELY, Suspicion, flips, suspect
from alignkit.audit.pairs import PairSet, read_pairs
from alignkit.audit.surface import COLUMNS, Compared, compare
from alignkit.data.chat.chat import Chat
from alignkit.data.looking.lengths import LIMITS, measure
from alignkit.data.reading.read import Source
from alignkit.pretrained.names import ModelSource
from alignkit.progress import Progress, Silent

CHARACTERS_A_TOKEN = 4  # of English text; where no tokenizer is named


def audit(
    data: str,
    *,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    model: ModelSource | None = None,
    chat: Chat | None = None,
    max_length: int | None = None,
    tests: Sequence[str] = (),
    thorough: bool = False,
    list_to: Path | None = None,
    clean_to: Path | None = None,
    progress: Progress | None = None,
) -> Findings:
    """Look at a preference set in every way there is.

    Args:
        data: `--data`.
        columns: our name = the file's name.
        limit: at most this many rows, from the top.
        model: the policy, or a folder with its tokenizer alone: lengths are counted in its tokens, and its embeddings
            are looked up.
        chat: the policy's chat format: prompts, answers and whole rows are counted in tokens. Characters without it.
        max_length: tokens; how many rows it would cut is said. 512, 1,024 and 2,048 where None.
        tests: named as `--data` is: rows whose prompts hold one of theirs are found.
        thorough: run the policy over all answers, and judge pairs by its states too.
        list_to: where the ranked list of suspected pairs is written.
        clean_to: where the set is written without the rows that should be taken out; they are written beside it. What
            may be written is for `clean.check_outputs` to say.

    Raises:
        InputError, UsageError: as `Source.rows`.
        RunStopped: the disk refuses.
    """
    began = time.monotonic()
    progress = progress or Silent()
    source = Source(data, columns or {}, limit)
    progress.start("audit: reading rows", None)
    pairs = read_pairs(source.rows())
    leaks = texts.find_leaks(pairs, {name: Source(name, columns or {}).rows() for name in tests}) if tests else None
    findings = Findings(data=data, rows=len(pairs), sources=_sources(pairs), others=_others(pairs), ties=ties(pairs))
    progress.start("audit: lengths", None)
    if chat is None:
        lengths = texts.lengths_in_characters(pairs)
    else:
        limits = LIMITS if max_length is None else (max_length,)
        lengths = texts.lengths_in_tokens(measure(source.rows(numbered=False), chat), limits)
    progress.start("audit: what the answers look like", None)
    compared = compare(pairs)
    lengths_P2 = np.maximum(compared.counts_P2M[:, :, COLUMNS.index("characters")] / CHARACTERS_A_TOKEN, 1)
    counted_by = f"about {CHARACTERS_A_TOKEN} characters a token"
    if model is not None:
        progress.start("audit: embeddings of the answers", None)
        lengths_P2, compared = read_tokens(pairs, compared, model.folder)
        counted_by = f"the tokenizer of {model.name}"
        if thorough:
            compared = read_body(pairs, compared, model.folder, progress)
    progress.start("audit: what the preferences follow", None)
    suspicion = suspect(compared)
    lessons = length_lessons(compared, lengths_P2, counted_by=counted_by)
    progress.start("audit: near-duplicates, quotations, refusals, languages", None)
    others = {} if leaks is None else texts.leak_removals(leaks)
    others |= texts.unusable_removals(pairs)
    reasons = None if clean_to is None else _removals(pairs, compared, suspicion, others)
    findings = findings.model_copy(update=_texts(pairs, leaks, _before_repeats(compared, suspicion, others), reasons))
    found = {"lengths": lengths, "length_lessons": lessons, **_preferences(pairs, compared, suspicion)}
    findings = findings.model_copy(update=found)
    written: list[Written] = []
    if clean_to is not None and reasons is not None:
        progress.start("audit: writing the cleaned set", None)
        written += write_clean(source, pairs, reasons, clean_to)
    if list_to is not None:
        written.append(write_list(findings.flips, list_to))
    progress.stop()
    return findings.model_copy(update={"seconds": time.monotonic() - began, "written": tuple(written)})


def _before_repeats(compared: Compared, suspicion: Suspicion | None, others: Mapping[int, str]) -> dict[int, str]:
    """Rows that are taken out before repeats are looked for: each row goes for the first reason that it has."""
    is_likely_P = np.zeros(len(compared), bool) if suspicion is None else suspicion.probability_P > LIKELY
    return dict.fromkeys(compared.rows[is_likely_P].tolist(), FLIPPED) | dict(others)


def _texts(
    pairs: PairSet, leaks: texts.Leaks | None, before: Mapping[int, str], reasons: Mapping[int, str] | None
) -> dict[str, object]:
    """What stands in the texts themselves. Repeats are looked for beside the rest: kernels release the interpreter.

    Args:
        before: reasons of the rows that are taken out before repeats are looked for.
        reasons: of the rows that are taken out, where the cleaned set is written.
    """
    with ThreadPoolExecutor(1) as beside:
        repeated = beside.submit(repeats.find_repeats, pairs)
        in_another, languages = texts.languages(pairs)
        parts = [texts.unusable(pairs), texts.cut(pairs), texts.refused(pairs), texts.quoted(pairs), in_another]
        found = repeated.result()
    if reasons is None:
        kept = np.setdiff1d(np.arange(len(pairs)), list(before))
        repeating, opposing = repeats.removals(pairs, repeats.find_repeats(pairs, kept) if before else found)
        reasons = {**before, **repeating, **opposing}
    first = [
        texts.repeated(pairs, found, *_gone(reasons, found.is_duplicate_P, repeats.REPEATS)),
        texts.contradicted(pairs, found, *_gone(reasons, found.is_opposite_P, repeats.OPPOSES)),
    ]
    if leaks is not None:
        first.append(texts.leaked(pairs, leaks))
    return {"texts": (*first, *parts), "languages": languages}


def _gone(reasons: Mapping[int, str], is_found_P: np.ndarray, kind: str) -> tuple[int, dict[str, int]]:
    """How many rows are taken out for one kind of reason, and, of those found, for which others."""
    counts = kinds(reasons.values())
    others = kinds(why for row, why in reasons.items() if is_found_P[row])
    return counts.get(kind, 0), {why: count for why, count in others.items() if why != kind}


def _removals(
    pairs: PairSet, compared: Compared, suspicion: Suspicion | None, others: Mapping[int, str]
) -> dict[int, str]:
    """Take out rows until an audit of those that stay finds none to take out."""
    reasons, num_before = dict(others), -1
    while len(reasons) > num_before:
        num_before = len(reasons)
        # flips first: the other pairs of a prompt, which are taken out as repeats, say most about them
        reasons = removals(pairs, compared, suspicion, reasons)
        kept = np.setdiff1d(np.arange(len(pairs)), list(reasons))
        for found in repeats.removals(pairs, repeats.find_repeats(pairs, kept)):
            reasons |= found
    return reasons


def _preferences(pairs: PairSet, compared: Compared, suspicion: Suspicion | None) -> dict[str, object]:
    """What the preferences follow, and which of them probably stand the wrong way round."""
    found: dict[str, object] = {"biases": biases(compared)}
    if suspicion is not None:
        found["explained"] = explained(compared, suspicion.surface_PK.sum(1, dtype=np.float64))
        found["flips"] = flips(pairs, compared, suspicion)
    return found


def _sources(pairs: PairSet) -> tuple[SourceRows, ...]:
    places: dict[str, list[int]] = {}
    for number, source in enumerate(pairs.sources):
        places.setdefault(source, []).append(number)
    found = []
    for source, where in places.items():
        num_pairs = int(pairs.is_pair_P[where].sum())
        labelled = int((pairs.label_P[where] >= 0).sum())
        found.append(
            SourceRows(
                source=source,
                rows=len(where),
                pairs=num_pairs,
                ties=int((pairs.is_pair_P & pairs.is_tie_P)[where].sum()),
                labelled=labelled,
                good=int((pairs.label_P[where] == 1).sum()),
                others=len(where) - num_pairs - labelled,
            )
        )
    return tuple(found)


def _others(pairs: PairSet) -> dict[str, int]:
    """Count rows that are neither pairs nor labelled by what they are."""
    found = Counter[str]()
    for row in np.flatnonzero(~pairs.is_pair_P & (pairs.label_P < 0)).tolist():
        if pairs.unusable[row] is not None:
            found[f"unusable ({pairs.unusable[row]})"] += 1
        elif pairs.rejected[row] is not None:
            found["pairs whose answers differ in their thoughts alone"] += 1
        else:
            found["prompts alone" if pairs.chosen[row] is None else "single answers"] += 1
    return dict(found.most_common())
