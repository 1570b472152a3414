"""The whole analysis of a study as a document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.study.names import is_repeats, repeats_name
from trainer.streams import command_line

if TYPE_CHECKING:
    import optuna

    from search.reporting.document import Document, Picture, Section
    from search.results.findings.every_finding import Finding
    from search.results.trials import Results
    from storage import LeasedStorage


# topic of a finding or a figure -> heading, in the order of the page
TOPICS = {
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
    from search.reporting.figures.every_figure import figures
    from search.results.findings.every_finding import advice_command, findings
    from search.results.trials import results_of, say_troubles
    from search.study.shared_state import total_of
    from storage import redact_words

    results = results_of(study, runs)
    say_troubles([results])
    words = advice_command(results, url, str(runs))
    return document(
        results,
        findings(results),
        figures(results),
        total=total_of(study),
        command=None if words is None else command_line(redact_words(words)),
        confirmed=_confirmed(storage, study.study_name, runs),
        sheet=contact_sheet(results, runs),
    )


def document(
    results: Results,
    findings: Sequence[Finding],
    figures: Mapping[str, Any],
    *,
    total: int | None = None,
    command: str | None = None,
    confirmed: Section | None = None,
    sheet: Picture | None = None,
) -> Document:
    """What was found about a study, section by section.

    total: finished trials wanted. command: starts the next search. confirmed: of its
    repeats, None where there are none. sheet: pictures of the best trial.
    """
    from search.reporting import tables
    from search.reporting.document import Document, Section

    sentences: dict[str, list[str]] = {topic: [] for topic in TOPICS}
    for finding in findings:
        sentences.setdefault(finding.topic, []).append(finding.text)
    shown: dict[str, dict[str, Any]] = {
        "standing": {"tables": [tables.standing(results, total)]},
        "comparison": {"tables": [tables.comparison(results)] if results.outcomes else []},
        "pruning": {"tables": [it for it in [tables.verdicts(results)] if it is not None]},
        "enqueued": {"tables": [it for it in [tables.queue(results)] if it is not None]},
        "pictures": {"pictures": [] if sheet is None else [sheet]},
        "advice": {"commands": [] if command is None else [command]},
        "parameters": {
            "figures": [it for key, it in figures.items() if key.startswith("parameter ")]
        },
    }
    for topic in TOPICS:
        if topic in figures:
            shown.setdefault(topic, {})["figures"] = [figures[topic]]
    sections = [
        Section(topic, TOPICS.get(topic, topic), sentences=of, **shown.get(topic, {}))
        for topic, of in sentences.items()
    ]
    return Document(
        title=f"Study {results.name}",
        facts=_facts(results, total),
        sections=[confirmed if one.key == "confirm" and confirmed else one for one in sections],
    )


def _facts(results: Results, total: int | None) -> list[tuple[str, str]]:
    from datetime import datetime

    from search.study import lineages

    best, setup = results.best, results.setup
    facts = [("A score is", results.metric)]
    if setup is not None:
        data = setup.data
        facts.append(
            (
                "Data",
                f"{data['name']}, {data['train']} train and {data['val']} validation images,"
                f" fingerprint {str(data['fingerprint'])[:8]}",
            )
        )
        facts.append(
            (
                "Budget",
                f"{setup.epochs} epochs a trial"
                + (f", preset {setup.preset}" * bool(setup.preset)),
            )
        )
    finished = f"{len(lineages.finished(results.rows))} finished"
    facts.append(("Trials", finished if total is None else f"{finished} of {total} wanted"))
    # of repeats the highest is mere luck, and their section tells the means
    if best is not None and best.value is not None and not is_repeats(results.name):
        facts.append(("Best", f"{best.value:.4f}, {best.name}, one seed"))
    made = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    return [*facts, ("Written", made)]


def _confirmed(storage: LeasedStorage, name: str, runs: Path) -> Section | None:
    """What the study's repeats came to; None where it has none."""
    from search.study.lookup import named_study

    repeats = repeats_name(name)
    if repeats not in {study.study_name for study in storage.get_all_studies()}:
        return None
    from search.reporting.confirmation_section import confirm_section

    return confirm_section(named_study(storage, repeats), runs)


def contact_sheet(results: Results, runs: Path) -> Picture | None:
    """The newest contact sheet of the best trial; None where its files are not at hand."""
    from search.reporting.document import Picture
    from search.study.lineages import rows_of
    from search.study.run_folders import newest_claims
    from trainer.jpeg import jpeg_of

    best = results.best
    if best is None or results.setup is None:
        return None
    rows = results.rows
    own = [row.number for row in rows if rows_of(rows, row)[0].number == best.number]
    for folder in newest_claims(runs, results.name, own):
        try:
            jpeg = jpeg_of(folder / "contact_sheet.png")
        except OSError:
            # tidied away, or of a claim that ended early
            continue
        return Picture(jpeg, f"{best.name}: its best and worst predictions of the validation part")
    return None
