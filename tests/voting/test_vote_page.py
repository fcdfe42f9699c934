"""The vote page: who may open it, what it shows, and that no confirmed vote is lost."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tiny_models import tiny_model

from alignkit.errors import InputError, UsageError
from alignkit.scoring.ledger import Ledger
from alignkit.scoring.votes import Votes, keep_poll, pair_hash, prompt_hash, read_votes, text_hash
from alignkit.voting.ballots import Ballots
from alignkit.voting.poll import Pair, Poll
from alignkit.voting.rows import Imported, export, take_in
from alignkit.voting.server import VoteServer

HOSTILE = [
    "<script>document.title = 'run'</script>",
    "</script><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt; \u202e \u2028 '\"`",
]


def pairs(texts: list[str]) -> tuple[Pair, ...]:
    made = []
    for n, text in enumerate(texts):
        prompt = [{"role": "user", "content": f"{n}: {text}"}]
        ours, theirs = f"ours {n} {text}", f"theirs {n} {text}"
        made.append(Pair(pair_hash(prompt, ours, theirs), prompt, ours, theirs, 0.1 * n, 1.0))
    return tuple(made)


def ballots(folder: Path, texts: list[str]) -> Ballots:
    poll = Poll("poll", "one", "other", pairs(texts))
    ledger = Ledger(folder / "ledger.sqlite")
    keep_poll(ledger, "poll", {"run": "one", "vs": "other", "pairs": []})
    return Ballots(poll, ledger)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[VoteServer]:
    served = VoteServer(ballots(tmp_path, HOSTILE), name="Ann <b>")
    thread = threading.Thread(target=served.run)
    thread.start()
    yield served
    served.stop()
    thread.join(10)
    assert not thread.is_alive()


def post(server: VoteServer, what: str, **fields: str) -> httpx.Response:
    return httpx.post(server.address + what, json=fields)


def test_only_the_tokens_address_with_its_own_host_is_answered(server: VoteServer) -> None:
    port = server.port
    assert httpx.get(server.address).status_code == 200
    assert not server.is_open
    wrong = "x" * len(server.token)
    for path in ("", "favicon.ico", f"{wrong}/", f"{server.token[:-1]}/", f"{server.token}é/", f"{server.token}/none"):
        refused = httpx.get(f"http://127.0.0.1:{port}/{path}")
        assert (refused.status_code, server.token in refused.text) == (403, False), path
    assert httpx.post(f"http://127.0.0.1:{port}/{wrong}/next", json={"voter": "Ann"}).status_code == 403
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1:1", f"192.168.7.7:{port}", "", f"[::1:{port}"):
        assert httpx.get(server.address, headers={"Host": host}).status_code == 403, host
    assert httpx.get(server.address, headers={"Host": f"localhost:{port}"}).status_code == 200
    foreign = {"Origin": "http://evil.example"}
    assert httpx.post(server.address + "next", json={"voter": "Ann"}, headers=foreign).status_code == 403
    assert httpx.get(server.address + "next").status_code in (403, 405)


def test_a_form_of_another_site_a_long_body_and_nonsense_are_no_votes(server: VoteServer) -> None:
    address = server.address + "vote"
    assert httpx.post(address, data={"voter": "Ann"}).status_code == 422
    assert httpx.post(address, json={"voter": "A" * 5000}).status_code == 422
    assert httpx.post(address, json=["Ann"]).status_code == 422
    pair = post(server, "next", voter="Ann").json()["pair"]["id"]
    refused = post(server, "next", voter="A" * 41).json()["error"]
    assert refused == "the voter's name has 41 characters; 1 to 40 are possible"
    for fields in ({"voter": ""}, {"voter": "A" * 41}, {"voter": "A\n"}, {"choice": "both"}, {"pair": "none"}):
        sent = {"voter": "Ann", "pair": pair, "choice": "tie"} | fields
        answer = post(server, "vote", **sent)
        if fields != {"voter": "A\n"}:  # white space around a name is taken off
            assert answer.status_code == 422 and answer.json()["error"], fields
    assert {vote.voter for vote in read_votes(server.ballots.ledger)} == {"A"}


def test_model_text_never_stands_in_the_page_and_nothing_foreign_may_load(server: VoteServer) -> None:
    page = httpx.get(server.address)
    policy = page.headers["content-security-policy"]
    nonce = re.search(r"script-src 'nonce-([\w-]+)'", policy)
    assert nonce is not None and page.text.count(nonce[1]) == 2  # of the style and of the script
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert page.headers["referrer-policy"] == "no-referrer" and page.headers["x-content-type-options"] == "nosniff"
    assert "Ann &lt;b&gt;" in page.text and "<b>" not in page.text
    assert "innerHTML" not in page.text and "//" not in re.sub(r"<!--.*?-->", "", page.text.replace("/>", ""))
    assert nonce[1] not in httpx.get(server.address).text  # drawn anew each time
    for _ in HOSTILE:
        answer = post(server, "next", voter="Ann")
        assert answer.headers["content-type"] == "application/json"
        shown = answer.json()["pair"]
        assert any(text in shown["first"] and text in shown["second"] for text in HOSTILE)  # word for word
        assert "one" not in answer.text.replace("none", "") or "other" not in answer.text  # blind
        post(server, "vote", voter="Ann", pair=shown["id"], choice="skip")
    assert post(server, "next", voter="Ann").json()["pair"] is None


def test_votes_name_the_answer_that_was_shown_and_undo_takes_back_the_last(server: VoteServer) -> None:
    pair = server.ballots.poll.pairs[0]
    shown = post(server, "next", voter="Ann").json()["pair"]
    assert {shown["first"], shown["second"]} == {pair.ours, pair.theirs} and shown["turns"][0][0] == "user"
    after = post(server, "vote", voter="Ann", pair=shown["id"], choice="second").json()
    assert (after["done"], after["total"]) == (1, 4) and after["pair"]["id"] == server.ballots.poll.pairs[1].id
    second = post(server, "vote", voter="Ann", pair=shown["id"], choice="first")  # the first stays, and that is said
    assert second.status_code == 409 and second.json() == after | {"error": second.json()["error"]}
    assert "not kept: Ann has voted on this pair; if that was somebody else" in second.json()["error"]
    votes = Votes.read(server.ballots.ledger)
    (vote,) = votes.all
    assert (vote.first, vote.second) == (text_hash(shown["first"]), text_hash(shown["second"]))
    assert (vote.place, vote.key, vote.weight, vote.prompt) == (0, 0.0, 1.0, prompt_hash(pair.prompt))
    assert votes.score(pair.prompt, shown["second"], shown["first"]).value == 1.0  # type: ignore[union-attr]
    assert votes.score(pair.prompt, shown["first"], shown["second"]).value == 0.0  # type: ignore[union-attr]
    assert "other answers" in votes.score(pair.prompt, shown["first"], "another").reason  # type: ignore[union-attr]
    assert post(server, "undo", voter="Ann").json()["pair"] == shown
    assert read_votes(server.ballots.ledger) == []


def test_sides_are_shuffled_by_pair_and_voter(tmp_path: Path) -> None:
    asked = ballots(tmp_path, [str(n) for n in range(60)])
    first_is_ours: dict[str, list[bool]] = {"Ann": [], "Bob": []}
    for voter, found in first_is_ours.items():
        for pair in asked.poll.pairs:
            shown = asked.next(voter)["pair"]
            assert shown == asked.next(voter)["pair"] and shown["id"] == pair.id
            found.append(shown["first"] == pair.ours)
            asked.vote(voter, pair.id, "first")
    assert all(15 < sum(found) < 45 for found in first_is_ours.values())
    assert first_is_ours["Ann"] != first_is_ours["Bob"]


def test_two_voters_at_once_lose_nothing(server: VoteServer) -> None:
    def vote_all(voter: str) -> None:
        while (pair := post(server, "next", voter=voter).json()["pair"]) is not None:
            assert post(server, "vote", voter=voter, pair=pair["id"], choice="tie").status_code == 200

    threads = [threading.Thread(target=vote_all, args=(voter,)) for voter in ("Ann", "Bob", "Cem")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    votes = read_votes(server.ballots.ledger)
    assert len(votes) == 3 * len(HOSTILE) == len({(vote.voter, vote.pair) for vote in votes})


def test_a_vote_that_the_disk_refuses_is_said_and_not_counted(server: VoteServer, monkeypatch: Any) -> None:
    pair = post(server, "next", voter="Ann").json()["pair"]["id"]
    with server.ballots.ledger.connection() as db:
        db.execute(f"PRAGMA max_page_count = {db.execute('PRAGMA page_count').fetchone()[0]}")
        db.execute("CREATE TEMP TABLE ignored (x)")
    codes = []
    for voter in (f"{n} {'x' * 35}" for n in range(40)):  # until the pages that are there are full
        codes.append(post(server, "vote", voter=voter, pair=pair, choice="tie").status_code)
    assert codes[-1] == 507 and len(read_votes(server.ballots.ledger)) == codes.count(200)


def test_a_vote_changed_by_hand_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = ballots(tmp_path, ["a", "b"])
    for pair in asked.poll.pairs:
        asked.vote("Ann", pair.id, "first")
    with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        db.execute("UPDATE votes SET choice = 'second' WHERE place = 1")
    db.close()
    assert [vote.place for vote in read_votes(asked.ledger)] == [0]
    assert "1 votes are not what was written" in caplog.text


def test_an_address_that_is_not_this_machines_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--listen 203.0.113.9 .*cannot be served"):
        VoteServer(ballots(tmp_path, ["a"]), listen="203.0.113.9")
    with pytest.raises(InputError, match="name"):
        ballots(tmp_path, ["a"]).next(" ")


@pytest.mark.parametrize("listen", ["nonsense.invalid", "", "300.1.1.1", "192.0.2.1"])
def test_what_is_no_address_of_this_machine_is_said_with_how_to_see_them(listen: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no address of this machine; `ip address`"):
        VoteServer(ballots(tmp_path, ["a"]), listen=listen)


def test_a_page_open_to_others_names_nobody_beforehand(tmp_path: Path) -> None:
    served = VoteServer(ballots(tmp_path, ["a"]), name="Ann", listen="0.0.0.0")
    thread = threading.Thread(target=served.run)
    thread.start()
    try:
        page = httpx.get(f"http://127.0.0.1:{served.port}/{served.token}/").text
    finally:
        served.stop()
        thread.join(10)
    assert "Your name" in page and "Ann" not in page


@pytest.mark.parametrize("gone", ["votes", "polls"])
def test_a_ledger_that_lost_a_table_is_damaged_and_not_empty(gone: str, tmp_path: Path) -> None:
    asked = ballots(tmp_path, ["a"])
    asked.vote("Ann", asked.poll.pairs[0].id, "first")
    with asked.ledger.connection() as db:
        db.execute(f"DROP TABLE {gone}")
    for use in (lambda: export(asked.ledger, tmp_path / "rows.jsonl"), lambda: keep_poll(asked.ledger, "other", {})):
        with pytest.raises(
            InputError, match=f"ledger.sqlite: this ledger is damaged: its table {gone} is gone; put back"
        ):
            use()
    assert not (tmp_path / "rows.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"first": ["a"]}, "line 1: first is a list; a text is needed"),
        ({"second": {"a": 1}}, "line 1: second is an object; a text is needed"),
        ({"first": None}, "line 1: first is null; a text is needed"),
        ({"choice": 1}, "line 1: choice is the number 1; a text is needed"),
        ({"choice": True}, "line 1: choice is true; a text is needed"),
        ({"voter": 7}, "line 1: the voter's name is the number 7; a text is needed"),
        ({"voter": "A\nB"}, "line 1: the voter's name has a line break in it"),
        ({"voter": "A\u200bB"}, "line 1: the voter's name holds U\\+200B"),
        ({"voter": " "}, "line 1: the voter's name is empty"),
    ],
)
def test_what_is_no_text_in_an_imported_vote_is_said_by_its_kind(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    asked = ballots(tmp_path, ["a"])
    pair = asked.poll.pairs[0]
    row = {"first": pair.ours, "second": pair.theirs, "choice": "tie", "voter": "Ann"}
    (tmp_path / "votes.jsonl").write_text(json.dumps(row | change))
    with pytest.raises(InputError, match=said):
        take_in(asked, tmp_path / "votes.jsonl")


def test_imported_votes_that_contradict_each_other_are_refused_and_known_ones_counted(tmp_path: Path) -> None:
    asked, file = ballots(tmp_path, ["a", "b"]), tmp_path / "votes.csv"
    one, other = asked.poll.pairs
    ann = f"{one.ours},{one.theirs},first,Ann"
    same = f"{one.theirs},{one.ours},second,Ann"  # the same answer wins
    against = f"{one.ours},{one.theirs},second,Ann"

    def taken(*lines: str) -> Imported:
        file.write_text("\n".join(["first,second,choice,voter", *lines]))
        return take_in(asked, file)

    with pytest.raises(InputError, match="line 4: Ann votes otherwise on this pair in line 2; a voter has one vote"):
        taken(ann, f"{other.ours},{other.theirs},tie,Ann", against)
    assert read_votes(asked.ledger) == []
    assert taken(ann, same) == Imported(num_new=1, num_known=1)
    with pytest.raises(InputError, match="line 2: Ann votes otherwise on this pair in the ledger"):
        taken(against)
    assert taken(same, f"{one.ours},{one.theirs},tie,Bob") == Imported(num_new=1, num_known=1)


@pytest.mark.slow
def test_the_command_goes_on_after_a_kill_without_losing_a_confirmed_vote(tmp_path: Path) -> None:
    tiny_model(tmp_path / "one", seed=0)
    tiny_model(tmp_path / "other", seed=1)
    rows = [{"id": f"r{n}", "prompt": f"Say {n}"} for n in range(6)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = [sys.executable, "-m", "alignkit", "vote", "one", "--vs", "other", "--data", "rows.jsonl"]
    command += ["--max-new-tokens", "5", "--temperature", "1", "--name", "Ann"]

    place = os.environ | {"ALIGNKIT_LEDGER": "votes.sqlite"}

    def started() -> tuple[subprocess.Popen[str], str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, cwd=tmp_path, env=place, text=True, **pipes)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("open http://127.0.0.1:"), line
        return process, line.split()[1]

    process, address = started()
    shown = httpx.post(address + "next", json={"voter": "Ann"}).json()
    total = shown["total"]
    for _ in range(2):
        sent = {"voter": "Ann", "pair": shown["pair"]["id"], "choice": "first"}
        shown = httpx.post(address + "vote", json=sent).json()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    process, again = started()
    assert again != address  # another token
    resumed = httpx.post(again + "next", json={"voter": "Ann"}).json()
    assert (resumed["done"], resumed["total"], resumed["pair"]) == (2, total, shown["pair"])
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    process.stdout.close()
    assert os.stat(tmp_path / "votes.sqlite").st_mode & 0o077 == 0
