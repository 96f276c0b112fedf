"""The page on a network of one's own runs as it stands, with fewer steps of training."""

from __future__ import annotations

import re
from typing import Any

import torch

from tests.documented import ROOT


def test_the_page_trains_and_samples() -> None:
    page = (ROOT / "docs/how-to/your-own-network.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    code = "\n".join(blocks)
    assert code.count("range(600)") == 1
    names: dict[str, Any] = {"__name__": "page"}
    exec(code.replace("range(600)", "range(60)"), names)
    codes, labels, out = names["codes"], names["labels"], names["out"]
    assert names["loss"] < 1.2  # ln 8 = 2.08 before training
    averages = torch.stack([codes[labels == label].float().mean(0) for label in range(10)])
    for made in (names["made"], out.indices):
        assert made.shape == (40, 8, 8)
        # each image is nearer to the average of its class than to that of the other classes
        distances = (made.float()[:, None] - averages).square().flatten(2).sum(-1)
        assert (distances.argmin(1) == names["wanted"]).float().mean() > 0.5
    assert out.nfe == 2 * (2 * 20 - 1)
    assert 0 < out.entropy.mean() < 2.08
