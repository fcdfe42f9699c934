"""Texts that are trained as they stand, and are probably not meant so: looked for in the first rows, and said once."""

from __future__ import annotations

import re
from collections.abc import Iterator

from alignkit.data.reading.fields import SHAPE
from alignkit.data.reading.rows import Row

_ENDS = ("</s>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<eos>", "<|return|>")
_STARTS = ("<s>", "<bos>", "<|begin_of_text|>", "<|endoftext|>", "<|startoftext|>")
_MEDIA = re.compile(r"<(?:image|video|audio)>|<\|(?:image_pad|vision_start|video_pad|audio|image)\|>")
_PLACEHOLDER = re.compile(r"\{\{\s*(?:name|author)\s*\}\}")  # of the identity set that LLaMA-Factory has
_LIST = re.compile(r'\["(?:[^"\\]|\\.)*"(?:,\s*"(?:[^"\\]|\\.)*")*\]')
_THOUGHTS_ALONE = re.compile(r"\s*<(think|thinking|thought|reasoning)>.*</\1>\s*", re.DOTALL)
_ROLES = frozenset({"role", "from"})
_SHAPE = frozenset(name for field in SHAPE for name in field.names)
_SPLIT = frozenset({"test", "valid", "validation", "val", "dev", "eval", "heldout"})


def _turns(value: object) -> list[str]:
    """The texts of a list of messages with roles; of anything else none."""
    if not isinstance(value, list) or not all(isinstance(x, dict) and _ROLES & x.keys() for x in value):
        return []
    texts = [next((x[key] for key in ("content", "value", "text") if key in x), None) for x in value]
    return [text for text in texts if isinstance(text, str)]


def odd_texts(row: Row) -> Iterator[str]:
    """Say what is odd in a row, a clause each that begins with what rows have."""
    split = row.fields.get("split")
    if isinstance(split, str) and split.lower() in _SPLIT:
        yield f"the split {split!r}, and are read like all others: take them out, or into a file of their own"
    read = {turn["content"] for turns in (row.prompt, row.chosen, row.rejected) for turn in turns or ()}
    for name, value in row.fields.items():
        if name not in _SHAPE and not read.issuperset(_turns(value)):
            yield (
                f"a conversation in {name!r}, whose turns are not read: map it by --columns messages={name}, or take "
                "it out if it does not belong to the answer"
            )
    prompts = [turn["content"] for turn in row.prompt]
    last = [turns[-1] for turns in (row.chosen, row.rejected) if turns]
    answers = [turn["content"] for turn in last]
    for turn, text in zip(last, answers, strict=True):
        end = next((end for end in _ENDS if text.endswith(end)), None)
        if end is not None:
            yield (
                f"answers that end with {end!r}, which is trained as text, and the template's own end token behind it: "
                "take it away"
            )
        if text.lstrip().startswith("<think>") and "</think>" not in text:
            yield "answers that open <think> and do not close it: the model would learn to stop in its thoughts"
        elif _THOUGHTS_ALONE.fullmatch(text) and not turn.get("tool_calls"):
            yield "answers of thoughts alone, without a text behind them: the model would learn to stop after thinking"
    for text in prompts:
        start = next((start for start in _STARTS if text.startswith(start)), None)
        if start is not None:
            yield f"prompts that begin with {start!r}, which is read as text, beside the template's own: take it away"
    if prompts and (match := _LIST.fullmatch(prompts[0].strip())) is not None:
        yield f"prompts that are lists of texts, {match[0][:40]!r}, which are read as they stand: write the text itself"
    for text in (*prompts, *answers):
        if (media := _MEDIA.search(text)) is not None:
            yield f"{media[0]!r} in a text, which is read as it stands: pictures, sound and videos are not read"
        if (gap := _PLACEHOLDER.search(text)) is not None:
            yield f"the placeholder {gap[0]!r} in a text, which is trained as it stands: write what it stands for"
