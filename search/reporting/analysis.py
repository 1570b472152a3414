"""The whole analysis of a study as a document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna

from search.reporting import tables
from search.reporting.confirmation_section import confirm_section
from search.reporting.document import Document, Picture, Section
from search.reporting.figures.every_figure import figures as figures_of
from search.results.evidence import Evidence
from search.results.findings.every_finding import findings as findings_of
from search.results.findings.next_search import next_command
from search.results.reading import print_troubles, results_of
from search.results.trials import Results
from search.study import lineages
from search.study.lookup import study_or_none
from search.study.names import is_repeats, repeats_name
from search.study.run_folders import newest_claims
from search.study.shared_state import total_of
from storage import LeasedStorage, redact_words
from trainer.jpeg import jpeg_of
from trainer.streams import command_line

# topic of a finding or a figure -> heading, in the order of the page
TOPICS = {
    "answer": "The answer in five lines",
    "standing": "Where the study stands",
    "advice": "The next search",
    "confirm": "Repeated with fresh seeds",
    "comparison": "All trials",
    "differences": "What else differed",
    "parameters": "Score against each parameter",
    "dice": "The Dice weight",
    "optimisation": "Optimisation or generalisation",
    "balance": "Large parts and small parts",
    "convergence": "Is fast good?",
    "restarts": "Learning curves and warm restarts",
    "schedules": "Dice schedules",
    "importances": "What mattered",
    "classes": "Class by class",
    "pictures": "What the best trial sees",
    "pruning": "What was pruned, and what that saved",
    "enqueued": "Asked for, waiting, withdrawn",
    "untestable": "What these data cannot tell",
}


def report_of(storage: LeasedStorage, study: optuna.Study, url: str, runs: Path) -> Document:
    """The report on a study as it stands. url, runs: for the command lines in it.

    Raises StudyError for a study that was neither searched, repeated nor imported.
    """
    results = results_of(study, runs)
    print_troubles([results])
    evidence = Evidence(results)
    commands = [next_command(evidence, url, str(runs), more=more) for more in (False, True)]
    return document(
        results,
        findings_of(evidence),
        figures_of(evidence),
        total=total_of(study),
        commands=[command_line(redact_words(words)) for words in commands if words is not None],
        confirmed=_repeats_section(storage, study.study_name, runs),
        sheet=contact_sheet(results, runs),
    )


def document(
    results: Results,
    findings: Mapping[str, Sequence[str]],
    figures: Mapping[str, Any],
    *,
    total: int | None = None,
    commands: Sequence[str] = (),
    confirmed: Section | None = None,
    sheet: Picture | None = None,
) -> Document:
    """What was found about a study, section by section.

    findings: topic -> sentences. figures: topic -> figure. total: finished trials wanted. commands:
    start the next search. confirmed: of its repeats, None where there are none. sheet: pictures of
    the best trial.
    """
    shown: dict[str, dict[str, Any]] = {
        "standing": {"tables": [tables.states_table(results, total)]},
        "comparison": {"tables": [tables.trials_table(results)] if results.outcomes else []},
        "pruning": {"tables": [it for it in [tables.verdicts_table(results)] if it is not None]},
        "enqueued": {"tables": [it for it in [tables.queue_table(results)] if it is not None]},
        "pictures": {"pictures": [] if sheet is None else [sheet]},
        "advice": {"commands": list(commands)},
        "parameters": {
            "figures": [it for key, it in figures.items() if key.startswith("parameter ")]
        },
    }
    for topic in TOPICS:
        if topic in figures:
            shown.setdefault(topic, {})["figures"] = [figures[topic]]
    sections = [
        Section(topic, heading, findings.get(topic, ()), **shown.get(topic, {}))
        for topic, heading in TOPICS.items()
    ]
    return Document(
        title=f"Study {results.name}",
        facts=_facts(results, total),
        sections=[confirmed if one.key == "confirm" and confirmed else one for one in sections],
    )


def _facts(results: Results, total: int | None) -> list[tuple[str, str]]:
    best, setup = results.best, results.setup
    facts = [("A score is", results.metric)]
    if setup is not None:
        data, preset = setup.data, f", preset {setup.preset}" if setup.preset else ""
        images = f"{data['train']} train and {data['val']} validation images"
        mark = str(data["fingerprint"])[:8]
        trained = [("Data", f"{data['name']}, {images}, fingerprint {mark}")]
        if setup.program is not None:
            trained = [("Program", setup.program.call)]
        facts += [
            *trained,
            ("Budget", f"{setup.epochs} epochs a trial{preset}"),
        ]
    finished = f"{len(lineages.finished(results.rows))} finished"
    facts.append(("Trials", finished if total is None else f"{finished} of {total} wanted"))
    # of repeats the highest is mere luck, and their section has the means
    if best is not None and best.value is not None and not is_repeats(results.name):
        facts.append(("Best", f"{best.value:.4f}, {best.name}, one seed"))
    made = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    return [*facts, ("Written", made)]


def _repeats_section(storage: LeasedStorage, name: str, runs: Path) -> Section | None:
    """What the study's repeats came to; None where it has none."""
    study = study_or_none(storage, repeats_name(name))
    return None if study is None else confirm_section(study, runs)


def contact_sheet(results: Results, runs: Path) -> Picture | None:
    """The newest contact sheet of the best trial; None where its files are not at hand."""
    best = results.best
    if best is None or results.setup is None:
        return None
    rows = results.rows
    own = [row.number for row in rows if lineages.rows_of(rows, row)[0].number == best.number]
    for folder in newest_claims(runs, results.name, own):
        try:
            jpeg = jpeg_of(folder / "contact_sheet.png")
        except OSError:
            # removed, or of a claim that ended early
            continue
        return Picture(jpeg, f"{best.name}: its best and worst predictions of the validation part")
    return None
