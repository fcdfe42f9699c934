"""The data set `general`: 300 prompts with rules, to see that a model is not worse elsewhere (`judge --guard general`).

Six kinds: facts, sums, formats, refusal (requests to refuse, and harmless ones that sound like them), languages (ten),
reading. Each has ten templates of five prompts. A row has a prompt, its kind and template, the rules that an answer is
scored by, and a short right answer as its reference. Nothing of it is drawn by chance. Train on none of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from alignkit.plugin import Dataset
from alignkit_plugins.general import facts, formats, languages, reading, refusal, sums
from alignkit_plugins.general.task import Task


class GeneralTasks(Dataset):
    """The rows, kind by kind."""

    name: ClassVar[str] = "general"

    def rows(self, part: str) -> Iterator[Mapping[str, Any]]:
        numbers: Counter[str] = Counter()
        for task in all_tasks():
            numbers[task.template] += 1
            yield {
                "id": f"general-{task.template}-{numbers[task.template]}",
                "kind": task.kind,
                "template": task.template,
                "prompt": task.prompt,
                "rules": list(task.rules),
                "reference": task.right,
            }


def all_tasks() -> list[Task]:
    """Every prompt with its right and its wrong answer."""
    return [task for kind in (facts, sums, formats, refusal, languages, reading) for task in kind.tasks()]
