"""Who gives a run's rewards: the judges that are named or the rows' default one, and the hashes of what they are."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from alignkit.config.file import Resolved
from alignkit.data.reading.rows import Row
from alignkit.errors import UsageError
from alignkit.methods import Method
from alignkit.scoring.default import default_judges
from alignkit.scoring.functions.judge import FunctionJudge
from alignkit.scoring.functions.sources import place_of, sources_sha256
from alignkit.scoring.ledger import judge_sha256
from alignkit.scoring.specs import NamedJudge, distinct, function_file, make_judge

_logger = logging.getLogger(__name__)


def named_judges(method: Method, resolved: Resolved, specs: Sequence[str]) -> tuple[NamedJudge, ...]:
    """Make the judges that rewards name; their files are imported, and refused where they cannot be used."""
    if not method.trains_on.is_sampled:
        return ()
    judges = distinct([make_judge(spec, resolved, named_at=("rollouts", "reward")) for spec in specs])
    for named in judges:
        if named.judge.pairwise:
            raise UsageError(f"reward {named.label!r} compares two answers, it gives none a score: name it by --judge")
    if judges and not any(named.weight for named in judges):
        raise UsageError("every --reward has the weight 0: nothing would be learnt; give one another weight")
    return judges


def ready_judges(
    method: Method, resolved: Resolved, named: tuple[NamedJudge, ...], rows: Sequence[Row], *, asks: bool
) -> tuple[NamedJudge, ...]:
    """The named judges, or the rows' default one, once they can score these rows."""
    if not method.trains_on.is_sampled:
        return ()
    fields = [row.fields for row in rows]
    if not named:
        spec = _default_reward(fields)
        _logger.info("reward: %s", spec)
        named = named_judges(method, resolved, [spec])
    for one in named if asks else ():
        if one.judge.paid:
            one.judge.check_key()  # its address is asked after the cost was agreed to
        else:
            one.ready(rows)
    return named


def _default_reward(rows: Sequence[Mapping[str, Any]]) -> str:
    """The SPEC of the judge that is taken where none is named (scoring/default.py)."""
    for judge in default_judges(rows, role="reward"):
        return judge.default_spec()
    raise UsageError(
        "no reward: the rows carry no rules and none was named; give --reward FILE.py:function (your own), --reward "
        "RUN (a reward model: alignkit train reward), or rows with rules"
    )


def reward_fingerprints(resolved: Resolved) -> dict[str, str]:
    """Hashes of the reward files and of what they import, without running them."""
    fingerprints: dict[str, str] = {}
    for path in dict.fromkeys(filter(None, map(function_file, resolved.rollouts.reward))):
        name = path.name if f"reward {path.name}" not in fingerprints else str(path)
        fingerprints[f"reward {name}"] = sources_sha256(place_of(path))
    return fingerprints


def fingerprints_of(resolved: Resolved, judges: Sequence[NamedJudge]) -> dict[str, str]:
    """What gives the rewards: files by their content, judges by everything that decides their scores."""
    others = [named for named in judges if not isinstance(named.judge, FunctionJudge)]
    return reward_fingerprints(resolved) | {
        f"reward {n.label}": judge_sha256(n.judge.name, n.judge.version, n.judge.parameters()) for n in others
    }
