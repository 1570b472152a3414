"""Banks of recorded training curves: what the pruner starts from, and what benches replay.

A bank is a JSON list of objects with the keys of `Recorded`, of trainings that ran to their end.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from trainer.errors import UserError
from trainer.files import atomic_write_text

_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Score = Annotated[float, Field(ge=0, le=1)]
_Count = Annotated[int, Field(ge=0)]
_Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Recorded:
    """One whole training.

    config: number of its parameters' configuration; the same in trainings that differ in nothing
    but the seed. val_f: validation f_score after each epoch, in [0, 1]; lr: learning rate of each
    epoch's last step.
    """

    config: _Count
    seed: _Count
    params: dict[str, _Finite | int | str | bool]
    val_f: tuple[_Score, ...]
    lr: tuple[_Rate, ...]

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)


_CURVES = TypeAdapter(tuple[Recorded, ...])


def read_bank(path: Path) -> tuple[Recorded, ...]:
    """The curves of a bank, all of one length. Raises UserError naming file, entry and fix."""
    try:
        return _parsed(Path(path).read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; scripts/record_bank makes one") from None
    except ValidationError as error:
        raise UserError(f"{path}: {_first_mistake(error)}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def write_bank(path: Path, curves: Sequence[Recorded]) -> None:
    """Write a bank, one line a curve, whole or not at all.

    Raises ValueError for what `read_bank` would not take.
    """
    lines = ",\n".join(json.dumps(asdict(curve), allow_nan=False) for curve in curves)
    text = f"[\n{lines}\n]\n"
    _parsed(text.encode())
    atomic_write_text(path, text)


def seed_deviation(curves: Sequence[Recorded]) -> float | None:
    """Standard deviation of the best score between seeds, pooled over repeated configurations.

    None where no configuration has two seeds.
    """
    bests: dict[int, list[float]] = {}
    for curve in curves:
        bests.setdefault(curve.config, []).append(max(curve.val_f))
    freedom = sum(len(scores) - 1 for scores in bests.values())
    squares = sum((score - fmean(scores)) ** 2 for scores in bests.values() for score in scores)
    return math.sqrt(squares / freedom) if freedom else None


def _parsed(text: bytes) -> tuple[Recorded, ...]:
    curves = _CURVES.validate_json(text)
    _check_together(curves)
    return curves


def _check_together(curves: Sequence[Recorded]) -> None:
    if not curves:
        raise ValueError("no curves: a bank needs at least one")
    epochs = len(curves[0].val_f)
    params: dict[int, dict[str, float | int | str | bool]] = {}
    seen = set()
    for number, curve in enumerate(curves, 1):
        where = f"entry {number} (config {curve.config}, seed {curve.seed})"
        for name, count in (("val_f", len(curve.val_f)), ("lr", len(curve.lr))):
            if count != epochs or count == 0:
                raise ValueError(
                    f"{where}: {name} has {count} numbers, the first entry's val_f {epochs}: one"
                    " number per epoch is needed, and as many epochs everywhere"
                )
        if params.setdefault(curve.config, curve.params) != curve.params:
            raise ValueError(f"{where}: other params than before: give it a config of its own")
        if (curve.config, curve.seed) in seen:
            raise ValueError(f"{where}: twice in the bank; leave one out")
        seen.add((curve.config, curve.seed))


def _first_mistake(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    if not first["loc"]:
        return f"no bank of curves ({first['msg']}): a JSON list of objects is needed"
    entry, *keys = first["loc"]
    where = f"entry {int(entry) + 1}: " + "".join(f"{key}: " for key in keys[:1])
    got = "" if first["type"] == "missing" else f", got {str(first['input'])[:60]}"
    return f"{where}{first['msg']}{got}"
