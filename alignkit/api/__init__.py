"""What the command line calls, and Python users through python.py: one function per command, each thin.

In: the options of the command, by their Python names, and config=, set= and like= where it has them. Out: a `Run`, a
`Verdict`, rows as dicts; nothing is printed. Errors are `AlignkitError`s, which say what to do.

training.py trains and plans, verdicts.py judges and probes, votes.py asks people, answers.py generates and evaluates,
exports.py takes a model home, data.py shows, audits and prepares rows, runs.py reads a run's folder. python.py is what
`import alignkit` offers: the same with objects in the place of names (rows.py, tables.py).
"""

from alignkit.api.answers import chat_session, evaluate, generate, generate_file
from alignkit.api.data import SHOWN_ROWS, data_audit, data_lengths, data_overlap, data_prepare, show_rows
from alignkit.api.exports import export
from alignkit.api.runs import Run, serve_report, write_report
from alignkit.api.tournaments import tournament
from alignkit.api.training import plan, start_up_checks, train
from alignkit.api.verdicts import judge, judge_file, ledger_export, ledger_stats, probe
from alignkit.api.votes import vote, vote_export

__all__ = [
    "SHOWN_ROWS",
    "Run",
    "chat_session",
    "data_audit",
    "data_lengths",
    "data_overlap",
    "data_prepare",
    "evaluate",
    "export",
    "generate",
    "generate_file",
    "judge",
    "judge_file",
    "ledger_export",
    "ledger_stats",
    "plan",
    "probe",
    "serve_report",
    "show_rows",
    "start_up_checks",
    "tournament",
    "train",
    "vote",
    "vote_export",
    "write_report",
]
