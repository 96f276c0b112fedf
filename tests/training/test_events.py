"""What TensorBoard reads, and what happens to it on a full disk."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from purrception.storage import read_json_lines
from purrception.training.metrics import MetricsLog
from purrception.utils.errors import InputError
from tests.storage.test_storage import full


def test_trackio_takes_figures_and_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    program = (
        "import sys, numpy as np; from pathlib import Path;"
        "from purrception.training.metrics import MetricsLog;"
        "log = MetricsLog(Path('my run/metrics.jsonl'), 0, ('trackio',));"
        "log.write(1, {'loss': 0.5, 'reason': 'a text'}); log.image(1, 'samples', np.zeros((4, 4, 3), np.uint8));"
        "log.close()"
    )
    (tmp_path / "my run").mkdir()
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    assert [path.name for path in (tmp_path / "my run").iterdir()] == ["metrics.jsonl"]
    with contextlib.closing(sqlite3.connect(tmp_path / "trackio" / "purrception.db")) as stored:
        rows = stored.execute("select run_name, step, metrics from metrics").fetchall()
    assert {(name, step) for name, step, _ in rows} == {("my run", 1)}
    assert any(json.loads(metrics) == {"loss": 0.5} for *_, metrics in rows)


@pytest.mark.parametrize("passed", [0, 30, -30], ids=["at once", "later", "clock set back"])
def test_tensorboard_finds_figures_and_pictures_and_forgets_what_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passed: int
) -> None:
    clock = [time.time()]
    monkeypatch.setattr("time.time", lambda: clock[0])
    monkeypatch.setattr("os.getpid", lambda: 9)
    first = MetricsLog(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        first.write(step, {"loss": 1 / step, "reason": "a text"})
    first.image(3, "samples", np.zeros((4, 6, 3), np.uint8))
    clock[0] += passed
    monkeypatch.setattr("os.getpid", lambda: 10)
    second = MetricsLog(tmp_path / "metrics.jsonl", step=2)
    second.write(3, {"loss": 7.0})
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1.0), (2, 0.5), (3, 7.0)]
    assert events.Images("samples") == []  # of step 3, which was done again
    assert [row["step"] for row in read_json_lines(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_a_full_disk_is_met_by_the_thread_that_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write(1, {"loss": 1.0})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(Path, "open", lambda *_, **__: full())
    with pytest.raises(InputError, match=r"cannot write .*metrics\.jsonl \(No space left on device\)"):
        log.write(2, {"loss": 1.0})
    with pytest.raises(InputError, match=r"cannot write .*events\.out\.tfevents.* \(No space left on device\)"):
        log.image(2, "samples", np.zeros((4, 6, 3), np.uint8))
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
