"""Where this project and the files beside it lie."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# 19 runs of the user's old trainer, oldest first: their configs, scores and learning rates
HISTORIES = ROOT / "tests" / "data" / "histories.json"
# not in the repository: tests that read from it are skipped where it is missing
SHARED = ROOT.parent / "shared"
