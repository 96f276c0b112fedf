"""Costs against counts made by hand."""

from __future__ import annotations

import pytest

from purrception.models import TRAINING_PASSES, PurrceptionTransformer, forward_flops, training_flops


@pytest.mark.parametrize("patch", [1, 2])
def test_a_forward_pass_costs_what_its_matrix_products_do(patch: int) -> None:
    depth, width, codes, dim, side = 3, 32, 11, 4, 4
    network = PurrceptionTransformer(
        (side, side), codes, dim, 2, depth=depth, width=width, heads=2, patch_size=patch
    )
    tokens, sites = (side // patch) ** 2, side**2
    embed = 2 * tokens * dim * patch**2 * width
    block = 2 * tokens * width * (4 * width + 2 * 4 * width) + 4 * tokens**2 * width + 2 * width * 6 * width
    condition = 2 * (256 * width + width * width) + 2 * width * 2 * width
    head = 2 * sites * width * codes
    assert forward_flops(network) == embed + depth * block + condition + head


def test_a_step_counts_once_what_a_batch_shares() -> None:
    sizes = {"depth": 1, "width": 16, "heads": 2, "patch_size": 1}
    plain = PurrceptionTransformer((2, 2), 9, 3, 0, **sizes)
    assert training_flops(plain, 8) == TRAINING_PASSES * 8 * forward_flops(plain)
    ours = PurrceptionTransformer((2, 2), 9, 3, 0, **sizes, head_kind="geometric", head_rank=4, evidence=True)
    shared = 2 * 9 * 4 * (3 + 4)
    evidence = 8 * 2 * 4 * (3 + 1) * 9
    each = forward_flops(ours) - shared
    assert training_flops(ours, 8) == TRAINING_PASSES * (8 * each + shared) + evidence
