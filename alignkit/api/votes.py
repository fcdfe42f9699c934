"""Let people vote on two models' answers, and use what they voted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alignkit.config import file as config_file
from alignkit.progress import Progress, Silent

if TYPE_CHECKING:
    from alignkit.voting.rows import Exported, Imported
    from alignkit.voting.server import VoteServer


def vote(
    run: str | Path | None = None,
    *,
    vs: str | None = None,
    name: str = "",
    listen: str = "127.0.0.1",
    port: int = 0,
    favour: Sequence[str] = (),
    ready: Callable[[VoteServer], None] = lambda server: None,
    import_from: str | Path | None = None,
    config: Path | None = None,
    set: Sequence[str] = (),
    progress: Progress | None = None,
    **options: object,
) -> Imported | None:
    """Serve a page on which people vote on two models' answers, until it is interrupted.

    Args:
        name: the voter's name that the page begins with, where this machine alone can open it.
        listen: an address of this machine; another than the loopback one opens the page to its network.
        port: 0 takes a free one.
        favour: judges; pairs on which their scores in the ledger disagree are asked about sooner.
        ready: called with the server, whose `address` is to be opened, before it serves.
        import_from: CSV or JSONL of votes cast elsewhere (first, second, choice, voter); they are kept, nothing is
            served.
        options: data, num_prompts, temperature, seed, ..., as `judge` takes them.

    Returns:
        How many votes of a file are new; None where the page was served.
    """
    from alignkit.scoring.ledger import open_ledger
    from alignkit.voting.ballots import Ballots, name_of
    from alignkit.voting.poll import make_poll
    from alignkit.voting.rows import take_in
    from alignkit.voting.server import VoteServer

    given = dict(options) | ({"vs": vs} if vs is not None else {})
    settings = config_file.judge_settings(given, config, settings=set)
    starting_name = name_of(name) if name else ""
    poll = make_poll(
        None if run is None else str(run),
        settings,
        data_given="data" in given,
        progress=progress or Silent(),
        judges=favour,
    )
    ballots = Ballots(poll, open_ledger())
    if import_from is not None:
        return take_in(ballots, Path(import_from))
    server = VoteServer(ballots, name=starting_name, listen=listen, port=port)
    ready(server)
    server.run()
    return None


def vote_export(path: str | Path) -> Exported:
    """Write every pair that people decided as preference rows, for `train dpo --data FILE`.

    Raises:
        UsageError: there are no votes, or the file is there already.
    """
    from alignkit.scoring.ledger import open_ledger
    from alignkit.voting.rows import export

    return export(open_ledger(), Path(path))
