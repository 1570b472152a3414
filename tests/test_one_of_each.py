"""What must exist once: each test fails where a second copy of a rule appears."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import pickle
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

import space
from search.study import attributes, lineages
from search.study.attributes import TrialAttributes, attributes_of
from search.study.identity import differing_facts
from search.study.run_folders import read_history
from search.study.setup import Setup
from storage import counting
from tests.support.paths import ROOT
from tests.support.studies import setup_of

SOURCES = [
    path for room in ("search", "storage", "scripts") for path in (ROOT / room).rglob("*.py")
]


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def places(pattern: str, *rooms: str) -> list[str]:
    """Files of these rooms in which a line matches, once for each such line."""
    return [
        str(path.relative_to(ROOT))
        for room in rooms
        for path in sorted((ROOT / room).rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(pattern, line)
    ]


# ------------------------------------------------------------------------------ Optuna's insides

INTERNALS = ROOT / "storage" / "optuna_internals.py"
# the classes below its own
STORES = (ROOT / "storage" / "patience.py", ROOT / "storage" / "rdb.py")
_CLASSES = (optuna.Study, optuna.Trial, FrozenTrial, RDBStorage)
# of RDBStorage also what it sets itself: `self._version_manager = ...`
PRIVATE = {
    name
    for cls in _CLASSES
    for name in (*dir(cls), *re.findall(r"self\.(_\w+)", inspect.getsource(cls)))
    if re.fullmatch(r"_[a-z]\w*", name)
}


def private_uses(path: Path) -> Iterator[str]:
    """What a file takes of Optuna that is private: attributes, overridden methods, imports."""
    for node in nodes(path):
        if isinstance(node, ast.Attribute) and node.attr in PRIVATE:
            # an attribute of that name on an object of our own
            own = isinstance(node.value, ast.Name) and node.value.id == "self"
            if not own or path in STORES:
                yield node.attr
        elif isinstance(node, ast.FunctionDef) and path in STORES:
            if node.name in PRIVATE:
                yield node.name
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("optuna"):
            names = [*str(node.module).split("."), *(alias.name for alias in node.names)]
            yield from (name for name in names if name.startswith("_"))


def test_one_module_reaches_into_optuna() -> None:
    assert {"_study_id", "_trial_id", "_storage", "_version_manager", "_get_trials"} <= PRIVATE
    assert list(private_uses(INTERNALS))
    found = {str(path.relative_to(ROOT)): list(private_uses(path)) for path in SOURCES}
    assert {path for path, names in found.items() if names} == {str(INTERNALS.relative_to(ROOT))}


# ------------------------------------------------------------------------------------ attributes

KEYS = {
    value
    for name, value in vars(attributes).items()
    if name.isupper() and not name.startswith("_") and isinstance(value, str)
} | {known.name for known in fields(TrialAttributes)}


def loose_keys(path: Path) -> Iterator[str]:
    """Literal keys with which a file reads or writes attributes."""
    for node in nodes(path):
        receiver, literals = "", list[ast.expr]()
        if isinstance(node, ast.Subscript):
            receiver, literals = ast.unparse(node.value), [node.slice]
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.In, ast.NotIn)):
            receiver, literals = ast.unparse(node.comparators[0]), [node.left]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            receiver, literals = ast.unparse(node.func), node.args[:2]
        if re.search(r"attrs?\b", receiver):
            for literal in literals:
                if isinstance(literal, ast.Constant) and literal.value in KEYS:
                    yield f"{path.relative_to(ROOT)}:{node.lineno} {literal.value}"


def test_attributes_are_named_by_constants() -> None:
    known = ROOT / "search" / "study" / "attributes.py"
    rest = [path for path in (ROOT / "search").rglob("*.py") if path != known]
    assert [line for path in rest for line in loose_keys(path)] == []


def test_the_check_of_attributes_sees_each_form(tmp_path: Path) -> None:
    text = 'row.user_attrs["note"]; a.attrs.get("seed"); "first" in t.user_attrs\n'
    text += 'trial.set_user_attr("reason", 1); storage.set_trial_user_attr(3, "stopped", 1)\n'
    # another dictionary's keys are its own
    text += 'entry.get("note"); entry["seed"]\n'
    path = tmp_path / "x.py"
    path.write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "ROOT", tmp_path)
        found = {line.split()[1] for line in loose_keys(path)}
    assert found == {"note", "seed", "first", "reason", "stopped"}


def test_a_typed_attribute_has_the_key_that_is_stored() -> None:
    constants = {value for name, value in vars(attributes).items() if name.isupper()}
    table = {"best_val_f", "best_epoch", "still_rising"}
    assert {known.name for known in fields(TrialAttributes)} <= constants | table
    stored = {"seed": 7, "note": "n", "expect": [0.1, 0.2], "cancelled": True, "of_somebody": 1}
    read = attributes_of(stored)
    assert (read.seed, read.note, read.expect, read.cancelled) == (7, "n", [0.1, 0.2], True)
    assert (read.exceptions, read.stopped, read.runtime) == (0, False, None)


# ------------------------------------------------------------------------------- counted trials


def test_one_rule_says_which_trials_count() -> None:
    assert set(counting.COUNTED_STATES) == {"COMPLETE", "PRUNED"}
    marks = (attributes.CONTINUES, attributes.REPEATS, attributes.COPIED_FROM)
    assert marks == counting.UNCOUNTED
    for key in ("continues", "repeats", "copied_from"):
        assert places(rf'= .*"{key}"', "storage", "search") == ["storage/counting.py"]
    for state in TrialState:
        attrs = [{}, *({key: 0} for key in counting.UNCOUNTED)]
        rows = [create_trial(state=state, user_attrs=own, value=_value(state)) for own in attrs]
        counted = state.name in counting.COUNTED_STATES
        assert [lineages.counts(row) for row in rows] == [counted, False, False, False]


def _value(state: TrialState) -> float | None:
    return 0.5 if state == TrialState.COMPLETE else None


# ----------------------------------------------------------------------------------- lease times


def test_one_default_of_each_lease_time() -> None:
    assert places(r"\b(BEAT_S|GRACE_S) = ", "storage", "search") == ["search/study/names.py"] * 2
    default = r"\b(beat_s|grace_s|every_s)\b[^=(,]*= *\d"
    assert places(default, "storage", "search", "trainer") == []
    lease = ["search/study/shared_state.py"] * 2
    assert places(r"_s: float = (BEAT_S|GRACE_S)", "storage", "search") == lease


# ---------------------------------------------------------------------------------------- words


def test_figures_are_plots_and_metrics_numbers() -> None:
    assert places(r"\.figures\.get\(|\.figures\[\"|def figures_of|training_figures", "search") == []


# ------------------------------------------------------------------------ histories, best epochs


def test_one_reader_of_histories() -> None:
    reading = r"json\.loads?\(.*history\.json|history\.json.*read_"
    assert places(reading, "search") == ["search/study/run_folders.py"]


def test_a_history_is_read_or_there_is_none(tmp_path: Path) -> None:
    file = tmp_path / "history.json"
    assert read_history(tmp_path) == []
    file.write_text('[{"epoch": 1.0, "val_f": 0.5, "lr": 0.1}]')
    assert read_history(tmp_path) == [{"epoch": 1, "val_f": 0.5, "lr": 0.1}]
    for text in (
        '[{"epoch": 1',
        '{"epoch": 1}',
        "3",
        '[{"val_f": 0.5}]',
        '[{"epoch": 1, "val_f": []}]',
    ):
        file.write_text(text)
        assert read_history(tmp_path) == [], text


def test_one_rule_says_which_epoch_is_the_best() -> None:
    highest = r"max\(.*lambda (\w+): \((\w+)\[(\1|\"val_f\")\], -"
    assert places(highest, "search", "trainer") == ["trainer/history.py"]


# ------------------------------------------------------------------------------ setups of studies


def test_one_rule_says_whose_scores_compare() -> None:
    facts = r"\[\"fingerprint\"\].*[!=]=|\.metric [!=]= \w+\.|\.epochs\) ==|grids\[0\] !="
    # a result's metric is also that of imported runs, which have no setup
    assert places(facts, "search") == ["search/results/study_comparison.py"]
    one = setup_of()
    data = {**one.data, "fingerprint": "another"}
    size = {**one.base, "data": {**one.base["data"], "image_size": 33}}
    others = {
        "data": dataclasses.replace(one, data=data),
        "metric": dataclasses.replace(one, metric="another"),
        "grid": dataclasses.replace(one, base=size),
        "epochs": dataclasses.replace(one, epochs=one.epochs + 1),
    }
    for fact, other in others.items():
        assert differing_facts(one, one, *others) == []
        assert differing_facts(one, other, *others) == [fact]
    # where they lie is no difference
    assert (
        differing_facts(one, dataclasses.replace(one, data={**one.data, "root": "x"}), "data") == []
    )


def test_a_space_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    setup, parsed = setup_of(), list[str]()
    read = space.from_json
    monkeypatch.setattr(space, "from_json", lambda spec: (parsed.append("one"), read(spec))[1])
    first = setup.specs()
    assert len(parsed) == len(setup.space)
    first.clear()
    assert list(setup.specs())
    assert len(parsed) == len(setup.space)
    # what was parsed is no part of a setup
    fresh = Setup.from_json(setup.to_json())
    assert fresh == setup == pickle.loads(pickle.dumps(setup))
    assert dataclasses.replace(setup, space={}).specs() == {}
