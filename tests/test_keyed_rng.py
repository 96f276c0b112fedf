"""Random numbers depend on their key alone."""

from __future__ import annotations

import numpy as np

from purrception.keyed_rng import Stream, keyed_rng


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
