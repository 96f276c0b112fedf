"""Metrics from held-out codes, on a network that knows nothing: its posterior is uniform, so they are known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from purrception.evaluation import likelihood_bound
from purrception.evaluation.metrics.held_out import held_out_metrics
from purrception.flow import ObjectiveConfig, build_objective
from purrception.tokens import TokenDataset, write_tokens
from purrception.utils.errors import InputError
from tests.conftest import network_for

CODES, IMAGES = 17, 12


class CodeTokenizer:
    """A pixel's level is its code."""

    fingerprint = "codes"

    def __init__(self) -> None:
        self.codebook = torch.randn(CODES, 3)

    def encode(self, images: Tensor) -> Tensor:
        return ((images[:, 0] + 1) * 127.5).round().long()


class Codes:
    """Random codes of 4×6 sites, five classes in turn."""

    class_names = tuple("abcde")
    listing = "codes"

    def __init__(self, count: int) -> None:
        self.arrays = np.random.default_rng(0).integers(0, CODES, (count, 4, 6, 1), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.arrays[index], index % 5


def held_out(folder: Path, count: int = IMAGES) -> TokenDataset:
    write_tokens(Codes(count), CodeTokenizer(), folder, "test")  # type: ignore[arg-type]
    return TokenDataset(folder)


@pytest.mark.parametrize("name", ["purrception", "cfm", "dfm"])
def test_each_objective_gives_the_metrics_that_it_has(tmp_path: Path, name: str) -> None:
    objective, dataset = build_objective(ObjectiveConfig(name)), held_out(tmp_path)
    network = network_for(objective)
    found = held_out_metrics(network, objective, dataset)
    bound = likelihood_bound(network, objective, dataset)
    assert (found.bits_per_code, found.bits_error) == (bound.bits_per_code, bound.standard_error)
    assert found.bits_per_code > 0
    assert (found.cross_entropy is None) == (name == "cfm")
    assert (found.mean_error is None) == (name == "dfm")
    assert held_out_metrics(network, objective, dataset) == found  # its noise is keyed
    assert held_out_metrics(network, objective, dataset, seed=1) != found


@pytest.mark.parametrize("name", ["purrception", "dfm"])
def test_a_uniform_posterior_has_the_entropy_and_the_error_of_its_codebook(tmp_path: Path, name: str) -> None:
    objective, dataset = build_objective(ObjectiveConfig(name)), held_out(tmp_path)
    network = network_for(objective)
    for parameter in network.head.parameters():
        torch.nn.init.zeros_(parameter)
    found = held_out_metrics(network, objective, dataset)
    assert found.cross_entropy == pytest.approx(math.log(CODES), rel=1e-5)
    if name == "purrception":
        indices = torch.from_numpy(dataset.rows(np.arange(IMAGES))[0])
        z_1, mean = network.codebook[indices], network.codebook.mean(0)
        assert found.mean_error == pytest.approx(float((z_1 - mean).square().mean()), rel=1e-4)


def test_a_bound_needs_two_images(tmp_path: Path) -> None:
    objective = build_objective(ObjectiveConfig("purrception"))
    with pytest.raises(InputError, match="at least 2 held-out images; given 1"):
        held_out_metrics(network_for(objective), objective, held_out(tmp_path, 1))
