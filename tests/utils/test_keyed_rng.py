"""Random numbers depend on their key alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from purrception.utils.errors import InputError
from purrception.utils.keyed_rng import Stream, keyed_normal, keyed_rng, keyed_uniform, philox


def draw(*key: int) -> bytes:
    return keyed_rng(key[0], Stream(key[1]), key[2]).standard_normal(4).tobytes()


def test_equal_keys_give_equal_numbers_and_others_do_not() -> None:
    assert draw(1, 0, 2) == draw(1, 0, 2)
    keys = [(seed, stream, index) for seed in (0, 1, 2**63) for stream in Stream for index in (0, 1, 2**40)]
    assert len({draw(*key) for key in keys}) == len(keys)


def test_neighbouring_indices_are_uncorrelated_normals() -> None:
    draws = np.stack([keyed_rng(0, Stream.SAMPLING, i).standard_normal(64) for i in range(2000)])
    assert abs(draws.mean()) < 0.01
    assert abs(draws.std() - 1) < 0.01
    assert abs((draws[:-1] * draws[1:]).mean()) < 0.01


def test_values_are_part_of_the_contract() -> None:
    # A change here would change every image that anyone has made with a seed.
    first = keyed_rng(7, Stream.SAMPLING, 3).standard_normal(2)
    np.testing.assert_allclose(first, EXPECTED, rtol=1e-12)


EXPECTED = [-0.07747270639841249, 0.4286602385008318]


ONES = 2**32 - 1


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES, ONES, ONES, ONES), (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_words_are_those_that_the_authors_of_philox_publish(
    counter: tuple[int, ...], key: tuple[int, ...], words: tuple[int, ...]
) -> None:
    """The known answers of Philox4x32-10 that come with the paper's own implementation."""
    assert tuple(int(word) for word in philox([torch.tensor(word) for word in counter], key)) == words


def test_tensor_draws_depend_on_their_key_alone() -> None:
    numbers = torch.tensor([0, 5, 2**40, 2**62])
    for draw_rows in (keyed_uniform, keyed_normal):
        rows = draw_rows(3, Stream.TRAINING, numbers, (3, 5), part=1)
        assert rows.shape == (4, 3, 5)
        assert rows.dtype == torch.float32
        for number, row in zip(numbers, rows, strict=True):
            assert torch.equal(draw_rows(3, Stream.TRAINING, number[None], (3, 5), part=1)[0], row)
        seen = [
            draw_rows(seed, stream, numbers, (3, 5), part=part)
            for seed, stream, part in (
                (3, Stream.TRAINING, 1),
                (4, Stream.TRAINING, 1),
                (3 + 2**32, Stream.TRAINING, 1),
                (3, Stream.SAMPLING, 1),
                (3, Stream.TRAINING, 0),
                (3, Stream.TRAINING, 2**23),
            )
        ]
        assert len(torch.cat(seen).flatten(1).unique(dim=0)) == 4 * len(seen)
    with pytest.raises(InputError, match="a seed lies in"):
        keyed_normal(-1, Stream.TRAINING, numbers, (1,))


def test_tensor_draws_have_their_law() -> None:
    """Moments and tails of a million numbers, within four standard errors."""
    numbers = torch.arange(4000)
    uniform = keyed_uniform(0, Stream.TRAINING, numbers, (250,)).double()
    assert 0 <= uniform.min() < 1e-5
    assert 1 - 1e-5 < uniform.max() < 1
    assert uniform.mean().item() == pytest.approx(0.5, abs=4 * 12**-0.5 / 1000)
    normal = keyed_normal(0, Stream.TRAINING, numbers, (250,)).double()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert normal.pow(power).mean().item() == pytest.approx(moment, abs=4 * variance**0.5 / 1000)
    inside = (normal.abs() < 1).double().mean().item()
    assert inside == pytest.approx(math.erf(0.5**0.5), abs=4 * 0.47 / 1000)
    for shift in (1, 2, 3):  # neither along a row nor between images does one number tell of another
        assert abs((normal[:, shift:] * normal[:, :-shift]).mean().item()) < 4 / 990
        assert abs((normal[shift:] * normal[:-shift]).mean().item()) < 4 / 990


def test_tensor_values_are_part_of_the_contract() -> None:
    """What a resumed training draws must be what it drew before."""
    drawn = keyed_normal(7, Stream.TRAINING, torch.tensor([3]), (3,))[0]
    torch.testing.assert_close(drawn, torch.tensor(TENSOR_EXPECTED), rtol=1e-6, atol=0)


TENSOR_EXPECTED = [0.7288839817047119, 0.7178203463554382, -1.5432460308074951]
