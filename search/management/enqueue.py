"""Trials that a user asks for: `--enqueue FILE.yaml` and `queue add`.

The file is a YAML list of `{params: {name: value}, seed?, note?, priority?, expect?}`. What an
entry does not name it takes from the study's base config. Optuna ignores unknown names and takes
values outside a range, so everything is checked here first.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from search.study.attributes import CANCELLED, ENQUEUED, EXPECT, NOTE, PRIORITY, SEED
from search.study.requests import marked
from search.study.search_space import Value, canonical, inside, is_number
from search.study.setup import Setup
from search.trainers.configs import values_for
from storage.optuna_internals import id_of_trial, storage_of
from trainer.config import read_yaml, spelt, takes_text
from trainer.errors import ConfigError
from trainer.notation import KeyPath, decimal

_KEYS = ("params", "seed", "note", "priority", "expect")


@dataclass(frozen=True)
class Request:
    """One asked-for trial.

    params: only what the user named. priority: higher first. expect: the user's own forecast
    of the score, low and high in [0, 1], kept for the report.
    """

    params: dict[str, Any]
    seed: int | None = None
    note: str | None = None
    priority: float = 0
    expect: tuple[float, float] | None = None


def read_requests(path: Path) -> list[Request]:
    """The entries of a file. Raises ConfigError naming the file, the entry and the fix."""
    data = read_yaml(path, _holds_text)
    if not isinstance(data, list):
        raise ConfigError(f"{path}: a list is needed, as in `- params: {{dice_weight: 1.5}}`")
    return [parse_request(entry, f"{path}: entry {n}") for n, entry in enumerate(data, 1)]


def _holds_text(path: KeyPath) -> bool:
    return path == ("note",) or (path[:1] == ("params",) and takes_text(path[-1]))


def parse_request(entry: object, where: str) -> Request:
    """One entry, checked as far as that goes without a study. Raises ConfigError."""
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{where}: needs `params: {{name: value}}`, got {entry!r}")
    for key in entry:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(_KEYS)}"
            raise ConfigError(f"{where}: unknown key {key}: {hint}")
    params = entry.get("params", {})
    if not isinstance(params, Mapping) or not all(isinstance(name, str) for name in params):
        raise ConfigError(f"{where}: params: {params!r} is no mapping: write {{name: value}}")
    seed = _spelt(entry.get("seed"))
    if seed is not None and not (is_number(seed) and isinstance(seed, int) and 0 <= seed < 2**63):
        raise ConfigError(f"{where}: seed: {seed!r}: a whole number from 0 on is needed")
    note = entry.get("note")
    if note is not None and not isinstance(note, str):
        raise ConfigError(f"{where}: note: {note!r} is no text: put it in quotes")
    try:
        (note or "").encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{where}: note: {note!r} is not all in UTF-8: write it anew") from None
    priority = _spelt(entry.get("priority", 0))
    if not is_number(priority):
        raise ConfigError(f"{where}: priority: {priority!r}: a number is needed, higher runs first")
    return Request(dict(params), seed, note, priority, _expectation(entry.get("expect"), where))


def _spelt(value: Any) -> Any:
    """A number also where it stands as text."""
    number = decimal(value) if isinstance(value, str) else value
    return value if number is None else number


def complete(request: Request, setup: Setup, where: str = "enqueued") -> dict[str, Value]:
    """Every searched parameter of the trial. Raises ConfigError for invalid names or values."""
    specs = setup.specs()
    values, named = dict(setup.defaults), dict[str, str]()
    for written, value in request.params.items():
        try:
            name = canonical(written, list(specs)) if setup.program is None else written
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        if name not in specs:
            near = difflib.get_close_matches(name, specs, n=1)
            hint = f"did you mean {near[0]}?" if near else "leave it out, or start another"
            hint += "" if near else f" study with --range {name}=low:high"
            raise ConfigError(f"{where}: {name} is not searched in study {setup.name}: {hint}")
        if name in named:
            raise ConfigError(
                f"{where}: {written} and {named[name]} are one parameter: leave one of them out"
            )
        named[name] = written
        value = spelt(name, value) if setup.program is None else value
        values[name] = inside(name, value, specs[name], what=f"{where}: ")
    try:
        values_for(setup, values, seed=0)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return values


def enqueue(
    study: optuna.Study,
    setup: Setup,
    requests: Sequence[Request],
    *,
    where: str = "enqueued",
    again: bool = False,
) -> list[int]:
    """Put the requests in the queue; the numbers of the trials that were made.

    All are checked before the first is written. The same request is not enqueued a second time by
    a run that is repeated, also after an interruption; again: it is (`queue add`). Raises
    ConfigError.
    """
    values = []
    for number, request in enumerate(requests, 1):
        entry = where if len(requests) == 1 else f"{where}: entry {number}"
        values.append(complete(request, setup, entry))
    seen: dict[str, int] = {}
    rows = []
    for request, params in zip(requests, values, strict=True):
        text = json.dumps(
            [request.params, request.seed, request.note, request.priority, request.expect],
            sort_keys=True,
            default=str,
        )
        # the same entry twice in one file is meant twice
        seen[text] = seen.get(text, 0) + 1
        key = hashlib.sha256(f"{text} {seen[text]}".encode()).hexdigest()[:16]
        attrs: dict[str, Any] = {
            ENQUEUED: uuid.uuid4().hex[:16] if again else key,
            PRIORITY: request.priority,
        }
        if request.seed is not None:
            attrs[SEED] = request.seed
        if request.note is not None:
            attrs[NOTE] = request.note
        if request.expect is not None:
            attrs[EXPECT] = list(request.expect)
        rows.append((params, attrs))
    return put_in_queue(study, ENQUEUED, rows)


def put_in_queue(
    study: optuna.Study, mark: str, rows: Sequence[tuple[Mapping[str, Value], Mapping[str, Any]]]
) -> list[int]:
    """Enqueue complete configurations, each once by its attribute `mark`; the new numbers.

    rows: parameters and user attributes.
    """
    present = marked(study, mark)
    before = {trial.number for trial in study.get_trials(deepcopy=False)}
    for params, attrs in rows:
        if attrs[mark] not in present:
            study.enqueue_trial(dict(params), user_attrs=dict(attrs))
    _settle(study, mark)
    wanted = {attrs[mark] for _, attrs in rows}
    return [
        trial.number
        for trial in study.get_trials(deepcopy=False)
        if trial.number not in before
        and trial.user_attrs.get(mark) in wanted
        and trial.state != TrialState.FAIL
    ]


def _settle(study: optuna.Study, mark: str) -> None:
    """Two runs that enqueue at the same moment make doubles: the later rows are cancelled."""
    first = marked(study, mark)
    storage = storage_of(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        key = trial.user_attrs.get(mark)
        if key is not None and first[key].number != trial.number:
            storage.set_trial_user_attr(id_of_trial(trial), CANCELLED, "enqueued twice at once")
            storage.set_trial_state_values(id_of_trial(trial), TrialState.FAIL)


def _expectation(value: object, where: str) -> tuple[float, float] | None:
    if value is None:
        return None
    fix = "write [low, high], scores from 0 to 1"
    ends = [_spelt(end) for end in value] if isinstance(value, list) else []
    if len(ends) != 2 or not all(is_number(end) for end in ends):
        raise ConfigError(f"{where}: expect: {value!r}: {fix}")
    low, high = map(float, ends)
    if not 0 <= low <= high <= 1:
        raise ConfigError(f"{where}: expect: [{low:g}, {high:g}]: {fix}")
    return low, high
