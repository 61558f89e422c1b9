"""A small table in HTML, for notebooks."""

import html
from collections.abc import Mapping


def html_table(title: str, rows: Mapping[str, str]) -> str:
    """Two columns under a title; all text is escaped."""
    cells = "".join(
        f'<tr><th style="text-align:left">{html.escape(name)}</th>'
        f'<td style="text-align:left">{html.escape(value)}</td></tr>'
        for name, value in rows.items()
    )
    return f"<table><caption><b>{html.escape(title)}</b></caption>{cells}</table>"
