"""Who wins: flags and `--set`, then a preset asked for by name, then the file, then defaults."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.config.checks import config_from_dict, validated
from trainer.config.files import load_yaml, read_raw
from trainer.config.keys import dig, key_path, put, spelt, takes_text
from trainer.config.sections import Config
from trainer.errors import ConfigError
from trainer.presets import SYNTHETIC, preset_values


@dataclass(frozen=True)
class Composed:
    """A config, what the user should know of how it came to be, and its preset's name."""

    config: Config
    notes: list[str] = field(default_factory=list)
    preset: str | None = None


def parse_set(text: str) -> tuple[str, Any]:
    """`key=value` with the value read as YAML. Raises ConfigError."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"--set {text!r} is not key=value, for example --set dice_weight=1.5")
    return name.strip(), read_value(name.strip(), value, f"--set {name.strip()}")


def read_value(name: str, text: str, where: str) -> Any:
    """A key's value from a flag, read as YAML; text that is not in quotes as it stands.

    where: the flag, for messages. Raises ConfigError.
    """
    if takes_text(name) and not text.strip().startswith(("'", '"')):
        return text.strip()
    return load_yaml(text, where)


def compose(
    *,
    file: Path | None = None,
    preset: str | None = None,
    default_preset: str | None = None,
    sets: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    train_images: int | None = None,
    keep: Collection[str] = (),
) -> Composed:
    """The config to use: flags and --set, then a named preset, then the file, then defaults.

    flags: key -> value; None means that the flag is absent and overrides nothing.
    default_preset: fills what neither file nor flags give; only `preset` was asked for by name.
    train_images: size of the training part; a preset's steps become epochs by it.
    keep: searched or fixed keys, which stay the file's under a preset.
    Raises ConfigError.
    """
    notes: list[str] = []
    from_file: dict[str, Any] = {}
    if file is not None:
        from_file, notes = read_raw(file)
        config_from_dict(from_file, str(file))  # so that a mistake names the file
    over: dict[tuple[str, ...], Any] = {}
    for name, value in (flags or {}).items():
        if value is not None:
            over[key_path(name)] = value
    for text in sets:
        name, value = parse_set(text)
        over[key_path(name)] = value
    over = _checked(over)

    root = over.get(("data", "root")) or dig(from_file, ("data", "root")) or SYNTHETIC
    data = copy.deepcopy(from_file)
    named = preset or default_preset
    if named is not None:
        batch = over.get(("data", "batch_size"))
        if preset is None:
            batch = batch or dig(from_file, ("data", "batch_size"))
        values = preset_values(named, root=str(root), train_images=train_images, batch_size=batch)
        kept = {key_path(name) for name in (*keep, *_searched(from_file))}
        if preset is not None:
            notes += _impose(data, from_file, named, values, kept, over)
        else:
            for name, value in values.items():
                path = key_path(name)
                if dig(data, path) is None:
                    put(data, path, value)
    for path, value in over.items():
        put(data, path, value)
    return Composed(config_from_dict(data, "config"), notes, named)


def _checked(over: Mapping[tuple[str, ...], Any]) -> dict[tuple[str, ...], Any]:
    """Flags' values as their keys take them: a preset computes with some of them."""
    alone: dict[str, Any] = {}
    for path, value in over.items():
        put(alone, path, value)
    validated(alone, "config")
    return {path: spelt(".".join(path), value) for path, value in over.items()}


def _searched(data: Mapping[str, Any]) -> list[str]:
    record = data.get("search") or {}
    parts = [record.get(name) for name in ("searched", "fixed")]
    # lists and mappings of names, unless the file was edited
    return [str(name) for part in parts if isinstance(part, (list, dict)) for name in part]


def _impose(
    data: dict[str, Any],
    from_file: Mapping[str, Any],
    preset: str,
    values: Mapping[str, Any],
    kept: Collection[tuple[str, ...]],
    over: Mapping[tuple[str, ...], Any],
) -> list[str]:
    """Put a named preset's values over the file's, in place; returns `key: old -> new` lines."""
    notes = []
    if data.pop("runtime", None) is not None:
        notes.append(f"preset {preset}: the file's runtime section is dropped")
    for name, value in values.items():
        path = key_path(name)
        if path in kept:
            continue
        old = dig(data, path)
        put(data, path, value)
        if old is not None and old != value and path not in over:
            notes.append(f"preset {preset}: {'.'.join(path)}: {old} -> {value}")
    epochs, t_0 = ("training", "epochs"), ("training", "scheduler_params", "T_0")
    old_t_0 = dig(from_file, t_0)
    if old_t_0 is not None and t_0 not in over:
        default = Config().training.epochs
        before = dig(from_file, epochs) or default
        # a preset leaves them open where the number of pictures is not known yet
        after = over.get(epochs) or dig(data, epochs) or default
        share = old_t_0 * after / before
        new = round(share) if math.isclose(share, round(share), abs_tol=1e-9) else share
        if new != old_t_0:
            put(data, t_0, new)
            notes.append(
                f"preset {preset}: {'.'.join(t_0)}: {old_t_0} -> {new:g}"
                " (the same number of cycles)"
            )
    return notes
