"""What functions give in Python, as a notebook shows it: rows and figures. All text in them is escaped."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from alignkit.display import shortened

if TYPE_CHECKING:
    import polars

_SHOWN_ROWS = 20
_SHOWN_CHARACTERS = 500


class Table(list[dict[str, Any]]):
    """Rows as dicts; a notebook shows the first 20 as a table."""

    def to_polars(self) -> polars.DataFrame:
        """The rows as a data frame."""
        import polars

        return polars.DataFrame(list(self), infer_schema_length=None)

    def _repr_html_(self) -> str:
        names = list(dict.fromkeys(name for row in self[:_SHOWN_ROWS] for name in row))
        more = f"<p>and {len(self) - _SHOWN_ROWS:,} more rows</p>" if len(self) > _SHOWN_ROWS else ""
        return html_table(names, [[row.get(name) for name in names] for row in self[:_SHOWN_ROWS]]) + more


class Figures(dict[str, Any]):
    """Figures by their name; a notebook shows those that are one number or text."""

    def _repr_html_(self) -> str:
        rows = [[name, value] for name, value in self.items() if isinstance(value, str | int | float)]
        return html_table(["figure", "value"], rows)


def html_table(names: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table as HTML, every text escaped and cut to 500 characters."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{_cell(value)}</td>" for value in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and all(isinstance(part, Mapping) and "content" in part for part in value):
        value = "\n".join(f"{part.get('role', '')}: {part['content']}" for part in value)
    return html.escape(shortened(str(value), _SHOWN_CHARACTERS)).replace("\n", "<br>")
