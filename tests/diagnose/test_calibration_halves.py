"""The half that temperatures are fitted on, and the half that they are judged on."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from purrception.diagnose import calibration


def test_both_halves_hold_all_classes_where_these_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.arange(40).view(40, 1, 1)
    open_sites = SimpleNamespace(state_at=lambda _, indices, noise, t: SimpleNamespace(z=noise, open=indices >= 0))
    run = SimpleNamespace(
        held_out=object(),
        num=20,
        seed=0,
        network=None,
        objective=open_sites,
        rows=lambda tokens, count: (rows, rows[:, 0, 0] % 2),
        noise=lambda count, stream: rows.float(),
    )
    monkeypatch.setattr(calibration, "images_at_once", lambda network: 7)
    monkeypatch.setattr(calibration, "network_posterior", lambda network, labels: lambda z, t: z[..., None])
    halves = [
        torch.cat([codes for _, codes in calibration._parts(run, 0.5, half)])  # type: ignore[arg-type]
        for half in (0, 1)
    ]
    assert torch.equal(torch.cat(halves).sort().values, rows.flatten())
    assert all(set((half % 2).tolist()) == {0, 1} for half in halves)
