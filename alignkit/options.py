"""What every option has in common, whoever declares it: known names, finite numbers, sizes a computer can hold."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

MAX_WHOLE = 2**31 - 1
MAX_SEED = 2**63 - 1  # what numpy's and torch's generators take
MAX_NUMBER = 1e9  # a timeout of 31 years; larger ones overflow timers, and no option means anything by them


class Options(BaseModel):
    """Options of a section, a method or a judge. Unknown names, nan, inf and absurd sizes are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _within_reach(cls, value: Any, info: ValidationInfo) -> Any:
        most = MAX_SEED if info.field_name == "seed" else MAX_WHOLE
        for number in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(number, int) and abs(number) > most:
                raise ValueError(f"at most {most:,} is allowed")
            if isinstance(number, float) and abs(number) > MAX_NUMBER:
                raise ValueError(f"at most {MAX_NUMBER:g} is allowed")
        return value
