"""The public tokenizers at their published size, by names and shapes alone."""

from __future__ import annotations

import pytest
import torch

from purrception.tokenizers import PUBLIC_TOKENIZERS
from tests.tokenizers.reference import PUBLISHED, Reference


@pytest.mark.parametrize("arch", PUBLISHED)
def test_at_full_size_every_tensor_is_accounted_for(arch: str) -> None:
    with torch.device("meta"):
        tensors = Reference(arch, PUBLISHED[arch]).state_dict()
    problem, dropped = PUBLIC_TOKENIZERS[arch].account(tensors)
    assert not problem, problem
    assert dropped == (("quantize.codebook_used",) if "ds" in arch else ())


def test_every_public_tokenizer_is_tested() -> None:
    assert set(PUBLISHED) == set(PUBLIC_TOKENIZERS)
