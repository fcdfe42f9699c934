"""What `import alignkit` offers and the command line calls: train, judge, and the smaller commands."""

from alignkit.api.answers import chat_session, evaluate, generate, generate_file
from alignkit.api.data import data_lengths, data_overlap, data_prepare, show_rows
from alignkit.api.runs import Run
from alignkit.api.training import plan, start_up_checks, train
from alignkit.api.verdicts import judge, judge_file, ledger_export, ledger_stats, probe

__all__ = [
    "Run",
    "chat_session",
    "data_lengths",
    "data_overlap",
    "data_prepare",
    "evaluate",
    "generate",
    "generate_file",
    "judge",
    "judge_file",
    "ledger_export",
    "ledger_stats",
    "plan",
    "probe",
    "show_rows",
    "start_up_checks",
    "train",
]
