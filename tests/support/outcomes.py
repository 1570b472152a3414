"""Trials made by hand, for what judges them: their scores, settings and curves as a test wants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from search.results.evidence import Evidence
from search.results.findings.every_finding import TOPICS, findings
from search.results.trials import Outcome, Results
from search.study import training_metrics
from search.study.search_space import distribution
from search.study.setup import Setup
from tests.support.studies import setup_of

COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL


def run(
    number: int,
    value: float | None,
    dice: float | None = 1.5,
    *,
    name: str = "",
    state: TrialState = COMPLETE,
    config: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    curve: Mapping[int, float] | None = None,
    attrs: Mapping[str, Any] | None = None,
    continued: str | None = None,
    budget: int = 10,
    per_class: Mapping[str, float | None] | None = None,
    **metrics: Any,
) -> Outcome:
    """A trial; its curve rises to its value at epoch 8 of 10 and falls off, if none is given."""
    if curve is None:
        curve = {} if value is None else {e: value * (1 - 0.05 * abs(e - 8)) for e in range(1, 11)}
    whole: dict[str, Any] = {"loss.ce_weight": 1.0, **(config or {})}
    if dice is not None:
        whole["loss.dice_weight"] = dice
    params = dict(params or ({} if dice is None else {"dice_weight": dice}))
    row = create_trial(
        state=state,
        value=value if state == COMPLETE else None,
        params=params,
        distributions={
            key: FloatDistribution(min(0.0, item), max(5.0, item))
            if isinstance(item, float)
            else CategoricalDistribution(("constant", "step", "linear", "cosine"))
            for key, item in params.items()
        },
        intermediate_values=dict(curve),
        user_attrs=dict(attrs or {}),
    )
    row.number = number
    history = [{"epoch": epoch, "val_f": score} for epoch, score in curve.items()]
    known = training_metrics.metrics(history, dice_weight=dice or 0.0) if history else {}
    return Outcome(
        number=number,
        name=name or f"trial {number}",
        state=state,
        value=value,
        metrics={**known, **metrics},
        params=params,
        config=whole,
        series={"val_f": dict(curve)},
        per_class=per_class or {},
        budget=budget,
        continued=continued,
        attrs=dict(attrs or {}),
        row=row,
    )


def study(outcomes: Sequence[Outcome], setup: Setup | None = None, name: str = "old") -> Results:
    return Results(name, "val F", setup, outcomes, [one.row for one in outcomes])


def said(results: Results, topic: str | None = None) -> str:
    found = findings(Evidence(results))
    assert list(found) == [topic for topic in TOPICS if topic in found]
    texts = [text for own in found.values() for text in own]
    for text in texts:
        # a whole sentence of plain text
        assert text.endswith("."), text
        assert "\n" not in text
        assert "nan" not in text, text
    return "\n".join(texts if topic is None else found.get(topic, []))


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in tree.items():
        if isinstance(item, Mapping):
            found |= flat(item, f"{prefix}{key}.")
        else:
            found[prefix + key] = item
    return found


def of_histories(histories: Sequence[Mapping[str, Any]]) -> Results:
    made = []
    for number, one in enumerate(histories):
        config = flat(one["config"])
        scores = one["val_f_score"]
        history = [
            {"epoch": epoch, "val_f": val, "train_f": train}
            for epoch, (val, train) in enumerate(zip(scores, one["train_f_score"], strict=True), 1)
        ]
        name = str(config["experiment.name"])
        metrics: dict[str, Any] = training_metrics.metrics(
            history, dice_weight=config["loss.dice_weight"]
        )
        made.append(
            run(
                number,
                max(scores),
                config["loss.dice_weight"],
                name=name,
                config=config,
                curve=dict(enumerate(scores, 1)),
                continued="lmsa_enhanced_dice" if "continue" in name else None,
                budget=config["training.epochs"],
                **metrics,
            )
        )
    return study(made)


def searched(
    count: int, score: Any, *, seed: int = 0, low: float = 0.5, high: float = 4.0, **options: Any
) -> Results:
    """Trials drawn at random. score: dice weight, dropout -> its truth; noise 0.003."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        dice, drop = float(rng.uniform(low, high)), float(rng.uniform(0, 0.4))
        value = float(score(dice, drop) + rng.normal(0, 0.003))
        params = {"dice_weight": dice, "dropout": drop}
        made.append(
            run(number, value, dice, params=params, config={"model.dropout": drop}, **options)
        )
    return study(made, setup_of(ranges=(f"dice_weight={low}:{high}",)))


def spread(setup: Setup) -> dict[str, optuna.distributions.BaseDistribution]:
    return {name: distribution(spec) for name, spec in setup.specs().items()}
