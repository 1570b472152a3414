"""What the report of a large study takes. `scripts/bench report`.

Fills a SQLite store with trials and times two programs on it, each as a process of its own: the
report, and beside it a page of Optuna's own figures (history, slices, importances, parallel
coordinates, intermediate values).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from scripts.benchmarks.common import ROOT, run, tell, write_figures
from scripts.benchmarks.large_study import NAME, filled, parser, setup_for

# the rival: what a person would write who has Optuna alone
RIVAL = """\
import sys, warnings
import optuna
from optuna import visualization as draw

warnings.simplefilter("ignore")
url, name, out = sys.argv[1:]
study = optuna.load_study(study_name=name, storage=url)
figures = [
    draw.plot_optimization_history(study),
    draw.plot_slice(study),
    draw.plot_param_importances(study),
    draw.plot_parallel_coordinate(study),
    draw.plot_intermediate_values(study),
]
parts = [it.to_html(full_html=False, include_plotlyjs=not i) for i, it in enumerate(figures)]
open(out, "w", encoding="utf-8").write("<html><body>" + "".join(parts) + "</body></html>")
"""


def timed(command: Sequence[str]) -> float:
    """Seconds that a command takes. Raises CalledProcessError where it fails."""
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def bench(args: argparse.Namespace, words: list[str]) -> int:
    """Measure, print, and write what is asked for."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/search.db"
        tell(f"{args.trials} trials of {args.epochs} epochs")
        filled(url, setup_for(args.epochs), args.trials)
        pages = {name: Path(folder) / f"{name}.html" for name in ("ours", "rival")}
        report = ["-m", "search.report", "--study", NAME, "--storage", url]
        seconds = {
            "ours": timed([sys.executable, *report, "--out", str(pages["ours"])]),
            "rival": timed([sys.executable, "-c", RIVAL, url, NAME, str(pages["rival"])]),
        }
        size_mb = {name: page.stat().st_size / 1e6 for name, page in pages.items()}
    ratio = [own["ours"] / own["rival"] for own in (seconds, size_mb)]
    print(
        f"the report: {seconds['ours']:.1f} s, {size_mb['ours']:.2f} MB; Optuna's figures"
        f" {seconds['rival']:.1f} s, {size_mb['rival']:.2f} MB; ratio {ratio[0]:.2f} in time,"
        f" {ratio[1]:.2f} in size"
    )
    write_figures(args, "scripts/bench report", words, {"seconds": seconds, "size_mb": size_mb})
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run(parser("scripts/bench report", __doc__), bench, argv)


if __name__ == "__main__":
    sys.exit(main())
