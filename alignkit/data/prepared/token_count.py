"""The account of prepared rows as a whole: are too many skipped, too many cut?"""

from __future__ import annotations

from alignkit.data.prepared.tokens import FREE_CUTS, Prepared, check_skipped, summary
from alignkit.errors import InputError


def check(prepared: Prepared, *, max_length: int, truncation: str | None, max_skipped: float) -> None:
    """Refuse an account that `tokens.prepare` would refuse.

    Raises:
        InputError: more rows are cut than may be without a named policy, more are skipped than `max_skipped`, or none
            can be used.
    """
    total = len(prepared.trees) + len(prepared.skipped) + prepared.num_dropped
    cut = prepared.num_cut
    if cut and (truncation == "stop" or (truncation is None and cut > FREE_CUTS * total)):
        raise InputError(
            f"{cut} of {total} rows ({100 * cut / total:.1f} %) are longer than --max-length {max_length} "
            "tokens; name what is done with them: --truncation cut-completion or drop-row, or raise --max-length"
        )
    check_skipped(prepared.skipped, total, max_skipped)
    if total and not prepared.trees:
        why = summary(prepared.skipped) or "all were dropped as too long"
        raise InputError(f"none of the {total} rows can be used: {why}")
