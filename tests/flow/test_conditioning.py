"""Given codes act on free ones as the law says, where the law is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from benchmarks.conditioning import Law, copies, echo, rare, share_made
from torch import Tensor

from purrception.flow import LinearPath, ObjectiveConfig, PredictionOptions, SamplingConfig, build_objective
from purrception.flow.conditioning import KnownCodes, KnownPath, tweedie_shift
from purrception.flow.guidance import Guidance
from purrception.flow.objectives import Purrception
from purrception.generation.editing import Editor
from purrception.utils.errors import InputError
from tests.conftest import network_for


@pytest.mark.parametrize(("law", "given"), [(copies(0.9), 0), (rare(0.02), 1)], ids=["copies", "rare"])
def test_the_posterior_of_what_is_given_makes_the_conditional_law(law: Law, given: int) -> None:
    """Two sites, 0.900 in either law; by replacement 0.67 and 0.24."""
    made = share_made(law, [given], "posterior", count=2000, steps=30)
    assert made == pytest.approx(law.given([given]), abs=0.025)
    assert share_made(law, [given], "replacement", count=2000, steps=30) < 0.75


def test_resampling_follows_many_views_of_what_is_given() -> None:
    """Nearer to the law than replacement, and where several sites say the same, nearer than the posterior."""
    made = share_made(copies(0.9), [0], "resampling", count=1000, steps=20)
    assert 0.8 < made < 0.93
    repeated = echo(4, 0.7)
    assert share_made(repeated, [0] * 4, "resampling", count=1000, steps=20) == pytest.approx(0.7, abs=0.05)
    assert share_made(repeated, [0] * 4, "posterior", count=1000, steps=20) > 0.77  # takes an echo for news


def test_going_back_has_the_law_of_the_path() -> None:
    path, t, s = LinearPath(), 0.3, 0.7
    z_1 = torch.randn(1, dtype=torch.float64)
    z_s = s * z_1 + (1 - s) * torch.randn(200_000, dtype=torch.float64)
    z_t = path.back(z_s, torch.randn(200_000, dtype=torch.float64), s, t)
    assert float(z_t.mean()) == pytest.approx(float(t * z_1), abs=0.01)
    assert float(z_t.std()) == pytest.approx(1 - t, abs=0.01)
    with pytest.raises(ValueError, match="earlier time"):
        path.back(z_s, z_s, t, s)


def test_the_pull_is_the_gradient_of_the_given_codes() -> None:
    """Against finite differences of a network's own −ln π, guided."""
    objective = build_objective(ObjectiveConfig())
    assert isinstance(objective, Purrception)
    network = network_for(objective).double()
    for parameter in network.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    indices, labels, t = torch.randint(17, (1, 4, 6)), torch.tensor([2]), 0.4
    free = torch.zeros(1, 4, 6, dtype=torch.bool)
    free[:, :2] = True
    z = torch.randn(1, network.codebook.shape[1], 4, 6, dtype=torch.float64)
    guidance = Guidance(1.5)

    def nll(state: Tensor) -> Tensor:
        features = guidance.features(network, state, t, labels, network.num_classes)
        return network.head.nll(features, indices).nll.where(~free, 0).sum()

    shift, direction, step = tweedie_shift(nll, z, t), torch.randn_like(z), 1e-3
    with torch.no_grad():
        slope = float(nll(z + step * direction) - nll(z - step * direction)) / (2 * step)
    assert float((shift * direction).sum()) == pytest.approx(-((1 - t) ** 2) / t * slope, rel=2e-2)
    options = PredictionOptions(guidance=guidance)
    moved = objective.predict_conditioned(network, z, t, labels, options, KnownCodes(indices, free))
    plain = objective.predict(network, z, t, labels, options)
    torch.testing.assert_close(moved.mean - plain.mean, shift.to(moved.mean), rtol=1e-3, atol=1e-5)


def test_what_each_way_costs() -> None:
    objective = build_objective(ObjectiveConfig())
    editor = Editor(network_for(objective), objective, SamplingConfig(num_inference_steps=5))
    indices, free = torch.randint(17, (2, 4, 6)), torch.rand(2, 4, 6) < 0.5
    labels = torch.tensor([0, 1])
    cost = {
        way: replace(editor, conditioning=way).inpaint(indices, free, labels).nfe
        for way in ("auto", "posterior", "replacement", "resampling")
    }
    assert cost == {"auto": 5, "posterior": 5, "replacement": 5, "resampling": 41}


def test_ways_that_a_model_does_not_have_are_refused() -> None:
    for name in ("cfm", "dfm"):
        objective = build_objective(ObjectiveConfig(name=name))
        editor = Editor(
            network_for(objective), objective, SamplingConfig(num_inference_steps=2), conditioning="posterior"
        )
        with pytest.raises(InputError, match="cannot be conditioned by 'posterior'; accepted are auto"):
            editor.inpaint(torch.zeros(1, 4, 6, dtype=torch.long), torch.eye(4, 6)[None] > 0, torch.tensor([0]))
    with pytest.raises(InputError, match="did you mean 'posterior'"):
        KnownCodes(torch.zeros(1, 1, 1), torch.ones(1, 1, 1) > 0, conditioning="posteriour")


def test_known_sites_are_held_on_their_path_from_their_time_on() -> None:
    free = torch.tensor([[[True, False]]])
    z_1, noise = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[5.0, 6.0]]]])
    path = KnownPath(KnownCodes(torch.zeros(1, 1, 2, dtype=torch.long), free, since=0.5), z_1, noise)
    z = torch.tensor([[[[7.0, 8.0]]]])
    assert path.at(0.75).flatten().tolist() == [2.0, 3.0]
    assert torch.equal(path.hold(z, 0.25), z)
    assert path.hold(z, 0.75).flatten().tolist() == [7.0, 3.0]
    assert torch.equal(path.data(z, 0.25), z)
    assert path.data(z, 0.75).flatten().tolist() == [7.0, 2.0]


def test_sampling_from_known_codes_begins_at_their_start() -> None:
    indices, free = torch.tensor([[[3, 4]]]), torch.tensor([[[True, False]]])
    known = KnownCodes(indices, free, start=0.3)
    assert known.timesteps_from_start((0.0, 0.25, 0.5, 1.0)) == (0.3, 0.5, 1.0)
    assert KnownCodes(indices, free).timesteps_from_start((0.0, 1.0)) == (0.0, 1.0)
    assert known.keep(torch.tensor([[[7, 8]]])).tolist() == [[[7, 4]]]
    with pytest.raises(InputError, match="starts at a time"):
        KnownCodes(indices, free, start=1.0)
    with pytest.raises(InputError, match="at least once"):
        KnownCodes(indices, free, repetitions=0)
