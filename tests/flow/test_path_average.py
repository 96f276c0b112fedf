"""The average of the entropy over the path: exact where it can be, and the same for any steps."""

from __future__ import annotations

import pytest
import torch

from purrception.flow import ObjectiveConfig, SamplingConfig, build_objective
from purrception.flow.objectives.base import PathAverage
from purrception.generation.sampler import sample_codes
from purrception.models import PurrceptionTransformer


@pytest.mark.parametrize(
    "times", [[0.0], [0.0, 0.5], [0.0, 0.1, 0.7, 0.95], [0.0, 0.4, 0.2, 0.2, 0.8], [0.5, 0.6]]
)
def test_what_falls_evenly_to_zero_has_half_of_its_first_value(times: list[float]) -> None:
    """Also where a solver goes back, or starts later than in pure noise."""
    average = PathAverage()
    assert average.value() is None
    for t in times:
        average.add(t, torch.tensor([1 - t, 3 * (1 - t)], dtype=torch.float64))
    first = 1 - times[0]
    value = average.value()
    assert value is not None
    torch.testing.assert_close(value, torch.tensor([first / 2, 3 * first / 2], dtype=torch.float64))


def test_the_average_depends_little_on_the_steps_where_the_last_entropy_does_much() -> None:
    torch.manual_seed(0)
    network = PurrceptionTransformer(
        grid=(4, 4), codebook_size=16, codebook_dim=4, num_classes=2, depth=1, width=16, heads=2, evidence=True
    ).eval()
    network.set_codebook(torch.randn(16, 4))
    objective = build_objective(ObjectiveConfig())
    found = {}
    for steps, solver, spacing in [
        (16, "euler", "uniform"),
        (16, "dpmpp_2m", "cosine"),
        (16, "heun", "uniform"),
        (128, "euler", "uniform"),
    ]:
        settings = SamplingConfig(num_inference_steps=steps, solver=solver, timestep_spacing=spacing)
        generation = sample_codes(network, objective, torch.zeros(32, dtype=torch.long), settings, 0, 32)
        assert generation.entropy is not None
        assert generation.path_entropy is not None
        found[steps, solver, spacing] = float(generation.entropy.mean()), float(generation.path_entropy.mean())
    last, path = zip(*found.values(), strict=True)
    assert max(path) < 1.1 * min(path), found
    assert max(last) > 5 * min(last), found
