"""Editing codes: known codes stay, and free sites are sampled conditioned on them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from purrception.flow import (
    OBJECTIVES,
    SOLVERS,
    Generation,
    KnownCodes,
    LinearPath,
    ObjectiveConfig,
    Prediction,
    SamplingConfig,
    build_objective,
)
from purrception.generation.editing import Editor, Slerp, free_sites
from purrception.generation.sampler import KeyedDraws, sample_codes
from purrception.models import PurrceptionTransformer
from purrception.utils.errors import InputError
from purrception.utils.keyed_rng import Stream
from tests.conftest import network_for

SETTINGS = SamplingConfig(num_inference_steps=5)
LABELS = torch.tensor([0, 3, 5])


@pytest.fixture
def codes() -> tuple[Tensor, Tensor]:
    """Codes ``[3, 4, 6]``, and sites that are free; the third image is free everywhere."""
    indices, free = torch.randint(17, (3, 4, 6)), torch.rand(3, 4, 6) < 0.5
    free[2] = True
    return indices, free


class Seen:
    """Records what a network was shown."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.states: list[Tensor] = []

    def __call__(self, t: float, z: Tensor, prediction: Prediction) -> None:
        self.times.append(t)
        self.states.append(z)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_known_codes_stay_and_free_ones_are_sampled(
    name: str, strength: float, codes: tuple[Tensor, Tensor]
) -> None:
    objective = build_objective(ObjectiveConfig(name=name))
    indices, free = codes
    editor = Editor(network_for(objective), objective, SETTINGS, batch_size=2)
    generation = editor.inpaint(indices, free, LABELS, strength)
    assert torch.equal(generation.indices[~free], indices[~free])
    assert (generation.indices[free] != indices[free]).any()
    if generation.entropy is not None:
        assert generation.path_entropy is not None
        assert (generation.entropy[~free] == 0).all()
        assert (generation.path_entropy[~free] == 0).all()
        assert (generation.path_entropy[free] > 0).any()
    other = replace(editor, seed=1).inpaint(indices, free, LABELS, strength)
    assert not torch.equal(other.indices, generation.indices)


@pytest.mark.parametrize("solver", SOLVERS)
def test_known_codes_are_on_their_path_at_every_evaluation(
    network: PurrceptionTransformer, solver: str, codes: tuple[Tensor, Tensor]
) -> None:
    indices, free = codes
    seen = Seen()
    settings = replace(SETTINGS, solver=solver, tolerance=1e-1)
    objective = build_objective(ObjectiveConfig())
    Editor(network, objective, settings, seed=7, watch=seen).inpaint(indices, free, LABELS)
    noise = KeyedDraws(7, range(3), network, Stream.EDITING).normal(0)
    known = (~free)[:, None].expand_as(noise)
    assert len(seen.times) >= SETTINGS.num_inference_steps
    for t, z in zip(seen.times, seen.states, strict=True):
        path = LinearPath().sample(network.embed(indices), noise, torch.full((3,), t)).z_t
        torch.testing.assert_close(z[known], path[known], rtol=0, atol=1e-6)
        assert t == 0 or not torch.equal(z[~known], path[~known])


def test_the_solver_that_redraws_noise_still_lands_on_known_codes(codes: tuple[Tensor, Tensor]) -> None:
    objective = build_objective(ObjectiveConfig(name="dfm"))
    indices, free = codes
    settings = replace(SETTINGS, solver="stochastic", eta=1.0)
    seen = Seen()
    generation = Editor(network_for(objective), objective, settings, watch=seen).inpaint(indices, free, LABELS)
    assert torch.equal(generation.indices[~free], indices[~free])
    for z in seen.states:  # the last channel says [MASK]
        assert (z[:, -1][~free] == 0).all()
    assert (seen.states[0][:, -1][free] == 1).all()


def test_variations_start_on_the_path_of_the_image(
    network: PurrceptionTransformer, codes: tuple[Tensor, Tensor]
) -> None:
    seen = Seen()
    settings = replace(SETTINGS, num_inference_steps=10)
    generation = Editor(network, build_objective(ObjectiveConfig()), settings, watch=seen).vary(
        codes[0], LABELS, 0.25
    )
    assert seen.times == pytest.approx([0.75, 0.8, 0.9])
    assert generation.nfe == 3
    noise = KeyedDraws(0, range(3), network, Stream.EDITING).normal(0)
    expected = torch.lerp(noise, network.embed(codes[0]), 0.75)
    torch.testing.assert_close(seen.states[0], expected)


def test_the_mask_path_shows_the_share_of_codes_that_its_time_says() -> None:
    objective = build_objective(ObjectiveConfig(name="dfm"))
    seen = Seen()
    network = network_for(objective)
    indices = torch.randint(17, (64, 4, 6))
    labels = torch.zeros(64, dtype=torch.long)
    Editor(network, objective, SETTINGS, watch=seen).vary(indices, labels, strength=0.3)
    assert float(seen.states[0][:, -1].mean()) == pytest.approx(0.3, abs=0.04)


def test_an_edited_image_depends_on_its_number_alone(
    network: PurrceptionTransformer, codes: tuple[Tensor, Tensor]
) -> None:
    editor = Editor(network, build_objective(ObjectiveConfig()), SETTINGS)
    together = editor.inpaint(*codes, LABELS).indices
    for batch_size in (1, 2):
        assert torch.equal(replace(editor, batch_size=batch_size).inpaint(*codes, LABELS).indices, together)


@pytest.mark.parametrize("name", ["purrception", "dfm"])
def test_a_code_can_be_forced_from_a_moment_on(name: str, codes: tuple[Tensor, Tensor]) -> None:
    objective = build_objective(ObjectiveConfig(name=name))
    network = network_for(objective)
    draws = KeyedDraws(0, range(3), network)
    free = torch.ones(3, 4, 6, dtype=torch.bool)
    free[:, 1, 2] = False
    usual, forced = Seen(), Seen()
    with torch.no_grad():
        objective.generate(network, LABELS, draws, SETTINGS, watch=usual)
        known = KnownCodes(codes[0], free, since=0.5)
        generation = objective.generate(network, LABELS, draws, SETTINGS, known, forced)
    for t, before, after in zip(usual.times, usual.states, forced.states, strict=True):
        assert torch.equal(before, after) == (t < 0.5)
    assert torch.equal(generation.indices[~free], codes[0][~free])


def test_refining_never_touches_certain_tokens(network: PurrceptionTransformer) -> None:
    editor = Editor(network, build_objective(ObjectiveConfig()), SETTINGS)
    generation = sample_codes(network, editor.objective, LABELS, SETTINGS, seed=3, batch_size=8)
    assert generation.entropy is not None
    threshold = float(generation.entropy.quantile(0.7))
    certain = generation.entropy <= threshold
    refined = editor.refine(generation, LABELS, threshold)
    assert torch.equal(refined.indices[certain], generation.indices[certain])
    assert torch.equal(refined.entropy[certain], generation.entropy[certain])
    assert not torch.equal(refined.indices, generation.indices)
    assert not torch.equal(refined.entropy, generation.entropy)


def test_refining_leaves_images_that_are_certain(network: PurrceptionTransformer) -> None:
    editor = Editor(network, build_objective(ObjectiveConfig()), SETTINGS)
    indices = torch.randint(17, (3, 4, 6))
    entropy = torch.zeros(3, 4, 6)
    untouched = editor.refine(Generation(indices, entropy, 9), LABELS, 0.1)
    assert torch.equal(untouched.indices, indices)
    assert untouched.nfe == 0
    entropy[1, 0, 0] = 1.0
    one = editor.refine(Generation(indices, entropy, 9), LABELS, 0.1)
    assert (one.indices != indices).sum() <= 1
    assert torch.equal(one.indices[[0, 2]], indices[[0, 2]])
    with pytest.raises(InputError, match="no posterior"):
        editor.refine(Generation(indices, None, 9), LABELS, 0.1)
    with pytest.raises(InputError, match="at least 0; given -1"):
        editor.refine(Generation(indices, entropy, 9), LABELS, -1)


@pytest.mark.parametrize("name", ["purrception", "dfm"])
def test_interpolation_ends_on_the_images_of_its_seeds(name: str) -> None:
    objective = build_objective(ObjectiveConfig(name=name))
    network = network_for(objective)
    labels = torch.full((5,), 2)
    generation = Editor(network, objective, SETTINGS, seed=4).interpolate(labels, 9)
    for seed, end in ((4, 0), (9, -1)):
        alone = sample_codes(network, objective, labels[:1], SETTINGS, seed, batch_size=1)
        assert torch.equal(generation.indices[end], alone.indices[0])
    assert len({image.numpy().tobytes() for image in generation.indices}) >= 4


def test_noise_between_two_noises_is_noise(network: PurrceptionTransformer) -> None:
    first, second = KeyedDraws(0, [0], network), KeyedDraws(1, [0], network)
    weights = torch.linspace(0, 1, 9, dtype=torch.float64)
    between = Slerp(first, second, weights)
    normal = between.normal(0)
    a, b = first.normal(0), second.normal(0)
    torch.testing.assert_close(normal[[0, -1]], torch.cat([a, b]))
    lengths = normal.flatten(1).norm(dim=1)
    assert lengths.min() >= min(a.norm(), b.norm()) * 0.98
    cosines = torch.nn.functional.cosine_similarity(normal[:-1].flatten(1), normal[1:].flatten(1))
    assert float(cosines.max() - cosines.min()) < 0.01  # equal angles, nearly equal lengths
    uniform = between.uniform(3)
    assert torch.equal(uniform[0], first.uniform(3)[0])
    assert torch.equal(uniform[-1], second.uniform(3)[0])
    assert 0 <= uniform.min() <= uniform.max() < 1
    assert 0.35 < float(uniform.mean()) < 0.65
    same = Slerp(first, first, weights).normal(0)
    torch.testing.assert_close(same, a.expand_as(same))


def test_sites_that_a_mask_touches_are_free() -> None:
    rng = np.random.default_rng(0)
    for margin in (0, 1, 2):
        mask = rng.random((12, 16)) < 0.02
        free = free_sites(mask, (3, 4), margin)
        for row in range(3):
            for column in range(4):
                top, left = max(0, row - margin) * 4, max(0, column - margin) * 4
                touched = mask[top : (row + margin + 1) * 4, left : (column + margin + 1) * 4].any()
                assert bool(free[row, column]) == touched
    with pytest.raises(InputError, match="at least 0; given -1"):
        free_sites(mask, (3, 4), -1)


def test_a_watcher_can_stop(network: PurrceptionTransformer, codes: tuple[Tensor, Tensor]) -> None:
    def stop(t: float, z: Tensor, prediction: Prediction) -> None:
        if t > 0.3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        Editor(network, build_objective(ObjectiveConfig()), SETTINGS, watch=stop).inpaint(*codes, LABELS)


def test_mistakes_are_refused(network: PurrceptionTransformer, codes: tuple[Tensor, Tensor]) -> None:
    editor = Editor(network, build_objective(ObjectiveConfig()), SETTINGS)
    with pytest.raises(InputError, match="nothing to sample"):
        editor.inpaint(codes[0], torch.zeros_like(codes[1]), LABELS)
    for strength in (0.0, 1.1):
        with pytest.raises(InputError, match="strength is above 0"):
            editor.vary(codes[0], LABELS, strength)
    with pytest.raises(InputError, match="two ends; given 1"):
        editor.interpolate(LABELS[:1], 1)
    with pytest.raises(InputError, match="starts at a time"):
        KnownCodes(codes[0], codes[1], start=1.0)
