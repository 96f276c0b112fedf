"""The chunked loss and posterior: whatever the chunks, the numbers are those of the full logits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from purrception.flow import Evidence, Truncation, posterior_from_logits
from purrception.models import CATEGORICAL_HEADS, CategoricalHead, HeadConfig, plain_loss
from purrception.models.factored_logits import FactoredLogits
from purrception.models.head import build_head
from purrception.utils.errors import InputError

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
Z_LOSS = 1e-2


def random_head(
    kind: str, codes: int, dim: int = 3, width: int = 8, patch: int = 1, scale: float = 0.5
) -> CategoricalHead:
    """A head whose every weight is random."""
    head = build_head(HeadConfig(kind, rank=5), width, torch.randn(codes, dim), patch)
    assert isinstance(head, CategoricalHead)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=scale)
    return head


def full_evidence(evidence: Evidence, codebook: Tensor) -> Tensor:
    """Evidence of every site and code, from the float32 codebook, in float64."""
    columns = torch.cat([codebook, codebook.square().sum(1, keepdim=True)], dim=1)
    return evidence.coefficients.double() @ columns.double().T


def test_the_plain_loss_by_hand() -> None:
    """Two sites of weights 1 and 3 over two codes: π = (¾, ¼) and (½, ½), the codes 0 and 1."""
    log = math.log
    own = torch.tensor([[[[log(6.0), log(2.0)], [log(5.0), log(5.0)]]]], requires_grad=True)
    c, w, z_loss = torch.tensor([[[0, 1]]]), torch.tensor([[[1.0, 3.0]]]), 0.1
    made = plain_loss(own, c, w, z_loss)
    cross_entropy = -log(3 / 4) - 3 * log(1 / 2)
    z = z_loss * (log(8) ** 2 + 3 * log(10) ** 2)
    figures = [cross_entropy + z, cross_entropy, z, log(8) + 3 * log(10), 1.0]  # of equals the first is taken
    assert [value.item() for value in vars(made).values()] == pytest.approx(figures)
    (gradient,) = torch.autograd.grad(made.total, own)  # w (π − 1_c + 2 λ_z ℓ π)
    first = [3 / 4 - 1 + 2 * z_loss * log(8) * 3 / 4, 1 / 4 + 2 * z_loss * log(8) * 1 / 4]
    second = [3 * (1 / 2 + z_loss * log(10)), 3 * (1 / 2 - 1 + z_loss * log(10))]
    assert gradient.flatten().tolist() == pytest.approx([*first, *second])


def test_evidence_and_soft_targets_in_the_plain_loss_by_hand() -> None:
    """Evidence turns π = (½, ½) into (⅓, ⅔), but the z-loss does not see it; y = (¼, ¾) is learned for 1_c."""
    log = math.log
    own, c, w = torch.zeros(1, 1, 1, 2), torch.tensor([[[0]]]), torch.ones(1, 1, 1)
    evidence = torch.tensor([0.0, log(2.0)]).view(1, 1, 1, 2)
    made = plain_loss(own, c, w, 0.5, evidence)
    assert float(made.cross_entropy) == pytest.approx(log(3))
    assert float(made.z_loss) == pytest.approx(0.5 * log(2) ** 2)
    assert made.accuracy == 0
    soft = plain_loss(own, c, w, 0.5, evidence, torch.tensor([0.25, 0.75]).view(1, 1, 1, 2))
    assert float(soft.cross_entropy) == pytest.approx(log(3) / 4 + 3 / 4 * log(3 / 2))


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(CATEGORICAL_HEADS),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    patch=st.sampled_from([1, 2]),
    cells=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2)),
    codes=st.integers(2, 37),
    chunk_bytes=st.integers(1, 3000),
    with_evidence=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_losses_and_gradients_are_those_of_the_full_logits(
    kind: str,
    dtype: torch.dtype,
    patch: int,
    cells: tuple[int, int, int],
    codes: int,
    chunk_bytes: int,
    with_evidence: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    batch, height, width = cells
    head = random_head(kind, codes, patch=patch).to(dtype)
    features = torch.randn(batch, height, width, 8, dtype=dtype, requires_grad=True)
    shape = (batch, height * patch, width * patch)
    targets, weights = torch.randint(codes, shape), torch.rand(shape)
    evidence = Evidence.of(torch.randn(batch, 3, *shape[1:]), torch.rand(batch)) if with_evidence else None

    def gradients(total: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(total, [features, *head.parameters()]))

    full = None if evidence is None else full_evidence(evidence, head.codebook).to(dtype)
    expected = plain_loss(head.logits(features), targets, weights.to(dtype), Z_LOSS, full)
    expected_gradients = gradients(expected.total)
    head.chunk_bytes = chunk_bytes
    made = head.loss(features, targets, Z_LOSS, evidence, weights)
    tolerance = TOLERANCES[dtype] * (10 if with_evidence and dtype == torch.float32 else 1)
    close = {"rtol": tolerance, "atol": tolerance}
    for field in fields(expected):
        torch.testing.assert_close(getattr(made, field.name), getattr(expected, field.name), **close)
    for mine, theirs in zip(gradients(made.total), expected_gradients, strict=True):
        torch.testing.assert_close(mine, theirs, **close)

    sites = head.nll(features, targets, evidence)
    total = (weights * (sites.nll + Z_LOSS * sites.logsumexp.square())).sum()
    torch.testing.assert_close(total, expected.total, **close)
    for mine, theirs in zip(gradients(total), expected_gradients, strict=True):
        torch.testing.assert_close(mine, theirs, **close)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(CATEGORICAL_HEADS),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    patch=st.sampled_from([1, 2]),
    codes=st.integers(2, 37),
    chunk_bytes=st.integers(1, 6000),
    truncation=st.sampled_from([Truncation(), Truncation(top_k=3), Truncation(top_p=0.7)]),
    temperature=st.sampled_from([1.0, 0.6]),
    with_evidence=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_the_posterior_is_that_of_the_full_logits(
    kind: str,
    dtype: torch.dtype,
    patch: int,
    codes: int,
    chunk_bytes: int,
    truncation: Truncation,
    temperature: float,
    with_evidence: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    head = random_head(kind, codes, patch=patch).to(dtype)
    features, uniforms = torch.randn(2, 2, 3, 8, dtype=dtype), torch.rand(2, 2 * patch, 3 * patch)
    evidence = Evidence.of(torch.randn(2, 3, *uniforms.shape[1:]), torch.rand(2)) if with_evidence else None
    own = head.logits(features)
    logits = (own if evidence is None else (own + full_evidence(evidence, head.codebook)).to(dtype)) / temperature
    whole = posterior_from_logits(logits, head.codebook, 1.0, truncation, uniforms, top=4)
    head.chunk_bytes = chunk_bytes
    made = head.posterior(features, evidence, temperature, truncation, uniforms, top=4)
    tolerance = TOLERANCES[dtype] * (10 if with_evidence and dtype == torch.float32 else 1)
    assert made.top is not None
    assert whole.top is not None
    torch.testing.assert_close(made.top.probabilities, whole.top.probabilities, rtol=tolerance, atol=tolerance)
    assert made.top.codes.shape == (*uniforms.shape, min(4, codes))
    assert torch.equal(made.top.codes[..., 0], made.codes)
    for name in ("mean", "entropy", "max_probability"):
        torch.testing.assert_close(getattr(made, name), getattr(whole, name), rtol=tolerance, atol=tolerance)
    assert torch.equal(made.codes, logits.argmax(-1))
    assert made.drawn is not None
    assert whole.drawn is not None
    assert (made.drawn == whole.drawn).float().mean() > 0.8  # a draw may fall on the edge between two codes
    if truncation == Truncation():
        probabilities = logits.softmax(-1)
        mean = torch.einsum("bhwk,kd->bdhw", probabilities, head.codebook.to(dtype))
        torch.testing.assert_close(made.mean, mean, rtol=tolerance, atol=tolerance)
        entropy = torch.special.entr(probabilities).sum(-1)
        torch.testing.assert_close(made.entropy, entropy, rtol=tolerance, atol=tolerance)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(CATEGORICAL_HEADS),
    patch=st.sampled_from([1, 2]),
    codes=st.integers(2, 61),
    chunk_bytes=st.integers(1, 6000),
    seed=st.integers(0, 2**16),
)
def test_under_bfloat16_all_figures_are_within_a_hundredth(
    kind: str, patch: int, codes: int, chunk_bytes: int, seed: int
) -> None:
    torch.manual_seed(seed)
    head = random_head(kind, codes, patch=patch, scale=0.3)
    for parameter in head.parameters():
        parameter.data = parameter.data.bfloat16().float()  # what is measured is the arithmetic
    features = torch.randn(2, 2, 3, 8).bfloat16().float().requires_grad_(True)
    shape = (2, 2 * patch, 3 * patch)
    targets, weights = torch.randint(codes, shape), torch.full(shape, 1 / (12 * patch**2))
    logits = head.logits(features)
    expected = plain_loss(logits, targets, weights, Z_LOSS)
    learned = [features, *head.parameters()]
    exact = torch.autograd.grad(expected.total, learned, retain_graph=True)
    head.chunk_bytes = chunk_bytes
    with torch.autocast("cpu", torch.bfloat16):
        made = head.loss(features, targets, Z_LOSS, None, weights)
        posterior = head.posterior(features)
    whole = posterior_from_logits(logits.detach().clone(), head.codebook)
    gradients = torch.autograd.grad(made.total, learned)
    pairs = [(getattr(made, name), getattr(expected, name)) for name in ("total", "cross_entropy", "z_loss")]
    pairs += [(posterior.mean, whole.mean), (posterior.entropy, whole.entropy)]
    pairs.append(tuple(torch.cat([part.flatten() for part in parts]) for parts in (gradients, exact)))
    # φ's own products round as well: autograd over full logits is as far off there.
    tolerance = 2e-2 if kind == "geometric" else 1e-2
    for mine, theirs in pairs:
        assert mine.dtype == torch.float32
        assert (mine - theirs).norm() <= tolerance * theirs.norm()


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_extreme_logits_stay_finite_and_exact(scale: float) -> None:
    head = random_head("linear", codes=11)
    features, targets = scale * torch.randn(1, 1, 1, 8, requires_grad=True), torch.tensor([[[4]]])
    made = head.loss(features, targets, 1e-5)
    made.total.backward()
    own = head.double().logits(features.double())
    expected = own.logsumexp(-1) - own[..., 4]
    torch.testing.assert_close(made.cross_entropy.double(), expected.squeeze(), rtol=1e-5, atol=1e-5)
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in head.parameters())
    posterior = head.float().posterior(features)
    assert posterior.mean.isfinite().all()
    assert (posterior.entropy >= 0).all()


@pytest.mark.parametrize("kind", CATEGORICAL_HEADS)
def test_bfloat16_is_near_and_its_sums_are_float32(kind: str) -> None:
    head, features = random_head(kind, codes=37, scale=0.2), torch.randn(2, 4, 4, 8)
    targets = torch.randint(37, (2, 4, 4))
    exact = head.loss(features, targets, Z_LOSS)
    gradients = torch.autograd.grad(exact.total, list(head.parameters()))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = head.loss(features, targets, Z_LOSS)
        posterior = head.posterior(features)
    assert rounded.total.dtype == posterior.mean.dtype == torch.float32
    torch.testing.assert_close(rounded.total, exact.total, rtol=1e-2, atol=0)
    for mine, theirs in zip(torch.autograd.grad(rounded.total, list(head.parameters())), gradients, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - theirs).norm() < 2e-2 * theirs.norm()
    whole = head.posterior(features)
    assert (posterior.mean - whole.mean).norm() < 2e-2 * whole.mean.norm()


def test_gradients_accumulate_and_scale_with_what_comes_after() -> None:
    head, features = random_head("factored", codes=9), torch.randn(1, 2, 2, 8)
    targets = torch.randint(9, (1, 2, 2))
    head.loss(features, targets).total.backward()
    once = [parameter.grad.clone() for parameter in head.parameters() if parameter.grad is not None]
    (3 * head.loss(features, targets).total).backward()
    for parameter, gradient in zip(head.parameters(), once, strict=True):
        torch.testing.assert_close(parameter.grad, 4 * gradient)


@pytest.mark.parametrize("kind", CATEGORICAL_HEADS)
def test_within_a_compiled_function_nothing_changes(kind: str) -> None:
    head, features = random_head(kind, codes=9), torch.randn(2, 3, 2, 8, requires_grad=True)
    targets = torch.randint(9, (2, 3, 2))
    head.chunk_bytes = 4 * 9 * 5

    def step(given: Tensor) -> tuple[Tensor, Tensor]:
        return head.loss(2 * given, targets, Z_LOSS).total.sin(), head.posterior(given.detach()).mean

    expected, mean = step(features)
    wanted = torch.autograd.grad(expected, [features, *head.parameters()])
    made, compiled_mean = torch.compile(step, backend="aot_eager")(features)
    torch.testing.assert_close(made, expected)
    torch.testing.assert_close(compiled_mean, mean)
    for mine, theirs in zip(torch.autograd.grad(made, [features, *head.parameters()]), wanted, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("with_evidence", [False, True])
def test_what_is_done_to_a_chunk_may_be_compiled(with_evidence: bool) -> None:
    head, features = random_head("linear", codes=9), torch.randn(2, 3, 2, 8, requires_grad=True)
    targets = torch.randint(9, (2, 3, 2))
    evidence = Evidence.of(torch.randn(2, 3, 3, 2), torch.rand(2)) if with_evidence else None
    head.chunk_bytes = 4 * 9 * 5 * (2 if with_evidence else 1)
    given = (features, targets, Z_LOSS, evidence)
    expected = head.loss(*given)
    wanted = torch.autograd.grad(expected.total, [features, *head.parameters()])
    posterior = head.posterior(features.detach(), evidence, 0.8, top=3)
    head.compile_chunks("aot_eager")
    made = head.loss(*given)
    compiled = head.posterior(features.detach(), evidence, 0.8, top=3)
    for name in ("mean", "entropy", "max_probability", "codes"):
        torch.testing.assert_close(getattr(compiled, name), getattr(posterior, name))
    assert compiled.top is not None
    assert posterior.top is not None
    torch.testing.assert_close(compiled.top.probabilities, posterior.top.probabilities)
    for field in fields(expected):
        torch.testing.assert_close(getattr(made, field.name), getattr(expected, field.name))
    for mine, theirs in zip(torch.autograd.grad(made.total, [features, *head.parameters()]), wanted, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_second_backward_pass_is_refused_rather_than_wrong() -> None:
    head = random_head("linear", codes=9)
    total = head.loss(torch.randn(1, 1, 1, 8), torch.zeros(1, 1, 1, dtype=torch.long)).total
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="one backward pass"):
        total.backward()


class LargestTensor(TorchDispatchMode):
    """Notes the largest tensor that any operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.numel())
        return result


@pytest.mark.parametrize("kind", CATEGORICAL_HEADS)
def test_no_tensor_of_sites_times_codes_exists(kind: str) -> None:
    codes, rows = 512, 8
    head, features = random_head(kind, codes), torch.randn(2, 16, 16, 8, requires_grad=True)
    head.chunk_bytes = 4 * 4 * codes * rows  # eight rows where four copies are held, more where fewer are
    evidence = Evidence.of(torch.randn(2, 3, 16, 16), torch.rand(2))
    with LargestTensor() as largest:
        head.loss(features, torch.randint(codes, (2, 16, 16)), Z_LOSS, evidence).total.backward()
        with torch.no_grad():
            head.nll(features, torch.randint(codes, (2, 16, 16)), evidence)
            head.posterior(features, evidence, 0.9, Truncation(top_k=5), torch.rand(2, 16, 16))
    assert 0 < largest.elements <= 4 * rows * codes < 2 * 16 * 16 * codes / 10


def test_chunks_cover_every_row_once_and_hold_at_least_one() -> None:
    logits = FactoredLogits(torch.zeros(7, 3), torch.zeros(4, 11, 3), torch.zeros(4, 11), (1, 2, 14))
    for chunk_bytes in (1, 44, 100, 132, 10**9):
        seen = torch.zeros(4, 7)
        for group, rows in logits.chunks(1, chunk_bytes):
            seen[group, rows] += 1
        assert (seen == 1).all()


def test_sites_come_back_to_their_places() -> None:
    logits = FactoredLogits(torch.zeros(6, 3), torch.zeros(4, 5, 3), torch.zeros(4, 5), (1, 4, 6))
    sites = torch.randn(1, 4, 6, 2)
    assert torch.equal(logits.join(logits.split(sites)), sites)
    assert torch.equal(logits.split(sites)[1, 0], sites[0, 0, 1])


def test_a_temperature_that_is_not_positive_is_refused() -> None:
    with pytest.raises(InputError, match="temperature"):
        random_head("linear", codes=5).posterior(torch.randn(1, 1, 1, 8), temperature=0.0)


def test_few_rows_of_many_codes_are_taken_in_tiles() -> None:
    logits = FactoredLogits(torch.randn(100, 4), torch.randn(1, 1000, 4), torch.zeros(1, 1000), (1, 10, 10))
    tiles = list(logits.tiles(1, chunk_bytes=4 * 40_000))  # room for forty rows
    assert [rows for _, rows, _ in tiles] == [slice(0, 100)]
    assert tiles[0][2] == [slice(start, start + 100) for start in range(0, 1000, 100)]
    assert [codes for _, _, codes in logits.tiles(1, chunk_bytes=4 * 70_000)] == [[slice(0, 1000)]] * 2


@pytest.mark.parametrize("with_evidence", [False, True])
def test_tiles_give_what_whole_rows_give(with_evidence: bool) -> None:
    torch.manual_seed(3)
    head = random_head("linear", 1000, patch=2).double()
    features = torch.randn(2, 8, 8, 8, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(1000, (2, 16, 16))
    evidence = Evidence.of(torch.randn(2, 3, 16, 16), torch.rand(2)) if with_evidence else None

    def all_of(chunk_bytes: int) -> list[Tensor]:
        head.chunk_bytes = chunk_bytes
        made = head.loss(features, targets, Z_LOSS, evidence)
        gradients = torch.autograd.grad(made.total, [features, *head.parameters()])
        posterior = head.posterior(features.detach(), evidence, 0.7, top=5)
        assert posterior.top is not None
        statistics = [posterior.mean, posterior.entropy, posterior.max_probability, posterior.codes]
        figures = [getattr(made, field.name) for field in fields(made)]
        return [*figures, *gradients, *statistics, posterior.top.codes, posterior.top.probabilities]

    for whole, tiled in zip(all_of(2**30), all_of(4 * 20_000), strict=True):
        torch.testing.assert_close(tiled, whole, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("chunk_bytes", [2**30, 4 * 20_000], ids=["whole", "tiles"])
@pytest.mark.parametrize("with_evidence", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_soft_targets_are_learned_as_full_logits_would(
    chunk_bytes: int, with_evidence: bool, share: float
) -> None:
    torch.manual_seed(5)
    codes = 1000
    head, teacher = (random_head("linear", codes, patch=2).double() for _ in range(2))
    features, taught = (torch.randn(2, 4, 4, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    targets, weights = torch.randint(codes, (2, 8, 8)), torch.rand(2, 8, 8)
    evidence = [None, None]
    if with_evidence:
        evidence = [Evidence.of(torch.randn(2, 3, 8, 8), torch.rand(2)) for _ in range(2)]
    full = [None if each is None else full_evidence(each, head.codebook) for each in evidence]
    own, theirs = head.logits(features), teacher.logits(taught)
    theirs = theirs if full[1] is None else theirs + full_evidence(evidence[1], teacher.codebook)
    y = (1 - share) * torch.nn.functional.one_hot(targets, codes).double() + share * theirs.softmax(-1).detach()
    expected = plain_loss(own, targets, weights.double(), Z_LOSS, full[0], y)
    learned = [features, *head.parameters()]
    head.chunk_bytes = chunk_bytes
    soft = teacher.soft_targets(taught, evidence[1], share)
    made = head.loss(features, targets, Z_LOSS, evidence[0], weights, soft)
    for field in fields(expected):
        torch.testing.assert_close(
            getattr(made, field.name), getattr(expected, field.name), rtol=1e-10, atol=1e-10
        )
    gradients = torch.autograd.grad(expected.total, learned)
    for mine, other in zip(torch.autograd.grad(made.total, learned), gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-11)


def test_soft_targets_that_do_not_fit_are_refused() -> None:
    head, features = random_head("linear", 9, patch=2), torch.randn(1, 2, 2, 8)
    targets = torch.zeros(1, 4, 4, dtype=torch.long)
    with pytest.raises(InputError, match="share of soft targets"):
        head.loss(features, targets, soft=head.soft_targets(features, share=1.5))
    for other in (random_head("linear", 10, patch=2), random_head("factored", 9, patch=2)):
        with pytest.raises(InputError, match="head of the same kind over the same codebook"):
            head.loss(features, targets, soft=other.soft_targets(features))


def test_codes_that_a_truncation_leaves_out_are_not_drawn() -> None:
    logits = torch.tensor([-5.0, 0.0, 1.0, -300.0]).expand(1, 4, 4, 4)
    uniforms = torch.zeros(1, 4, 4)  # the number that points at the first code of any mass
    drawn = posterior_from_logits(
        logits, torch.randn(4, 3), truncation=Truncation(top_k=2), uniforms=uniforms
    ).drawn
    assert drawn is not None
    assert (drawn == 1).all()
