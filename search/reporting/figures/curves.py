"""Learning curves with their warm restarts, and the shapes of the Dice schedules."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from search.reporting.figures.drawing import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    blank,
    rounded,
    shown,
    whole_numbers,
)
from search.results.statistics.estimates import spread
from search.results.trials import Outcome, cycles_of
from search.study.attributes import SERIES
from search.study.search_space import as_number
from trainer.dice_schedule import SCHEDULES, dice_weight_at

# lines that a reader can tell apart, lines that a screen can show, points of one of them
_NAMED, _LINES, _POINTS = 5, 200, 60
_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, "#d6537a", "#a07d2c", "#4aa3b5", "#7a7f3a")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_SCHEDULES_SHOWN = 8
# epochs of a training whose first climb may be left out
_LONG = 20
# 120ths of the training at which a schedule's line bends; everywhere where it is not named
_CORNERS = {"constant": (0, 120), "linear": (0, 120), "step": (0, 40, 80, 120)}


def curves_figure(trials: Sequence[Outcome]) -> go.Figure | None:
    """Score over the epochs; each learning rate's restart is a mark on its curve.

    trials: the best first. The first few are named, of the others as many as can be told apart.
    """
    curves = [one for one in trials if one.curve]
    if not curves:
        return None
    named = _named(curves)
    numbers = {one.number for one in named}
    others = spread([one for one in curves if one.number not in numbers], _LINES)
    span = _range(named)
    reading = "triangles: the learning rate starts anew"
    reading += "; the first climb lies below the axis" if span else ""
    if others:
        reading += (
            f"; coloured: the best, and the best with restarts; grey: {len(others)} of the others"
        )
    figure = blank("Learning curves", reading, "epoch", "val F", height=460)
    if others:
        figure.add_trace(_crowd(others))
    for one, colour in zip(named, _COLOURS, strict=False):
        figure.add_traces(_curve(one, colour))
    figure.update_yaxes(range=span)
    whole_numbers(figure, max(max(one.curve) for one in curves))
    return figure


def _named(curves: Sequence[Outcome]) -> list[Outcome]:
    """The best few, and the best few with restarts, that these can be seen; all where few."""
    if len(curves) <= len(_COLOURS):
        return list(curves)
    room = len(_COLOURS) - _NAMED
    marked = [one for one in curves[_NAMED:] if restarts(one)][:room]
    return [*curves[:_NAMED], *marked]


def _curve(one: Outcome, colour: str) -> list[go.Scatter]:
    kept = thinned(one.curve, 2 * _POINTS)
    traces = [
        go.Scatter(
            x=list(kept),
            y=rounded(kept.values(), 4),
            mode="lines",
            line={"color": colour, "width": 2},
            name=f"{shown(one.name)}, {_t_0_text(one)}",
            legendgroup=f"{one.number}",
            hovertemplate=f"{_literal(one.name)}<br>epoch %{{x}}: %{{y:.4f}}<extra></extra>",
        )
    ]
    at = restarts(one)
    if at:
        heights = np.interp(at, list(one.curve), list(one.curve.values()))
        traces.append(
            go.Scatter(
                x=rounded(at, 2),
                y=rounded(heights, 4),
                mode="markers",
                marker={
                    "symbol": "triangle-up",
                    "size": 13,
                    "color": colour,
                    "line": {"color": "#ffffff", "width": 1},
                },
                legendgroup=f"{one.number}",
                showlegend=False,
                hovertemplate=f"{_literal(one.name)}<br>restart after epoch %{{x}}<extra></extra>",
            )
        )
    return traces


def _literal(text: str) -> str:
    """Text within a template of plotly's: a `%{` in it is no variable."""
    return shown(text).replace("%{", "%&#123;")


def _range(named: Sequence[Outcome]) -> list[float] | None:
    """Scores without the first climb, which would press the rest flat; None for short trainings."""
    if max(max(one.curve) for one in named) < _LONG:
        return None
    scores = sorted(score for one in named for score in one.curve.values())
    low, high = scores[len(scores) // 6], scores[-1]
    return [low - 0.05 * (high - low), high + 0.05 * (high - low)]


def _t_0_text(one: Outcome) -> str:
    cycles = cycles_of(one)
    return "no restart" if cycles is None else f"T_0 {cycles.t_0:g}"


def _crowd(curves: Sequence[Outcome]) -> go.Scatter:
    """Many curves as one line with gaps: a trace each would be slow to draw."""
    x: list[float | None] = []
    y: list[float | None] = []
    for one in curves:
        kept = thinned(one.curve, _POINTS // 2)
        x += [*kept, None]
        y += [*rounded(kept.values(), 4), None]
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        line={"color": GREY, "width": 1},
        opacity=0.35,
        hoverinfo="skip",
        showlegend=False,
    )


def thinned(curve: Mapping[int, float], most: int) -> dict[int, float]:
    """At most about `most` epochs of a curve: first, last, and each stretch's lowest and highest.

    >>> thinned({1: 0.1, 2: 0.5, 3: 0.2, 4: 0.3, 5: 0.4, 6: 0.6}, 4)
    {1: 0.1, 2: 0.5, 3: 0.2, 6: 0.6}
    """
    epochs = sorted(curve)
    if len(epochs) <= most:
        return {epoch: curve[epoch] for epoch in epochs}
    kept = {epochs[0], epochs[-1]}
    for stretch in np.array_split(epochs[1:-1], max(1, most // 2 - 1)):
        if len(stretch):
            kept |= {int(min(stretch, key=curve.__getitem__))}
            kept |= {int(max(stretch, key=curve.__getitem__))}
    return {epoch: curve[epoch] for epoch in sorted(kept)}


def restarts(one: Outcome) -> list[float]:
    """Epochs after which the learning rate started anew, as far as the trial was trained."""
    if SERIES in one.attrs and one.series.get("lr"):
        # another trainer's cycles may start after its warm-up
        return _rises(one.series["lr"])
    cycles = cycles_of(one)
    if cycles is None or not one.curve:
        return []
    # before the first score there is no curve to mark
    return [end for end in cycles.ends[:-1] if min(one.curve) <= end < max(one.curve)]


def _rises(rates: Mapping[int, float]) -> list[float]:
    """Epochs after which a learning rate went up once more, having been at its highest."""
    peak = min(epoch for epoch, rate in rates.items() if rate >= 0.99 * max(rates.values()))
    later = [epoch for epoch in sorted(rates) if epoch >= peak]
    return [
        float(epoch)
        for epoch, following in itertools.pairwise(later)
        if rates[following] > 1.5 * rates[epoch]
    ]


# ------------------------------------------------------------------------------- schedules


def schedules_figure(trials: Sequence[Outcome]) -> go.Figure | None:
    """Dice weight over the training of the best trials; None where it was constant in all.

    trials: the best first.
    """
    shapes: dict[tuple[str, float, float], Outcome] = {}
    for one in trials:
        if (shape := _shape(one)) is not None:
            shapes.setdefault(shape, one)
    if all(schedule == "constant" for schedule, _, _ in shapes):
        return None
    chosen = list(shapes.items())[:_SCHEDULES_SHOWN]
    # the best of every kind is worth a look, also where it is not among the best of all
    seen = {schedule for (schedule, _, _), _ in chosen}
    chosen += [
        next((shape, one) for shape, one in shapes.items() if shape[0] == schedule)
        for schedule in dict.fromkeys(schedule for schedule, _, _ in shapes)
        if schedule not in seen
    ]
    figure = blank(
        "Dice schedules",
        f"the shapes that the best {len(chosen)} differing trials were trained with",
        "share of the training, %",
        "dice weight",
        height=400,
    )
    progress = [step / 120 for step in range(121)]
    for number, ((schedule, level, ramp), one) in enumerate(chosen):
        weights = [
            dice_weight_at(share, level=level, ramp=ramp, schedule=schedule) for share in progress
        ]
        kept = _CORNERS.get(schedule, range(121))
        figure.add_trace(
            go.Scatter(
                x=[round(100 * progress[step], 2) for step in kept],
                y=rounded((weights[step] for step in kept), 4),
                mode="lines",
                line={
                    "shape": "hv" if schedule == "step" else "linear",
                    "color": _COLOURS[number % len(_COLOURS)],
                    "width": 3 if number == 0 else 1.5,
                    "dash": _dash(list(SCHEDULES).index(schedule)),
                },
                name=f"{shown(one.name)}: {schedule}, {one.value or 0:.4f}",
                hovertemplate="%{y:.3f}<extra></extra>",
            )
        )
    return figure


def _dash(number: int) -> str:
    """The line of a schedule by its place in the registry; no two alike, however many there are."""
    # beyond the named ones: a dash and two dots, and three, ...
    return _DASHES[number] if number < len(_DASHES) else "9px,3px" + ",3px,3px" * (number - 3)


def _shape(one: Outcome) -> tuple[str, float, float] | None:
    """Schedule, level and ramp; None where they are not known or could not be trained."""
    schedule = one.config.get("loss.dice_schedule", "constant")
    level = as_number(one.config.get("loss.dice_weight"))
    ramp = as_number(one.config.get("loss.dice_ramp", 0.0))
    if schedule not in SCHEDULES or level is None or ramp is None:
        return None
    if schedule == "constant" or ramp == 0:
        return "constant", level, 0.0
    return None if level < abs(ramp) / 2 else (str(schedule), level, ramp)
