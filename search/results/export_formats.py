"""A trial, or all trials, in the forms that other programs take."""

from __future__ import annotations

import csv
import io
import json
import pprint
from collections.abc import Mapping
from typing import Any

from search.results.trials import Results
from search.study.search_space import short
from search.study.training_metrics import COLUMNS
from trainer.cli import one_line
from trainer.config import Config, get, leaf_keys, value_text
from trainer.presets import PRESETS, preset_values
from trainer.streams import shown

# a cell that begins with one of these is run as a formula by a spreadsheet
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
# keys that trainer.train takes as flags
_FLAGS = {"data.root": "--data", "training.seed": "--seed", "runtime.device": "--device"}


def as_json(document: Mapping[str, Any]) -> str:
    """The same content as the YAML."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_python(document: Mapping[str, Any]) -> str:
    """A literal that `ast.literal_eval` reads."""
    return pprint.pformat(dict(document), sort_dicts=False, width=100) + "\n"


# --------------------------------------------------------------------------------- command line


def train_words(config: Config) -> list[str]:
    """The command that trains a config, with no file: words of `python -m trainer.train`.

    Besides what differs from the defaults it gives all that a preset would fill in, since which
    preset that is depends on the machine.
    """
    default, filled = Config(), _filled_by_presets(config.data.root)
    words = ["python", "-m", "trainer.train"]
    for key in leaf_keys():
        value = get(config, key)
        if value == get(default, key) and key not in filled:
            continue
        if key in _FLAGS:
            words += [_FLAGS[key], str(value)]
        else:
            words += ["--set", f"{short(key)}={value_text(value)}"]
    return words


def _filled_by_presets(root: str) -> set[str]:
    # train_images: with any number of them the epochs are among the keys
    return {key for name in PRESETS for key in preset_values(name, root=root, train_images=1)}


# ---------------------------------------------------------------------------------------- table


def table(results: Results) -> tuple[list[str], list[list[Any]]]:
    """Names of the columns and a row for each trial, by number, unrounded; None where unknown.

    The columns: trial, name, state, value, those of the seed's table, the parameters, seed, note.
    name: of the run, or of the configuration that a trial repeats. A parameter that is called as
    one of the others has `params_` before its name.
    """
    named = list(results.setup.specs()) if results.setup is not None else []
    params = dict.fromkeys([*named, *(name for one in results.outcomes for name in one.params)])
    before, after = ["trial", "name", "state", "value", *COLUMNS], ["seed", "note"]
    taken = {*before, *after}
    heads = [f"params_{name}" if name in taken else name for name in params]
    rows = [
        [
            *(one.number, one.label, one.state.name, one.value),
            *(one.metrics.get(name) for name in COLUMNS),
            *(one.params.get(name) for name in params),
            *(one.seed, one.note),
        ]
        for one in sorted(results.outcomes, key=lambda one: one.number)
    ]
    return [*before, *heads, *after], rows


def as_csv(results: Results) -> str:
    """`table` for a spreadsheet: one line of headings, one line a trial, no text that is run."""
    heads, rows = table(results)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([[_cell(item) for item in row] for row in (heads, *rows)])
    return text.getvalue()


def _cell(item: Any) -> Any:
    if not isinstance(item, str):
        return item
    # what is not seen may stand before an equals sign
    line = "".join(letter for letter in one_line(shown(item)) if letter.isprintable()).strip()
    return f"'{line}" if line.startswith(_FORMULA) else line
