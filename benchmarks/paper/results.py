"""A table of results that grows row by row: what is in it need not be computed again."""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, str]


class ResultsFile:
    """A CSV file with one row for each setting and what was measured there.

    Args:
        path: of the file, which need not exist.
        setting: names of the columns that say what a row is about.
        measured: names of the others.

    Attributes:
        rows: all rows, texts by column.

    Raises:
        ValueError: the file has other columns.
    """

    def __init__(self, path: Path, setting: Sequence[str], measured: Sequence[str]) -> None:
        self.path = path
        self.setting = tuple(setting)
        self.columns = (*setting, *measured)
        self.rows: list[Row] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                if set(reader.fieldnames or ()) != set(self.columns):
                    raise ValueError(
                        f"{path}: has columns {reader.fieldnames}, expected {list(self.columns)};"
                        " move it away or give another --output"
                    )
                self.rows = list(reader)

    def of(self, setting: Mapping[str, Any]) -> list[Row]:
        """The rows of this setting: one, or none."""
        key = {name: _text(setting[name]) for name in self.setting}
        return [row for row in self.rows if key.items() <= row.items()]

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows and write the file, the whole or nothing of it."""
        self.rows += [{name: _text(row[name]) for name in self.columns} for row in rows]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(f".{self.path.name}.unfinished")
        with unfinished.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
        os.replace(unfinished, self.path)


def _text(value: Any) -> str:
    """Numbers with all digits that matter, None as nothing."""
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
