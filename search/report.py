"""The whole analysis of a study as one page: `python -m search.report --out report.html`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.names import RUNS, STORAGE, is_repeats, repeats_name
from trainer.cli import Parser, guarded
from trainer.streams import command_line

if TYPE_CHECKING:
    import optuna

    from search.analysis.findings import Finding
    from search.pages.document import Document, Picture, Section
    from search.results import Results
    from storage import LeasedStorage

EXAMPLES = """\
examples:
  python -m search.report                                    the latest search, as report.html
  python -m search.report --study hand-made --out old.html --markdown old.md
"""

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


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="python -m search.report", description=__doc__, epilog=EXAMPLES)
    it.add_argument(
        "--study",
        metavar="NAME",
        help="(default: the search with the latest activity; repeats and imported ones by name)",
    )
    it.add_argument("--storage", default=STORAGE, metavar="URL", help=f"({STORAGE})")
    it.add_argument(
        "--runs",
        metavar="DIR",
        help=f"folder of the trials' histories and pictures ({RUNS})",
    )
    it.add_argument(
        "--out", type=Path, default=Path("report.html"), metavar="FILE", help="(report.html)"
    )
    it.add_argument(
        "--markdown", type=Path, metavar="FILE", help="text and tables as Markdown as well"
    )
    return it


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parser().parse_args(argv)
    # after the arguments: --help need not wait for Optuna and SQLAlchemy
    from storage import StorageError

    return guarded(lambda: _main(args), errors=(StorageError,))


def _main(args: argparse.Namespace) -> int:
    import optuna

    from search.names import chosen_study
    from search.pages.markdown import markdown
    from search.pages.page import page
    from search.records import existing
    from search.study import named_study
    from storage import open_storage
    from trainer.files import atomic_write_text

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # where nobody named it a missing folder only means: no histories, no pictures
    runs = Path(RUNS) if args.runs is None else existing(args.runs)
    storage = open_storage(args.storage, read_only=True)
    name = chosen_study(storage, args.study, partial(print, file=sys.stderr))
    report = report_of(storage, named_study(storage, name), args.storage, runs)
    atomic_write_text(args.out, page(report))
    if args.markdown is not None:
        atomic_write_text(args.markdown, markdown(report))
    also = "" if args.markdown is None else f" and {args.markdown}"
    print(f"the report on {name} is in {args.out}{also}", file=sys.stderr)
    return 0


def report_of(storage: LeasedStorage, study: optuna.Study, url: str, runs: Path) -> Document:
    """The report on a study as it stands. url, runs: for the command lines in it.

    Raises StudyError for a study that was neither searched, repeated nor imported.
    """
    from search.analysis.findings import advice_command, findings
    from search.figures import figures
    from search.results import results_of, say_troubles
    from search.study import total_of
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
    from search.pages import tables
    from search.pages.document import Document, Section

    sentences: dict[str, list[str]] = {topic: [] for topic in TOPICS}
    for finding in findings:
        sentences.setdefault(finding.topic, []).append(finding.text)
    shown: dict[str, dict[str, Any]] = {
        "standing": {"tables": [tables.standing(results, total)]},
        "comparison": {"tables": [tables.comparison(results)] if results.outcomes else []},
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

    from search import lineage

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
    finished = f"{len(lineage.finished(results.rows))} finished"
    facts.append(("Trials", finished if total is None else f"{finished} of {total} wanted"))
    # of repeats the highest is mere luck, and their section tells the means
    if best is not None and best.value is not None and not is_repeats(results.name):
        facts.append(("Best", f"{best.value:.4f}, {best.name}, one seed"))
    made = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    return [*facts, ("Written", made)]


def _confirmed(storage: LeasedStorage, name: str, runs: Path) -> Section | None:
    """What the study's repeats came to; None where it has none."""
    from search.study import named_study

    repeats = repeats_name(name)
    if repeats not in {study.study_name for study in storage.get_all_studies()}:
        return None
    from search.pages.repeats_section import confirm_section

    return confirm_section(named_study(storage, repeats), runs)


def contact_sheet(results: Results, runs: Path) -> Picture | None:
    """The newest contact sheet of the best trial; None where its files are not at hand."""
    from search.lineage import rows_of
    from search.pages.document import Picture
    from search.records import newest_claims
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


if __name__ == "__main__":
    sys.exit(main())
