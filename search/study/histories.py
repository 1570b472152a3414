"""Reading the history of a training, which each claim on a trial writes into its folder."""

from __future__ import annotations

import json
from pathlib import Path

from trainer.history import Row, f_scores


def read_history(folder: Path) -> list[Row]:
    """The rows of a folder's history.json, epochs from 1 as whole numbers, in the file's order.

    Empty where there is no such file, and where it is no history: another tool's, or cut short.
    """
    try:
        rows = json.loads((folder / "history.json").read_text(encoding="utf-8"))
        f_scores(rows)
        return [{**row, "epoch": int(row["epoch"])} for row in rows]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return []
