"""Worker processes map one decoded copy of the faces; none holds its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.data.dataset import load_faces

IMAGES, SIZE = 60, 96

# a worker: touches every picture and mask, says so, and stays until its input is closed
TOUCH = f"""
import sys
from trainer.data.dataset import load_faces
data = load_faces("synthetic", image_size={SIZE}, synthetic_images={IMAGES})
print(int(data.train.images.sum()) + int(data.train.masks.sum()), flush=True)
sys.stdin.read()
"""


def kilobytes(pid: int, folder: Path, name: str) -> int:
    """Sum of one figure over what a process has mapped from a folder."""
    inside, total = False, 0
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = str(folder) in line
        elif inside and line.startswith(f"{name}:"):
            total += int(line.split()[1])
    return total


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs /proc of Linux")
def test_two_workers_share_the_decoded_faces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACE_PARSING_CACHE", str(tmp_path))
    train = load_faces("synthetic", image_size=SIZE, synthetic_images=IMAGES).train
    whole = (train.images.nbytes + train.masks.nbytes) // 1024
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", TOUCH],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert int(worker.stdout.readline()) > 0
        for worker in workers:
            mapped = {n: kilobytes(worker.pid, tmp_path, n) for n in ("Rss", "Pss")}
            assert mapped["Rss"] >= whole
            # what two processes map counts half for each; this process maps it as well
            assert mapped["Pss"] <= 0.6 * mapped["Rss"]
            private = kilobytes(worker.pid, tmp_path, "Private_Dirty")
            assert private == 0
    finally:
        for worker in workers:
            worker.communicate()
