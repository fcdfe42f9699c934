"""What a verdict rests on, prompt by prompt: enough to derive the same verdict elsewhere, to the digit.

`alignkit judge --evidence FILE` writes it, `alignkit judge --from FILE` reads it. It holds no text: prompts, answers,
weights, judge and code stand in it as hashes, the scores and lengths as numbers. Win rate, intervals, length and the
judge's noise are derived from those; what needs the texts (BLEU, text health) or people's votes is carried along as it
was measured, without the texts behind it. Of a path on the machine that judged, the name alone stands in it.

Each judgement has a number and a checksum, and so has every field beside them: what was changed by hand, taken out or
put in is found, and where. That is no proof against somebody who makes the checksums anew; the hashes let anybody
repeat the judging itself.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from alignkit.errors import InputError
from alignkit.judging.clustering import Grouping
from alignkit.judging.guards import GuardScores, array, guard_of
from alignkit.judging.health import Measure
from alignkit.judging.length import Pairs, length_facts
from alignkit.judging.people import People
from alignkit.judging.scores import differences, judge_noise
from alignkit.judging.verdict import JudgeName, Side, Verdict, make_verdict
from alignkit.statistics.resampling import Clusters
from alignkit.statistics.win_rate import outcomes, without_interval
from alignkit.storage import write_atomically

MARK = "alignkit_evidence"
_CODE = ("judging", "statistics")  # the rooms of alignkit that decide what a verdict is
_Checked = TypeVar("_Checked", bound=BaseModel)
_logger = logging.getLogger(__name__)
_PART = r"[^\s/'\",;:()]+"
_PATH = re.compile(rf"(?:file://|(?<![\w/.~-]))/(?:{_PART}/)+({_PART})")  # no URL's path
_NEEDED = {
    "float": "a number",
    "int": "a whole number",
    "string": "a text",
    "bool": "true or false",
    "tuple": "a list",
    "dict": "an object",
    "model": "an object",
    "datetime": "a date and time",
}
_SHOWN = 40  # characters of a value


class Judgement(BaseModel):
    """One prompt's scores (None: missing), and what is resampled with it. Texts are sha256 hashes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int | None = Field(None, description="from 1, as written")
    prompt: str
    ours: float | None
    theirs: float | None
    again: tuple[tuple[float | None, float | None], ...] = Field((), description="scored again, for the judge's noise")
    ours_chars: int
    theirs_chars: int
    ours_text: str
    theirs_text: str
    cluster: int
    stratum: int | None = None
    here: tuple[int, int] | None = Field(None, description="cluster and stratum of these sources alone")
    check: str = ""


class Evidence(BaseModel):
    """Everything a verdict is made of. `level` is the interval's, a share.

    A field that was added later has a default, here as in the records within: a file written before it is read as one
    that does not say.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    alignkit_evidence: Literal[1] = 1
    version: str = Field(default_factory=lambda: version("alignkit"))
    code: str = Field(default_factory=lambda: code_fingerprint())
    run: str
    vs: str
    weights: tuple[str, str]
    judge: JudgeName
    judge_parameters: str
    prompts: str
    fingerprint: str
    seed: int
    margin: float
    level: float = Field(gt=0, lt=1)
    look: int | None
    look_id: str | None
    pair: str
    units: str
    only: str = ""
    here_units: str | None = None
    rounds: str | None = None
    no_interval: str | None = Field(None, description="why nothing is said of the interval")
    caveats: tuple[str, ...]
    ours: Side
    theirs: Side
    health: tuple[Measure, ...]
    people: People | None = Field(None, description="what people voted on these answers")
    guards: tuple[GuardScores, ...] = Field((), description="other prompts, where it must not be worse")
    created: datetime
    num_judgements: int | None = None
    judgements: tuple[Judgement, ...] = Field(min_length=1)
    verdict: Verdict | None = None
    checks: dict[str, str] = Field({}, description="a checksum of each field beside the judgements")
    check: str = ""

    @property
    def is_unscored(self) -> bool:
        """Whether no prompt has a score on both sides."""
        return all(one.ours is None or one.theirs is None for one in self.judgements)


def judgements_of(
    *,
    prompts: Sequence[str],
    scorings: Sequence[tuple[np.ndarray, np.ndarray]],
    texts: tuple[Sequence[str], Sequence[str]],
    grouping: Grouping,
) -> tuple[Judgement, ...]:
    """Put what was judged together, prompt by prompt.

    Args:
        prompts: a key of each prompt.
        scorings: of both sides, float64 [P], nan where missing; the first decides.
        texts: both sides' answers.
    """
    here = grouping.alone
    return tuple(
        Judgement(
            prompt=prompt,
            ours=_known(scorings[0][0][n]),
            theirs=_known(scorings[0][1][n]),
            again=tuple((_known(a_P[n]), _known(b_P[n])) for a_P, b_P in scorings[1:]),
            ours_chars=len(texts[0][n]),
            theirs_chars=len(texts[1][n]),
            ours_text=text_hash(texts[0][n]),
            theirs_text=text_hash(texts[1][n]),
            cluster=int(grouping.clusters.number_P[n]),
            stratum=None if grouping.strata is None else int(grouping.strata.number_P[n]),
            here=None
            if here is None or here.strata is None
            else (int(here.clusters.number_P[n]), int(here.strata.number_P[n])),
        )
        for n, prompt in enumerate(prompts)
    )


def verdict_of(evidence: Evidence) -> Verdict:
    """Derive the verdict: the only way one is made, whether the judging was done here or elsewhere."""
    rows = evidence.judgements
    scorings = [
        (array([row.ours for row in rows]), array([row.theirs for row in rows])),
        *(
            (array([row.again[k][0] for row in rows]), array([row.again[k][1] for row in rows]))
            for k in range(len(rows[0].again))
        ),
    ]
    results = [outcomes(a_P, b_P) for a_P, b_P in scorings]
    main = _grouping([row.cluster for row in rows], [row.stratum for row in rows], evidence.units)
    here = None
    if evidence.here_units is not None:
        pairs = [row.here or (0, 0) for row in rows]
        here = _grouping([cluster for cluster, _ in pairs], [stratum for _, stratum in pairs], evidence.here_units)
    how: dict[str, Any] = {"seed": evidence.seed, "level": evidence.level}
    rate = main.rate(results[0], **how)
    if evidence.no_interval is not None:
        rate = without_interval(rate, evidence.no_interval)
    lengths = Pairs(
        results[0],
        np.array([row.ours_chars for row in rows], dtype=np.float64),
        np.array([row.theirs_chars for row in rows], dtype=np.float64),
        differences(*scorings[0]),
        (here or main).clusters,  # of these sources, where they are too few to speak of others
    )
    verdict = make_verdict(
        rate,
        run=evidence.run,
        vs=evidence.vs,
        judge=evidence.judge,
        margin=evidence.margin,
        ours=evidence.ours,
        theirs=evidence.theirs,
        prompts=evidence.prompts,
        seed=evidence.seed,
        caveats=evidence.caveats,
        length=length_facts(lengths, **how),
        look=evidence.look,
        pair=evidence.pair,
        look_id=evidence.look_id,
        units=evidence.units,
        only=evidence.only,
        here=None if here is None or evidence.no_interval is not None else (here.rate(results[0], **how), here.words),
        rounds=evidence.rounds,
        noise=judge_noise(results),
        health=evidence.health,
        people=evidence.people,
        fingerprint=evidence.fingerprint,
        guards=[guard_of(scores) for scores in evidence.guards],
    )
    return verdict.model_copy(update={"created": evidence.created})


def write_evidence(evidence: Evidence, verdict: Verdict, path: Path) -> None:
    """Write evidence with its verdict and checksums, a judgement a line; its owner's alone to read.

    Raises:
        RunStopped: the file cannot be written.
    """
    numbered = [row.model_copy(update={"number": n}) for n, row in enumerate(evidence.judgements, start=1)]
    rows = [_with_check(row) for row in numbered]
    guards = [guard.model_copy(update={"rows": tuple(map(_with_check, guard.rows))}) for guard in evidence.guards]
    update = {"guards": tuple(guards), "verdict": verdict, "num_judgements": len(rows), "checks": {}, "check": ""}
    head = json.loads(evidence.model_copy(update=update).model_dump_json(exclude={"judgements"}))
    head = _without_paths(head, _folders(evidence))
    for measures in (head["health"], head["verdict"]["health"]):
        for measure in measures:
            measure |= {"found": [], "worst": []}  # texts of answers
    head["checks"] = _checks(head)
    head["check"] = _check(head)
    lines = ",\n  ".join(row.model_dump_json() for row in rows)
    text = json.dumps(head, ensure_ascii=False, separators=(",", ":"))
    write_atomically(path, f'{text[:-1]},\n "judgements": [\n  {lines}\n ]}}\n', private=True)


def is_evidence(path: Path) -> bool:
    """Whether a file is evidence, by its beginning."""
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            return re.match(rf'\s*\{{\s*"{MARK}"', file.read(200)) is not None
    except OSError:
        return False


def read_evidence(path: Path) -> Evidence:
    """Read evidence and derive its verdict anew.

    Raises:
        InputError: it is none, was changed after it was written, or this code derives another verdict; says where.
    """
    content = _read(path)
    try:
        evidence = Evidence.model_validate_json(json.dumps(content))
    except ValidationError as error:
        raise InputError(f"{path}: no evidence that this alignkit can read: {_in_words(error)}") from error
    if changed := [*_changed_rows(content), *_changed_beside(content)]:
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise InputError(
            f"{path}: changed after it was written: {', '.join(changed[:5])}{more}; take the file as it was"
        )
    _compare(path, evidence)
    return evidence


def _read(path: Path) -> Any:
    """The file's JSON."""
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
        return json.loads(text)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        if error.end >= len(data):
            raise InputError(f"{path}: cut off at line {data.count(10) + 1}; copy it again") from error
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; take the file as it was") from error
    except json.JSONDecodeError as error:
        rest = text.rstrip()
        if error.pos >= len(rest) or not (rest.endswith("}") or error.msg == "Extra data"):
            raise InputError(f"{path}: cut off at line {rest.count(chr(10)) + 1}; copy it again") from error
        raise InputError(f"{path}, line {error.lineno}: not JSON: {error.msg}; take the file as it was") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or nested without end
        raise InputError(f"{path}: no evidence: {error}; take the file as it was") from error


def _in_words(error: ValidationError) -> str:
    """The first thing that is wrong, counted from 1 as the checksums' findings are."""
    first = error.errors(include_url=False)[0]
    where: list[str] = []
    for part in first["loc"]:
        if isinstance(part, int):
            where[-1:] = [f"{where[-1].removesuffix('s')} {part + 1}"] if where else [f"{part + 1}"]
        elif "[" not in part:  # pydantic's own name of a check
            where.append(part)
    name, kind = ", ".join(where) or "the file", first["type"]
    if kind == "missing":
        return f"{name} is missing; take the file as it was"
    if kind == "extra_forbidden":
        return f"{name} is not known here; a newer alignkit may have written it"
    if name == MARK:
        return f"its format is {_brief(first['input'])}, known here is 1; update alignkit"
    if kind == "too_short":
        return f"{name} is empty; take the file as it was"
    needed = _NEEDED.get(kind.split("_")[0]) or first["msg"].removeprefix("Input should be ").removeprefix(
        "Value error, "
    )
    return f"{name} is {_brief(first['input'])}, needed is {needed}; take the file as it was"


def _brief(value: object) -> str:
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _changed_rows(content: Mapping[str, Any]) -> list[str]:
    """Judgements and guards' rows that are not what was written, that are gone, stand twice or elsewhere."""
    rows = content["judgements"]
    changed = [f"judgement {n}" for n, row in enumerate(rows, start=1) if row.get("check") != _check(row)]
    changed += [
        f"guard {guard['name']}, {guard['by']}, row {n}"
        for guard in content.get("guards", ())
        for n, row in enumerate(guard["rows"], start=1)
        if row.get("check") != _check(row)
    ]
    total = content.get("num_judgements")
    numbers = [row.get("number") for row in rows]
    if changed or total is None or content.get("checks", {}).get("num_judgements") != _check({"": total}):
        return changed
    seen = Counter(numbers)
    changed += [f"judgement {n} was taken out" for n in range(1, total + 1) if n not in seen]
    changed += [f"judgement {n} stands {times} times" for n, times in seen.items() if times > 1]
    if not changed:
        moved = [f"{n} has judgement {number}" for n, number in enumerate(numbers, start=1) if n != number]
        changed += [f"place {text}" for text in moved]
    return changed


def _changed_beside(content: Mapping[str, Any]) -> list[str]:
    """Fields beside the judgements that are not what was written."""
    if content.get("check") == _check(content, leave_out=("judgements",)):
        return []
    written, found = content.get("checks"), _checks(content)
    if not written:
        return ["what stands beside the judgements (options, figures, verdict)"]  # a file from before `checks`
    names = [name for name in {**written, **found} if written.get(name) != found.get(name)]
    return names or ["the checksums"]


def text_hash(text: str) -> str:
    """A hash of one answer."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def code_fingerprint() -> str:
    """Hash the code that makes a verdict of scores."""
    root = Path(__file__).resolve().parent.parent
    hashed = hashlib.sha256()
    for file in sorted(file for room in _CODE for file in (root / room).glob("*.py")):
        hashed.update(f"{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return hashed.hexdigest()


def _compare(path: Path, evidence: Evidence) -> None:
    """Compare the verdict in a file with the one derived here."""
    if evidence.verdict is None:
        raise InputError(f"{path}: no verdict stands in it")
    said, found = evidence.verdict.model_dump(mode="json"), verdict_of(evidence).model_dump(mode="json")
    differ = [name for name in found if found[name] != said.get(name)]
    if not differ:
        return
    what = f"{path}: this alignkit derives another verdict: {', '.join(differ)} differ"
    if evidence.code == code_fingerprint():
        raise InputError(f"{what}; judgements were taken out or put in: take the file as `judge --evidence` wrote it")
    _logger.warning("%s; it was written by other code (alignkit %s)", what, evidence.version)


def _grouping(clusters: list[int], strata: list[int | None], words: str) -> Grouping:
    known = [stratum for stratum in strata if stratum is not None]
    return Grouping(Clusters.of(clusters), words, strata=Clusters.of(known) if len(known) == len(strata) else None)


def _check(content: Mapping[str, Any], *, leave_out: Sequence[str] = ()) -> str:
    """A checksum of what stands in a file; of a field that is not in it, nothing."""
    checked = {name: value for name, value in content.items() if name not in ("check", *leave_out)}
    return hashlib.sha256(json.dumps(checked, sort_keys=True).encode()).hexdigest()[:16]


def _checks(content: Mapping[str, Any]) -> dict[str, str]:
    """A checksum of each field beside the judgements; a record has one for each of its fields."""
    found: dict[str, str] = {}
    for name, value in content.items():
        if name not in ("judgements", "checks", "check"):
            parts = {f"{name}.{inner}": x for inner, x in value.items()} if isinstance(value, dict) else {name: value}
            found |= {part: _check({"": x}) for part, x in parts.items()}
    return found


def _with_check(model: _Checked) -> _Checked:
    return model.model_copy(update={"check": _check(json.loads(model.model_dump_json()))})


def _folders(evidence: Evidence) -> list[str]:
    """Folders of this machine that may stand in a text, the longest first; a name in them may hold a space."""
    named = [Path(name).parent for name in (evidence.run, evidence.vs, evidence.prompts) if Path(name).is_absolute()]
    return sorted({str(folder) for folder in (*named, Path.cwd(), Path.home())} - {"/"}, key=len, reverse=True)


def _without_paths(value: Any, folders: Sequence[str]) -> Any:
    """The same with each absolute path as its name."""
    if isinstance(value, dict):
        return {_without_paths(name, folders): _without_paths(x, folders) for name, x in value.items()}
    if isinstance(value, list):
        return [_without_paths(x, folders) for x in value]
    if not isinstance(value, str):
        return value
    for folder in folders:
        value = re.sub(rf"(?<![\w/.~-]){re.escape(folder)}/(?:{_PART}/)*", "", value)
    return _PATH.sub(r"\1", value)


def _known(x: float) -> float | None:
    return None if math.isnan(x) else float(x)
