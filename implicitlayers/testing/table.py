"""A table and a progress bar, with rich where it is installed and in plain text elsewhere."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

MARKS = {True: "holds", False: "FAILS", None: "–"}


def show(title: str, rows: Sequence[Any]) -> None:
    """Print name, verdict and detail of every row."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        width = max(len(row.name) for row in rows)
        print(title)
        for row in rows:
            print(f"  {row.name:<{width}}  {MARKS[row.holds]}  {row.detail}")
        return
    styles = {True: "green", False: "bold red", None: "dim"}
    drawn = Table("property", "", "looked at", title=title, box=None, title_justify="left")
    for row in rows:
        drawn.add_row(row.name, MARKS[row.holds], row.detail, style=styles[row.holds])
    Console().print(drawn)


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """A bar that vanishes when done; yields what to call after each step."""
    try:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        yield lambda name: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("checking", total=total)

        def advance(name: str) -> None:
            bar.update(task, advance=1, description=f"{name} done")

        yield advance
