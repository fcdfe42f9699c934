"""A file of answers holds one model's answers under one setting, and is gone on with by nobody else."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model

from alignkit.cli.main import main
from alignkit.errors import AlignkitError
from alignkit.judging.answer_file import AnswerFile
from alignkit.judging.answers import Answering

PROMPTS = [(f"p{n}", [{"role": "user", "content": f"Say {n}"}]) for n in range(4)]
SETTINGS = {"temperature": 0.5, "weights": "0" * 64, "template_kwargs": {"a": (1, 2)}}


def answer(number: int) -> dict[str, object]:
    id_, prompt = PROMPTS[number]
    return {
        "id": id_,
        "prompt": prompt,
        "completion": f"{number}\u2028",
        "num_tokens": 2,
        "num_prompt_tokens": 3,
        "finish": "stop",
    }


def begun(folder: Path) -> Path:
    """An unfinished file with two of four answers."""
    file = AnswerFile(folder / "out.jsonl", SETTINGS, PROMPTS, resume=False)
    file.begin()
    file.add([answer(2), answer(0)])
    return folder / ".out.jsonl.unfinished"


def finished(folder: Path) -> Path:
    file = AnswerFile(folder / "out.jsonl", SETTINGS, PROMPTS, resume=(folder / "out.jsonl").exists())
    file.begin()
    file.add([answer(number) for number in (3, 1, 0, 2)])
    file.finish()
    return folder / "out.jsonl"


def test_a_finished_file_is_gone_on_with_by_the_same_call_alone(tmp_path: Path) -> None:
    path = finished(tmp_path)
    before = path.read_bytes()
    assert AnswerFile(path, SETTINGS, PROMPTS, resume=True).is_finished
    for settings, prompts, said in (
        (SETTINGS | {"temperature": 0.7}, PROMPTS, "temperature was 0.5, is 0.7"),
        (SETTINGS | {"weights": "1" * 64}, PROMPTS, "weights was '000000000000... *, is '111111111111"),
        (SETTINGS | {"new": 1}, PROMPTS, "new was None, is 1"),
        (SETTINGS, PROMPTS[:3], "answers other prompts"),
        (SETTINGS, [("p0", PROMPTS[1][1]), *PROMPTS[1:]], "answers other prompts"),
    ):
        with pytest.raises(AlignkitError, match=said.replace("... *", ".*")) as caught:
            AnswerFile(path, settings, prompts, resume=True)
        assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_a_file_that_is_no_finished_file_of_answers_is_refused_and_left_alone(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("notes.txt", "folder", "dangling"):
        with pytest.raises(AlignkitError, match="is no file of answers that alignkit finished"):
            AnswerFile(tmp_path / name, SETTINGS, PROMPTS, resume=True)
    moved = tmp_path / "moved.jsonl"
    shutil.copy(finished(tmp_path), moved)
    with pytest.raises(AlignkitError, match=r"\.moved\.jsonl\.drawn is not beside it"):
        AnswerFile(moved, SETTINGS, PROMPTS, resume=True)
    with open(tmp_path / "out.jsonl", "a") as file:
        file.write("\n")
    with pytest.raises(AlignkitError, match="was changed after it was drawn"):
        AnswerFile(tmp_path / "out.jsonl", SETTINGS, PROMPTS, resume=True)
    assert notes.read_text() == "mine"


def test_the_files_are_the_users_own(tmp_path: Path) -> None:
    assert begun(tmp_path).stat().st_mode & 0o777 == 0o600
    AnswerFile(tmp_path / "out.jsonl", SETTINGS, PROMPTS, resume=True)
    (tmp_path / "two").mkdir()
    path = finished(tmp_path / "two")
    assert {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {
        "out.jsonl": 0o600,
        ".out.jsonl.drawn": 0o600,
    }


@pytest.mark.parametrize("content", ["", "[]", "null", "{", "3", '{"settings": []}', '{"settings": {}}', "[" * 100_000])
def test_what_stands_beside_a_finished_file_is_not_trusted(tmp_path: Path, content: str) -> None:
    path = finished(tmp_path)
    (tmp_path / ".out.jsonl.drawn").write_text(content)
    with pytest.raises(AlignkitError) as caught:
        AnswerFile(path, SETTINGS, PROMPTS, resume=True)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        "null",
        "[]",
        "3",
        '"text"',
        "{}",
        '{"id": 1}',
        "{",
        "[" * 100_000,
        '{"id": "p0", "prompt": [], "completion": 3}',
        '{"id": "p0", "prompt": [], "completion": "", "num_tokens": true, "num_prompt_tokens": 1, "finish": "stop"}',
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_an_unfinished_file_with_a_line_of_another_kind_is_refused(tmp_path: Path, line: str, place: int) -> None:
    part = begun(tmp_path)
    lines = part.read_text().split("\n")
    lines[place] = line
    part.write_text("\n".join(lines))
    with pytest.raises(AlignkitError, match="not an unfinished file of answers"):
        AnswerFile(tmp_path / "out.jsonl", SETTINGS, PROMPTS, resume=True)


_STRAYS = (b"\n", b"\xff", b"null\n", b"[]\n")


def test_no_damage_to_an_unfinished_file_is_a_traceback(tmp_path: Path) -> None:
    """100 damages: refused in a line, or what is known has the shape of an answer."""
    part = begun(tmp_path)
    content, rng = part.read_bytes(), random.Random(0)
    damages: list[Callable[[bytearray], object]] = [
        lambda b: b.__setitem__(rng.randrange(len(b)), rng.randrange(256)),
        lambda b: b.__delitem__(slice(rng.randrange(len(b)), None)),
        lambda b: b.__setitem__(slice(at := rng.randrange(len(b)), at + 9), bytes(9)),
        lambda b: b.__setitem__(
            slice(at := rng.randrange(len(b)), at), rng.choice([b"\n", b"\xff", b"null\n", b"[]\n"])
        ),
    ]
    refused = 0
    for number in range(100):
        damaged = bytearray(content)
        damages[number % len(damages)](damaged)
        part.write_bytes(damaged)
        try:
            known = AnswerFile(tmp_path / "out.jsonl", SETTINGS, PROMPTS, resume=True).known
            assert all(isinstance(one["completion"], str) for one in known.values())
        except AlignkitError:
            refused += 1
    assert 30 < refused < 100


def test_answers_of_other_weights_config_or_template_are_not_put_into_one_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = tiny_model(tmp_path / "model")
    Path("rows.jsonl").write_text("".join(json.dumps({"id": f"p{n}", "prompt": f"Say {n}"}) + "\n" for n in range(3)))
    command = ["generate", "model", "--data", "rows.jsonl", "--max-new-tokens", "2", "--out", "out.jsonl"]
    assert main(command) == 0
    with monkeypatch.context() as patched:
        patched.setattr(Answering, "__init__", None)  # nothing is loaded
        assert main([*command, "--resume"]) == 0
        before = Path("out.jsonl").read_bytes()
        for change, said in (
            (_change_weights, "weights was"),
            (_append(model / "config.json"), "config and tokenizer was"),
            (_append(model / "chat_template.jinja"), "chat template was"),
        ):
            shutil.copytree(model, "kept")
            change(model)
            capsys.readouterr()
            assert main([*command, "--resume"]) == 2
            assert said in capsys.readouterr().err
            shutil.rmtree(model)
            Path("kept").rename(model)
        Path("notes.txt").write_text("mine")
        assert main([*command[:-1], "notes.txt", "--resume"]) == 2
    assert Path("out.jsonl").read_bytes() == before and Path("notes.txt").read_text() == "mine"


def _change_weights(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    name = sorted(tensors)[0]
    tensors[name] = tensors[name] + 1
    save_file(tensors, model / "model.safetensors", {"format": "pt"})


def _append(file: Path) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        file.write_text(file.read_text() + " ")

    return change


def test_an_interrupted_file_says_what_is_kept_and_a_whole_one_how_much_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_model(Path("tiny"))
    command = ["generate", "tiny", "--prompt", "One", "--prompt", "Two", "--max-new-tokens", "4", "--out", "out.jsonl"]
    with monkeypatch.context() as patch:

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(AnswerFile, "finish", interrupted)
        assert main(command) == 130
    assert "interrupted: what was answered is kept; go on with --resume" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert "2 answers in out.jsonl" in capsys.readouterr().err
