"""A model card: which network, on which data, how it scored, how it was chosen, where that ends.

It says what the study knows: one seed has no interval, the best of many trials is partly luck, a
score holds for its grid, its masks and its split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from search.confirmation.scores import ByImage, by_image, plan_state_of
from search.reporting.document import Document, Section, Table
from search.results.answer import passed_over_text, results_answer, worth_text
from search.results.export_formats import config_of, train_words
from search.results.reading import results_of
from search.results.statistics.intervals import Interval, interval, over_images
from search.results.trials import Outcome, Results
from search.study import training_metrics
from search.study.attributes import CONFIGURATION, SETUP, attributes_of
from search.study.identity import differing_facts
from search.study.lookup import named_study, study_or_none
from search.study.names import is_repeats, repeats_name, search_name
from search.study.repeats import confirmed_scores, repeated_scores
from search.study.search_space import format_value
from search.study.setup import Setup
from storage import LeasedStorage
from trainer.config import Config
from trainer.data.classes import NAMES
from trainer.model import MAX_PARAMETERS, model_of, parameter_count
from trainer.presets import DEMO_WARNING, SYNTHETIC
from trainer.runtime import promise
from trainer.streams import command_line

# as README.md has it
F_SCORE = (
    "Per image and class in its ground truth: P = TP/(TP+FP+1e-7), R = TP/(TP+FN+1e-7),"
    " F = 2PR/(P+R+1e-7); the image's score is the mean over those classes, background included;"
    " the set's is the mean over images. Prediction on the training grid against the mask reduced"
    " by nearest at pixel centres."
)
F_SCORE_FULL = (
    "The same with logits upsampled bilinearly to the mask's own size, against the untouched mask:"
    " what a leaderboard says. Even a perfect prediction at 256 / 128 / 64 pixels reaches only"
    " .965 / .935 / .876, so at 64 pixels the two differ much."
)
F_PER_CLASS = (
    "2TP/(2TP+FP+FN) from pixel counts summed over the set; no epsilon; null where a class is in"
    " neither."
)
MIRRORED = (
    "Masks as published have left and right reversed in about 6 % of the files. A perfect network"
    " loses .024 by them, and a repaired set scores that much higher"
)
METRIC = (
    f"f_score: {F_SCORE}",
    f"f_score_full: {F_SCORE_FULL}",
    "A trial's value is its best epoch's f_score on the validation part.",
)


@dataclass(frozen=True)
class Repeats:
    """What one configuration reached with fresh seeds.

    study: where they were trained. scores: f_score in [0, 1], one a seed. configurations: how many
    were repeated there, this one among them. images: part -> scores image by image, one entry a
    seed, where they are known. looks: how often the scores were to be looked at.
    """

    study: str
    scores: Sequence[float]
    configurations: int
    images: Mapping[str, Sequence[ByImage]]
    looks: int


def _origin(
    storage: LeasedStorage, results: Results, chosen: Outcome, runs: Path
) -> tuple[Results | None, Repeats | None]:
    """The search that found a trial's configuration, and its repeats; None for what is not there.

    A configuration that the user named was found by no search.
    """
    search = _with_configuration(storage, search_name(results.name), results, chosen)
    again = _with_configuration(storage, repeats_name(results.name), results, chosen)
    found = None if search is None else search[0]
    label = None if again is None else again[1].attrs.get(CONFIGURATION)
    if again is None or label is None:
        within = repeated_scores(results.rows)
        if chosen.number not in within:
            return found, None
        # each was chosen by the scores before it
        name, count = results.name, len(within)
        return found, Repeats(name, within[chosen.number], count, {}, looks=2)
    study = named_study(storage, again[0].name)
    scores, images = confirmed_scores(study), by_image(study, runs).get(label, {})
    plan = plan_state_of(study)
    # not known: as if the scores had decided whether to go on
    looks = 2 if plan is None else plan.looks
    return found, Repeats(study.study_name, scores.get(label, []), len(scores), images, looks)


def _with_configuration(
    storage: LeasedStorage, name: str, results: Results, chosen: Outcome
) -> tuple[Results, Outcome] | None:
    """The study of that name and its first trial that trained the same on the same data."""
    study = study_or_none(storage, name)
    if study is None or SETUP not in study.user_attrs:
        return None
    other = results_of(study)
    assert results.setup is not None
    assert other.setup is not None
    if differing_facts(results.setup, other.setup, "data"):
        return None
    same = (one for one in other.outcomes if _config(one) == _config(chosen))
    return next(((other, one) for one in same), None)


def _config(outcome: Outcome) -> dict[str, object]:
    """All that was trained with besides the seed, wherever the data lie."""
    return {key: value for key, value in outcome.config.items() if key != "data.root"}


# -------------------------------------------------------------------------------------- the card


def card(
    storage: LeasedStorage,
    results: Results,
    chosen: Outcome,
    runs: Path,
    *,
    command: str,
    confirm: str,
) -> Document:
    """The model card of one trial, with what its search and its repeats tell of it.

    results: the trial's study, with histories where F-scores by class are to stand in it. command,
    confirm: how the card was made and how the study is repeated, without passwords. Raises
    ConfigError if the network cannot be built here.
    """
    setup = results.setup
    assert setup is not None, "an imported study does not know its configs"
    config = config_of(setup, chosen.row)
    search, repeats = _origin(storage, results, chosen, runs)
    return Document(
        title=f"Face parsing: {_label(chosen)}, study {results.name}",
        facts=_facts(setup, config),
        sections=[
            _scores(chosen, repeats, confirm),
            Section("metric", "Metric", METRIC),
            Section("classes", "F-score by class", *_classes(chosen)),
            Section("choice", "How it was chosen", _choice(results, chosen, search, repeats)),
            Section("params", "Hyperparameters", tables=[_params(chosen)]),
            Section("limits", "Limits", _limits(setup, config)),
            Section(
                "again",
                "To train it again, and to make this card",
                commands=[command_line(train_words(config)), command],
            ),
        ],
    )


def _facts(setup: Setup, config: Config) -> list[tuple[str, str]]:
    name, size, data = config.model.name, config.data.image_size, setup.data
    # the width is a setting of the network that comes along
    width = f" at width {config.model.width:g}" if name == "lmsa" else ""
    count = parameter_count(model_of(config))
    return [
        ("Network", f"{name}{width}, {count:,} parameters ({MAX_PARAMETERS:,} are allowed)"),
        ("Input", f"a colour picture of a face, trained at {size} x {size} pixels"),
        ("Output", f"for each pixel one of {len(NAMES)} classes: {', '.join(NAMES)}"),
        ("Data", f"{data['name']}: {data['train']} pictures to train, {data['val']} to validate"),
        ("Fingerprint of data and split", data["fingerprint"]),
        ("Training", f"{setup.epochs} epochs, {config.training.optimizer}"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in setup.versions.items())),
    ]


def _label(chosen: Outcome) -> str:
    label = chosen.attrs.get(CONFIGURATION)
    return chosen.name if label is None else f"{label}, repeated with seed {chosen.seed}"


def _scores(chosen: Outcome, repeats: Repeats | None, confirm: str) -> Section:
    metrics = chosen.metrics
    rows = [
        ("f_score (its value)", _score(chosen.value)),
        ("f_score_full", _score(attributes_of(chosen.attrs).f_score_full)),
        (
            "best epoch",
            f"{training_metrics.text('best_epoch', metrics['best_epoch'])} of {chosen.budget}",
        ),
        *(
            (training_metrics.COLUMNS[name][0], training_metrics.text(name, metrics[name]))
            for name in ("train_f_at_best", "gap", "final_val_f")
        ),
    ]
    tables = [Table(["on the validation part", f"seed {chosen.seed}"], rows)]
    scores = [] if repeats is None else list(repeats.scores)
    span = None if repeats is None else interval(scores, looks=repeats.looks)
    if repeats is None or span is None:
        seeds = "One fresh seed" if scores else "One seed"
        unknown = (
            f"{seeds}, so there is no interval: what another seed would reach is not known. The"
            " command repeats the best configurations."
        )
        return Section("scores", "Scores", [unknown], tables, commands=[confirm])
    sentences = [
        f"With {len(scores)} fresh seeds (study {repeats.study}): mean f_score {_score(span.mean)},"
        f" 95 % interval {_score(span.low)} to {_score(span.high)}; they reached"
        f" {', '.join(_score(score) for score in sorted(scores))}. The interval is of the mean over"
        " new seeds on this split; it says nothing of other pictures."
    ]
    if repeats.images:
        tables += [_over_images(repeats)]
        sentences += [
            "Over images, with the networks of these seeds as they are, stands below. On val the"
            " best epoch was chosen; test was used neither in training nor in choosing."
        ]
    return Section("scores", "Scores", sentences, tables)


def _over_images(repeats: Repeats) -> Table:
    rows = []
    for part, seeds in repeats.images.items():
        span = over_images([seed.f_score for seed in seeds])
        full = over_images([seed.f_score_full for seed in seeds])
        count = str(len(seeds[0].f_score))
        rows.append((part, count, *_mean_and_span(span), *_mean_and_span(full)))
    return Table(["part", "images", "f_score", "95 %", "f_score_full", "95 %"], rows)


def _mean_and_span(span: Interval | None) -> tuple[str, str]:
    if span is None:
        return "-", "-"
    return _score(span.mean), f"{_score(span.low)} to {_score(span.high)}"


def _classes(chosen: Outcome) -> tuple[list[str], list[Table]]:
    if not chosen.per_class:
        return ["Not known: the runs folder (--runs DIR) has no history of this trial."], []
    rows = [
        (name, "in neither" if score is None else _score(score))
        for name, score in chosen.per_class.items()
    ]
    return [f"Best epoch, validation part: {F_PER_CLASS}"], [Table(["class", "F"], rows)]


def _choice(
    results: Results, chosen: Outcome, search: Results | None, repeats: Repeats | None
) -> list[str]:
    complete = results.complete()
    epoch = "The epoch was chosen on the validation part too, which adds to that."
    if is_repeats(results.name):
        count = 1 if repeats is None else repeats.configurations
        return [
            *(() if search is None else _counts(search)),
            f"{chosen.attrs.get(CONFIGURATION, chosen.name)} is one of {count} configurations that"
            " were repeated with fresh seeds. Such scores do not carry the luck by which a search"
            " found them; but taking the best of their means is a choice again, so a little"
            " optimism is left.",
            epoch,
        ]
    if not chosen.complete:
        last = max(chosen.curve, default=0)
        cut = f"This one was not trained to its end: {last} epochs of {chosen.budget}."
        return [*_counts(results), cut]
    rank = 1 + sum((one.value or 0.0) > (chosen.value or 0.0) for one in complete)
    answer = results_answer(results)
    if answer is not None and answer.expected is not None and answer.trial.number == chosen.number:
        passed = passed_over_text(answer, results.rows)
        how = (
            f"This one has the best expected score of {len(complete)}, from its own, its repeats"
            f" and its neighbours: {worth_text(answer)}."
        )
        more = [] if passed is None else [f"{passed[:1].upper()}{passed[1:]}."]
        return [*_counts(results), how, *more, epoch]
    if rank > 1:
        how = f"This one was named by its number; its value is number {rank} of {len(complete)}."
        return [*_counts(results), how, "The epoch was chosen on the validation part."]
    if len(complete) == 1:
        return [*_counts(results), "The epoch was chosen on the validation part."]
    how = (
        f"This one has the highest value of {len(complete)}. The best of many is partly luck, so"
        " its value is optimistic: expect less of a fresh seed."
    )
    return [*_counts(results), how, epoch]


def _counts(search: Results) -> list[str]:
    complete, ended = search.complete(), search.scored()
    return [
        f"Of {len(search.outcomes)} trials of the search {search.name} {len(ended)} were scored:"
        f" {len(complete)} trained to their end, {len(ended) - len(complete)} pruned before."
    ]


def _params(chosen: Outcome) -> Table:
    rows = [(name, format_value(value)) for name, value in chosen.params.items()]
    return Table(["searched", "value"], rows)


def _limits(setup: Setup, config: Config) -> list[str]:
    size = config.data.image_size
    lines = [
        f"Resolution: trained and scored at {size} x {size} pixels. What vanishes on that grid"
        " cannot be found again.",
        "Faces only, upright and cropped as in the training pictures. Nothing was measured on"
        " others, nor how scores differ between groups of people.",
        f"One split: trial and epoch were chosen on {setup.data['val']} validation pictures, and"
        " others may score otherwise. The test part was used neither in training nor in choosing.",
    ]
    if setup.data["root"] == SYNTHETIC:
        lines += ["Built-in, drawn faces: neither scores nor values transfer to real faces."]
    else:
        lines += [
            f"{MIRRORED}. The fingerprint says which set was scored.",
            "CelebAMask-HQ, and what is made from it, is for non-commercial research only and"
            " shows real people. Where the pictures come from it, its terms hold for this network.",
        ]
    if setup.preset == "demo":
        lines += [f"{DEMO_WARNING[0].upper()}{DEMO_WARNING[1:]}."]
    if config.runtime.threads is not None:
        lines += [f"Trained again it reaches {promise(config.runtime)}."]
    return lines


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
