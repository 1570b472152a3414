"""The report: one page that a browser draws, whatever the study holds."""

from __future__ import annotations

import io
import random
import re
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from PIL import Image

from search.execution.worker_loop import work
from search.management.opening import open_study
from search.report import main
from search.reporting.analysis import contact_sheet, document
from search.reporting.confirmation_section import confirm_section
from search.reporting.document import Document, Flag, Section, Table
from search.reporting.figures.every_figure import figures
from search.reporting.html import page
from search.reporting.markdown import markdown
from search.reporting.tables import (
    common_wait,
    forecast_verdict,
    queue_table,
    states_table,
    trials_table,
)
from search.results.evidence import Evidence
from search.results.findings.every_finding import findings
from search.results.reading import results_of
from search.results.statistics.intervals import interval
from search.study.attributes import JUDGED
from search.study.lookup import load_setup
from search.study.run_folders import trial_folder
from search.study.shared_state import set_total
from search.study.wording import escaped
from storage import open_storage
from tests.support.browser import opened
from tests.support.repeated import repeated
from tests.support.shells import one_line
from tests.support.simulated import empty, row, rows, simulated, write_histories
from tests.support.studies import context_at, real_study, setup_of, store
from trainer.data.dataset import DataSummary
from trainer.jpeg import jpeg_of

BAD = "<script>document.title='ran'</script>"


def written(study: optuna.Study, out: Path) -> Path:
    """The report of a study as a file."""
    results = results_of(study)
    said, drawn = {"standing": ["one sentence"]}, figures(Evidence(results))
    out.write_text(page(document(results, said, drawn, total=40)), encoding="utf-8")
    return out


# ------------------------------------------------------------------------------- in a browser


def test_a_browser_draws_every_figure_and_complains_of_nothing(tmp_path: Path) -> None:
    study = simulated(40)
    write_histories(study, load_setup(study), tmp_path / "runs")
    results = results_of(study, tmp_path / "runs")
    drawn = figures(Evidence(results))
    file = tmp_path / "report.html"
    file.write_text(page(document(results, findings(Evidence(results)), drawn)), encoding="utf-8")
    seen = opened(file)
    assert seen.complaints == []
    assert 'data-drawn="yes"' in seen.dom
    assert len(re.findall(r'class="plot js-plotly-plot"', seen.dom)) == len(drawn) >= 16
    assert "drawn by a script" not in seen.dom
    # plotly draws three layers for a figure
    assert len(re.findall(r'<svg class="main-svg"[^>]* viewBox=', seen.dom)) >= 2 * len(drawn)
    for figure in drawn.values():
        assert figure.layout.title.text in seen.dom
    # the marks of one figure, its axis and its legend
    assert seen.dom.count('class="point"') > 100
    assert "epochs trained" in seen.text


def test_a_browser_that_complains_is_heard(tmp_path: Path) -> None:
    file = tmp_path / "broken.html"
    file.write_text("<script>missing()</script>")
    assert len(opened(file, budget_ms=500).complaints) == 1


def test_names_notes_and_classes_stay_text_in_the_browser(tmp_path: Path) -> None:
    setup = setup_of(name=BAD)
    study = empty(setup)
    rng = random.Random(0)
    for number in range(4):
        study.add_trial(row(setup, rng, note=f"{BAD} {number}", expect=[0.1, 0.2]))
    results = results_of(study)
    for one in results.outcomes:
        one.per_class[BAD] = 0.5  # type: ignore[index]
    said = {"standing": [f"found: {BAD}"]}
    file = tmp_path / "report.html"
    drawn = figures(Evidence(results))
    file.write_text(page(document(results, said, drawn, commands=[f"echo '{BAD}'"])))
    seen = opened(file)
    assert seen.complaints == []
    assert "<script>document.title=" not in seen.dom
    assert f"<title>Study {BAD.replace('<', '&lt;').replace('>', '&gt;')}</title>" in seen.dom
    for text in (f"Study {BAD}", f"{BAD} 3", f"found: {BAD}", f"echo '{BAD}'"):
        assert text in seen.text
    # a class's name is drawn by plotly, which reads tags
    assert "classes" in drawn
    assert re.search(r"<text[^>]*>&lt;script&gt;", seen.dom)


def test_a_script_that_slips_into_the_page_does_not_run(tmp_path: Path) -> None:
    file = written(simulated(2), tmp_path / "report.html")
    slipped = file.read_text().replace("<main>", "<main><script>document.title='ran'</script>")
    file.write_text(slipped)
    seen = opened(file)
    assert "<title>ran</title>" not in seen.dom
    assert any("Content Security Policy" in line for line in seen.complaints)


def test_a_click_on_a_heading_sorts_the_table_with_dashes_last(tmp_path: Path) -> None:
    table = Table(
        ("name", "gap"), [("a", "+0.1"), ("b", "-"), ("c", "-0.2"), ("d", "+0.03")], sortable=True
    )
    text = page(Document("sorting", [], [Section("all", "All", tables=[table])]))
    click = "for (const it of CLICKS) document.querySelectorAll('th button')[it].click()"

    def order(clicks: list[int]) -> str:
        script = f"<script>{click.replace('CLICKS', str(clicks))}</script></body>"
        file = tmp_path / "sorted.html"
        # the page lets no script run but its own
        open_to_all = re.sub(r"script-src [^\"]*", "script-src 'unsafe-inline'", text)
        file.write_text(open_to_all.replace("</body>", script))
        return "".join(re.findall(r"<tr><td>(\w)</td>", opened(file, budget_ms=500).dom))

    assert order([]) == "abcd"
    assert order([1]) == "adcb"
    assert order([1, 1]) == "cdab"
    assert order([1, 0]) == "dcba"


# ---------------------------------------------------------------------------------------- size


@pytest.mark.long
def test_a_large_study_makes_a_small_page(tmp_path: Path) -> None:
    results = results_of(simulated(1000, epochs=150))
    text = page(document(results, findings(Evidence(results)), figures(Evidence(results))))
    assert len(text.encode()) < 5e6
    assert text.count("<tr>") > 1000


def test_the_page_fetches_nothing(tmp_path: Path) -> None:
    text = written(simulated(12), tmp_path / "report.html").read_text()
    outside = re.sub(r'<script type="text/plain" id="library">.*?</script>', "", text, flags=re.S)
    assert re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]*\"", outside) == []
    assert "@import" not in outside
    assert "url(" not in outside


# ------------------------------------------------------------------------------- tables


def test_every_trial_has_a_row_with_its_figures_and_parameters() -> None:
    results = results_of(simulated(9))
    table = trials_table(results)
    assert len(table.rows) == 9
    assert {"best val F", "degradation %", "CE:Dice", "dice_weight", "T_0"} <= set(table.headings)
    best = results.best
    assert best is not None
    first = dict(zip(table.headings, table.rows[0], strict=True))
    assert first["trial"] == str(best.number)
    assert first["best val F"] == f"{best.value:.4f}"
    assert first["dice_weight"] == f"{best.params['dice_weight']:.4g}"


def test_degradation_is_measured_at_a_common_wait_after_the_best() -> None:
    setup = setup_of()
    study = empty(setup)
    for curve in ([0.1, 0.6, 0.5, 0.4], [0.1, 0.5, 0.45], [0.1, 0.2, 0.7]):
        values = dict(enumerate(curve, 1))
        study.add_trial(
            create_trial(state=TrialState.COMPLETE, value=max(curve), intermediate_values=values)
        )
    results = results_of(study)
    # the waits are 2, 1 and none
    assert common_wait(results.outcomes) == 1
    table = trials_table(results)
    lost = table.headings.index("lost 1 epoch after best")
    assert {row[0]: row[lost] for row in table.rows} == {"0": "0.1000", "1": "0.0500", "2": "-"}


def test_still_rising_and_continued_runs_are_flagged() -> None:
    from tests.search.reporting.test_figures import imported

    study = imported({"name": "first", "dice_weight": 1.0})
    (trial,) = study.get_trials()
    trial.user_attrs |= {"still_rising": True, "continued_from": "an earlier run", "run": "second"}
    study.add_trial(trial)
    table = trials_table(results_of(study))
    rising = table.headings.index("still rising")
    origin = table.headings.index("continued from another run")
    cells = {row[0]: (row[rising], row[origin]) for row in table.rows}
    assert cells == {"first": ("-", "-"), "second": ("yes", "an earlier run")}
    assert all(isinstance(cell, Flag) for cell in cells["second"])


@pytest.mark.parametrize(
    ("state", "value", "expected"),
    [
        (TrialState.COMPLETE, 0.65, "yes"),
        (TrialState.COMPLETE, 0.55, "no, lower"),
        (TrialState.COMPLETE, 0.75, "no, higher"),
        (TrialState.PRUNED, 0.55, "open"),
        (TrialState.PRUNED, 0.75, "no, higher"),
        (TrialState.RUNNING, 0.65, "open"),
        (TrialState.WAITING, None, "open"),
    ],
)
def test_a_forecast_is_held_against_the_score(
    state: TrialState, value: float | None, expected: str
) -> None:
    study = empty(setup_of())
    study.add_trial(
        create_trial(
            state=state,
            value=value if state == TrialState.COMPLETE else None,
            intermediate_values={} if value is None else {1: value},
            user_attrs={"expect": [0.6, 0.7], "note": "a try", "enqueued": "x"},
        )
    )
    results = results_of(study)
    assert forecast_verdict(results.outcomes[0]) == expected
    table = queue_table(results)
    assert table is not None
    assert table.rows[0][3:6] == ["a try", "0.6 to 0.7", expected]


def test_the_states_are_counted_with_their_reasons() -> None:
    setup = setup_of()
    study = empty(setup)
    rng = random.Random(0)
    study.add_trials(
        [
            row(setup, rng),
            row(setup, rng, pruned=True),
            row(setup, rng, pruned=True, stopped=True),
            create_trial(state=TrialState.FAIL, user_attrs={"cancelled": True}),
            create_trial(state=TrialState.WAITING),
        ]
    )
    counts = dict(states_table(results_of(study), 40).rows)
    assert counts == {
        "done": "1",
        "pruned": "1",
        "running": "0",
        "waiting": "1",
        "cancelled": "1",
        "failed": "0",
        "pruned: stopped by hand": "1",
        "finished trials wanted": "40",
    }


# ------------------------------------------------------------------------------- strange studies


def strange(kind: str) -> optuna.Study:
    setup = setup_of()
    study = empty(setup)
    rng = random.Random(0)
    trials = {
        "empty": [],
        "one": [row(setup, rng)],
        "failed": [create_trial(state=TrialState.FAIL, user_attrs={"traceback": "x"})] * 2,
        "pruned": [row(setup, rng, pruned=True) for _ in range(3)],
        "running": [create_trial(state=TrialState.RUNNING, intermediate_values={1: 0.2})],
        "waiting": [create_trial(state=TrialState.WAITING)],
    }
    study.add_trials(trials[kind])
    return study


@pytest.mark.parametrize("kind", ["empty", "one", "failed", "pruned", "running", "waiting"])
def test_a_strange_study_has_a_sensible_page(kind: str, tmp_path: Path) -> None:
    results = results_of(strange(kind))
    file = tmp_path / "report.html"
    report = document(results, findings(Evidence(results)), figures(Evidence(results)))
    file.write_text(page(report), encoding="utf-8")
    seen = opened(file)
    assert seen.complaints == []
    assert "Study faces" in seen.text
    assert "Trials by state" in seen.text
    assert not re.search(r"\b(nan|None|NaN|inf)\b", seen.text)
    assert markdown(report).startswith("# Study faces\n")


# ------------------------------------------------------------------------------- Markdown


def test_markdown_has_the_same_sentences_tables_and_commands() -> None:
    results = results_of(simulated(5))
    said = {"dice": ["It is flat.", "1. is no list"]}
    text = markdown(
        document(results, said, figures(Evidence(results)), commands=["python -m search.run"])
    )
    assert "\n## The Dice weight\n\nIt is flat.\n\n1\\. is no list\n" in text
    assert "\n```sh\npython -m search.run\n```\n" in text
    assert len(re.findall(r"^\| \d+ \| (?:done|pruned)", text, re.M)) == 5
    assert "## Score against each parameter" not in text


def test_markdown_shows_names_as_text() -> None:
    setup = setup_of(name=BAD)
    study = empty(setup)
    study.add_trial(row(setup, random.Random(0), note=f"{BAD} | **x** [y](javascript:z)"))
    results = results_of(study)
    text = markdown(document(results, {}, {}, commands=[f"echo ```\n{BAD}"]))
    outside = re.sub(r"^(`{4,})sh\n.*?\n\1$", "", text, flags=re.M | re.S)
    assert "<script>" not in outside
    assert "&lt;script&gt;" in outside
    assert escaped("| **x** [y]") in outside
    assert "````sh\n" in text


# ------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a trained trial and its files."""
    there = tmp_path_factory.mktemp("report")
    storage = store(there)
    real_study(storage, total=2)
    work(context_at(there, storage))
    return there


def reported(folder: Path, out: Path, *flags: str) -> int:
    return main(
        [
            *("--storage", f"sqlite:///{folder}/search.db", "--runs", str(folder / "runs")),
            *("--out", str(out), *flags),
        ]
    )


def test_the_report_of_a_real_search_shows_its_pictures_and_says_which_study(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, text = tmp_path / "new" / "report.html", tmp_path / "report.md"
    assert reported(folder, out, "--markdown", str(text)) == 0
    told = capsys.readouterr()
    lines = told.out.splitlines()
    starts = ("Use trial", "It is worth", "What mattered", "What was not shown", "What next")
    assert [line.startswith(start) for line, start in zip(lines, starts, strict=True)] == [True] * 5
    assert told.err == (
        "study faces (the latest; another: --study NAME)\n"
        f"the report on faces is in {out} and {text}\n"
    )
    seen = opened(out)
    assert seen.complaints == []
    assert 'src="data:image/jpeg;base64,/9j/' in seen.dom
    for topic in ("Class by class", "Learning curves", "Where the study stands"):
        assert topic in seen.text
    # the answer comes before all else
    assert seen.text.index("The answer in five lines") < seen.text.index("Where the study stands")
    assert all(line in seen.text for line in lines)
    assert "## All trials" in text.read_text()


def test_the_contact_sheet_is_the_best_trials_as_jpeg(folder: Path) -> None:
    from search.strategy.loading import load_study

    results = results_of(load_study(store(folder), "faces"), folder / "runs")
    best = results.best
    assert best is not None
    sheet = contact_sheet(results, folder / "runs")
    assert sheet is not None
    assert best.name in sheet.alt
    with Image.open(io.BytesIO(sheet.jpeg)) as picture:
        assert picture.format == "JPEG"
        size = picture.size
    own = trial_folder(folder / "runs", "faces", best.number)
    (png,) = own.glob("*/contact_sheet.png")
    with Image.open(png) as picture:
        assert picture.size == size
    assert contact_sheet(results, folder / "elsewhere") is None


def test_a_wide_picture_is_made_narrow(tmp_path: Path) -> None:
    Image.new("RGBA", (3000, 30), (255, 0, 0, 128)).save(tmp_path / "wide.png")
    with Image.open(io.BytesIO(jpeg_of(tmp_path / "wide.png"))) as picture:
        assert (picture.format, picture.size) == ("JPEG", (1200, 12))


def test_a_study_that_does_not_exist_is_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.html"
    assert reported(folder, out, "--study", "face") == 2
    assert capsys.readouterr().err == 'error: no study "face" in the store: did you mean faces?\n'
    assert not out.exists()


def test_a_runs_folder_that_does_not_exist_is_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--storage", f"sqlite:///{folder}/search.db", "--runs", str(tmp_path / "none")]
    line = one_line(main, capsys, *flags, "--out", tmp_path / "report.html")
    assert "no such folder" in line
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_does_not_exist_is_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").mkdir()
    assert reported(tmp_path, tmp_path / "report.html") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "does not exist" in err
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_repeats_have_a_section_with_their_table_and_their_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = store(tmp_path)
    (tmp_path / "runs").mkdir()
    open_study(storage, setup_of()).add_trials(rows(setup_of(), 3))
    params = row(setup_of(), random.Random(0)).params
    reached = {"trial 1": [0.70, 0.71, 0.705], BAD: [0.60, 0.61, 0.605]}
    study = repeated(storage, {label: (params, own) for label, own in reached.items()})
    how = {"labels": list(reached), "cap": 3, "first": 3, "margin": 1.0}
    study.set_user_attr(JUDGED, how)
    section = confirm_section(study, tmp_path)
    assert section.tables[0].rows[0][:3] == ("trial 1", "3", "0.7050")
    assert section.sentences[0].startswith("trial 1 beats")
    assert [len(trace.x) for trace in section.figures[0].data] == [3, 3, 2]
    for name in ("faces", "faces-confirm"):
        out = tmp_path / f"{name}.html"
        assert reported(tmp_path, out, "--study", name) == 0
        text = out.read_text()
        assert "<h2>Repeated with fresh seeds</h2>\n<p>trial 1 beats" in text
        assert "<script>document" not in text
    # what the seeds of the repeats tell of the noise holds for the search as well
    said = "(standard deviation, 6 trials of 2 configurations, repeats of chosen trials among them"
    said = f"0.0050 {said}"
    assert said in (tmp_path / "faces.html").read_text()


def test_repeats_before_their_first_look_have_the_intervals_that_their_looks_need(
    tmp_path: Path,
) -> None:
    params = row(setup_of(), random.Random(0)).params
    early = [0.70, 0.71, 0.72]
    study = repeated(store(tmp_path), {"a": (params, early), "b": (params, [0.60, 0.61])})
    study.set_user_attr(JUDGED, {"labels": ["a", "b"], "cap": 10, "first": 3, "margin": 1.0})
    section = confirm_section(study)
    assert section.sentences[0].startswith("Not judged yet")
    wide = interval(early, looks=8)
    assert wide is not None
    assert section.tables[0].rows[0][3] == f"{wide.low:.4f} to {wide.high:.4f}"


def test_repeats_on_other_data_tell_nothing_of_the_noise(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = open_study(storage, setup_of())
    params = row(setup_of(), random.Random(0)).params
    again = repeated(storage, {"trial 1": (params, [0.7, 0.8])})
    assert results_of(study).repeats == {"trial 1": [0.7, 0.8]}
    assert results_of(again).repeats == {}
    storage.delete_study(again._study_id)
    elsewhere = DataSummary("synthetic", 40, 8, 8, "ffff")
    repeated(storage, {"trial 1": (params, [0.7, 0.8])}, data=elsewhere)
    assert results_of(study).repeats == {}


def test_repeats_that_have_just_begun_are_not_judged(tmp_path: Path) -> None:
    study = repeated(store(tmp_path), {})
    assert confirm_section(study, tmp_path).sentences == ["No repeat has finished yet."]
    params = row(setup_of(), random.Random(0)).params
    study = repeated(store(tmp_path), {"trial 1": (params, [0.7])})
    section = confirm_section(study, tmp_path)
    assert section.sentences[0].startswith("Not judged yet")
    assert section.tables[0].rows[0][0] == "trial 1"


def test_a_study_of_another_name_is_reported_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = store(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("first", "second"):
        setup = setup_of(name)
        study = open_study(storage, setup)
        set_total(study, 3)
        study.add_trials(rows(setup, 3))
    out = tmp_path / "report.html"
    assert reported(tmp_path, out, "--study", "first") == 0
    assert capsys.readouterr().err == f"the report on first is in {out}\n"
    assert "<title>Study first</title>" in out.read_text()


def test_no_password_of_the_store_is_in_the_page(postgres_url: str, tmp_path: Path) -> None:
    setup = setup_of()
    study = open_study(open_storage(postgres_url), setup)
    study.add_trials(rows(setup, 30))
    secret = postgres_url.replace("postgres:@", "postgres:hunter2@")
    assert secret != postgres_url
    out, text = tmp_path / "report.html", tmp_path / "report.md"
    flags = ["--out", str(out), "--markdown", str(text), "--runs", str(tmp_path)]
    assert main(["--storage", secret, *flags]) == 0
    for file in (out, text):
        assert "hunter2" not in file.read_text()
        # the command that starts the next search names the store
        assert "postgres:***@" in file.read_text()
