"""A training program of the user's, as a study remembers it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# seconds between asking a command to end and ending it
STOP_GRACE_S = 10.0
SCORE = "score"


@dataclass(frozen=True)
class Program:
    """What trains instead of our own trainer.

    kind: "command" or "function". call: the command line, or package.module:function. folder: where
    the user started it. format: of its config. metric: what its score is; minimize: lower is
    better, so the study keeps the negative. history, score_key, pattern: how a command tells its
    scores, as the flags of these names; none: by its reports. resume_file: glob of what it goes on
    from. seed_key: key of its config that takes the seed; None: a placeholder or argument does, if
    seeded. only_if: parameter -> key -> value (or values) with which alone it has a meaning.
    """

    kind: str
    call: str
    folder: str
    format: str = "yaml"
    metric: str = SCORE
    minimize: bool = False
    history: str | None = None
    score_key: str | None = None
    pattern: str | None = None
    resume_file: str | None = None
    seed_key: str | None = None
    seeded: bool = False
    stop_grace_s: float = STOP_GRACE_S
    epoch_timeout_s: float | None = None
    only_if: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def sign(self) -> int:
        """What a score is multiplied with, so that higher is better."""
        return -1 if self.minimize else 1

    @property
    def label(self) -> str:
        """What the study's values are called: `-val_loss` where lower is better."""
        return f"-{self.metric}" if self.minimize else self.metric

    @property
    def takes_seeds(self) -> bool:
        """Whether a training's seed reaches the program."""
        return self.seeded or self.seed_key is not None

    @property
    def name(self) -> str:
        """A short one, for a study that the user does not name.

        >>> Program("command", "python src/main.py --config {config}", "/x").name
        'main'
        >>> Program("function", "package.fits:train", "/x").name
        'train'
        """
        if self.kind == "function":
            return self.call.rpartition(":")[2]
        words = [word for word in self.call.split() if word[:1] not in "-{"]
        scripts = [word for word in words if word.endswith(".py")] or words
        return scripts[0].rpartition("/")[2].removesuffix(".py")

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Program:
        """From a study's attribute; keys of later versions are left out."""
        names = {known.name for known in dataclasses.fields(cls)}
        return cls(**{name: item for name, item in stored.items() if name in names})
