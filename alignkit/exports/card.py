"""The model card, README.md: what the model is, its verdict and that one's limits, its data and licence, its proof.

Names and texts of others are escaped: a card is shown as HTML. What is not known is said to be unknown.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path

from alignkit.display import on_one_line
from alignkit.exports.proof import Difference
from alignkit.judging.verdict import Verdict
from alignkit.judging.verdict_text import headline, judge_said
from alignkit.runs import RunRecord


def model_card(
    *,
    name: str,
    record: RunRecord | None,
    base: Path | None,
    verdict: Verdict | None,
    differences: Sequence[Difference],
    files: Sequence[str],
    is_adapter: bool,
    system: str | None,
) -> str:
    """Write the card.

    Args:
        base: the folder of the model that was trained, whose own card names its licence.
        verdict: the last one.
        files: what lies beside the card, a line each.
        system: message that the run put before conversations.
    """
    parent = None if record is None else record.model
    licence = None if base is None else licence_of(base)
    head = {"library_name": "peft" if is_adapter else "transformers", "tags": ["alignkit"]}
    head |= {"license": licence} if licence else {}
    head |= {"base_model": parent} if parent and parent.count("/") == 1 and not Path(parent).exists() else {}
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in head.items()), "---", "", f"# {_text(name)}", ""]
    if record is None:
        lines.append("A model's folder, written by alignkit; it is of no run, so nothing is known of its training.")
    else:
        rows, held = record.rows, len(record.rows.validation.ids)
        what = "A LoRA adapter on" if is_adapter else "Trained from"
        lines += [
            f"{what} {_code(record.model)} by {_code(record.method)}, with alignkit.",
            "",
            "## Is it better?",
            "",
            *_verdict(verdict),
            "",
            "## Data",
            "",
            f"{_code(record.config.data.data)}: {len(rows.training.ids):,} rows trained it, {held:,} were held out.",
            "Whether these data may be passed on is not known here.",
            *(f"- {_code(Path(file).name)}: SHA-256 {digest}" for file, digest in sorted(record.data_files.items())),
        ]
    lines += ["", "## Licence", ""]
    lines.append(
        f"The model that was trained is under {_code(licence)}, which holds for this one too."
        if licence
        else "The licence of the model that was trained is not known here; look it up before you pass this one on."
    )
    lines += ["", "## Files, and how far they are from what was trained", "", *(f"- {_text(line)}" for line in files)]
    lines += [f"- {_text(one.line())}" for one in differences]
    if system is not None:
        lines += ["", f"It was trained behind this system message, which the caller has to give: {_code(system)}"]
    return "\n".join(lines) + "\n"


def licence_of(folder: Path) -> str | None:
    """The licence that a folder's own card names, or that stands beside the embedded model; None where none is."""
    try:
        card = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        card = ""
    if card.startswith("---\n"):
        for line in card.split("\n---", 1)[0].splitlines():
            key, _, value = line.partition(":")
            if key in ("license", "license_name") and value.strip() not in ("", "other"):
                return value.strip().strip("\"'")
    try:
        about = json.loads((folder / "source.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    named = about.get("licence") if isinstance(about, dict) else None
    return str(named).rpartition(", ")[2].lower() if isinstance(named, str) else None


def _verdict(verdict: Verdict | None) -> list[str]:
    if verdict is None:
        return ["Nobody knows: it was not judged."]
    return [
        f"**{_text(headline(verdict))}.**",
        "",
        f"- Judge: {_text(judge_said(verdict.judge))}.",
        f"- Prompts: {_text(verdict.prompts)}.",
        *(f"- {_text(caveat)}" for caveat in verdict.caveats),
        "- It speaks of these weights alone, on prompts like those; of safety it says nothing.",
    ]


def _text(text: object) -> str:
    escaped = html.escape(on_one_line(text), quote=False)
    return "".join(f"\\{letter}" if letter in "\\`*_[]#|~" else letter for letter in escaped)


def _code(text: object) -> str:
    return "`" + on_one_line(text).replace("`", "'") + "`"
