"""How tables look: no lines, nothing cut off at 80 columns. Knows nothing of what is in them."""

from __future__ import annotations

from rich.table import Column, Table


def plain_table(*headers: str, title: str | None = None, wrapping: str | None = None) -> Table:
    """A table whose columns keep their width, except for the one named by `wrapping`."""
    columns = [Column(header, no_wrap=header != wrapping, overflow="fold") for header in headers]
    return Table(
        *columns, title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="bold underline"
    )
