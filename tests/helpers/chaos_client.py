"""A process that scores NUM conversations through the ledger and prints {number: score}; made to be killed.

python chaos_client.py NUM '{"base_url": [...], ...}'
"""

from __future__ import annotations

import json
import sys

from alignkit_plugins.nemotron import Nemotron, NemotronConfig

from alignkit.scoring.judge import Item, Scored
from alignkit.scoring.specs import NamedJudge


def item(number: int) -> Item:
    """The conversation of that number."""
    return Item([{"role": "user", "content": f"Question {number % 97}"}], f"Answer {number}", {"id": str(number)})


def main(num_items: int, options: dict[str, object]) -> None:
    judge = Nemotron(NemotronConfig(**options))
    answers = NamedJudge("nemotron", judge).score([item(number) for number in range(num_items)])
    judge.close()
    scores = [answer.value if isinstance(answer, Scored) else answer.reason for answer in answers]
    print(json.dumps(scores))


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]))
