"""A progress bar for what takes longer than a few seconds."""

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

Item = TypeVar("Item")


def with_progress(items: Sequence[Item], description: str, patience: float = 3.0) -> Iterator[Item]:
    """Yield ``items``, with a progress bar (stderr, terminals only) once it has taken ``patience`` seconds."""
    console = Console(stderr=True)
    bar = Progress(console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task(description, total=len(items))
    show_from = time.monotonic() + patience
    try:
        for item in items:
            yield item
            bar.advance(task)
            if time.monotonic() > show_from:
                bar.start()  # does nothing when it has started already
    finally:
        bar.stop()
