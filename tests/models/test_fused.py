"""Triton's kernels give what torch gives on chunks: on a GPU as they are, elsewhere under Triton's interpreter.

The interpreter has to be requested before Triton is imported, which torch may do on its own: without a GPU, one
test runs this file in a separate process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import Tensor

from purrception.flow import Evidence, HeadLosses, Posterior, Truncation
from purrception.models import CategoricalHead, HeadConfig
from purrception.models.fused import uses_triton
from purrception.models.head import build_head
from purrception.storage import dump_settings, read_json_lines
from purrception.utils.errors import InputError
from tests.conftest import run_cli, tiny_config
from tests.training.test_loop import make_trainer

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
RUNS_HERE = INTERPRETED or DEVICE == "cuda"
CLOSE = {"rtol": 2e-5, "atol": 2e-6}


def kernels(test: Callable[..., None]) -> Callable[..., None]:
    """A test that needs the kernels themselves."""
    reason = "needs a CUDA device, or TRITON_INTERPRET=1 from the start"
    return pytest.mark.gpu(pytest.mark.skipif(not RUNS_HERE, reason=reason)(test))


@pytest.mark.skipif(RUNS_HERE, reason="the kernels' own tests run in this process")
def test_the_kernels_pass_their_tests_under_the_interpreter(tiny_run: Path) -> None:
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"TRITON_INTERPRET": "1", "TINY_RUN": str(tiny_run)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.fixture(params=["on chip", "through a chunk"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of computing the logits, whatever the width would choose."""
    from purrception.models import fused

    width = 10**6 if request.param == "on chip" else 0
    for name in ("ON_CHIP_WIDTH", "POSTERIOR_ON_CHIP_WIDTH"):
        monkeypatch.setattr(fused, name, {2: width, 4: width})
    return request.param


def random_head(kind: str, codes: int, width: int, patch: int = 1, dim: int = 3, seed: int = 0) -> CategoricalHead:
    """A head whose every weight is random; its logits spread by about 3."""
    torch.manual_seed(seed)
    head = build_head(HeadConfig(kind, rank=7), width, torch.randn(codes, dim), patch)
    assert isinstance(head, CategoricalHead)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=3 * width**-0.5)
    return head.to(DEVICE)


class Case:
    """Features, targets and weights (some of them 0, as a mask leaves them) of a random head."""

    def __init__(self, head: CategoricalHead, batch: int, cells: tuple[int, int], t: float | None) -> None:
        self.head = head
        codes, dim = head.codebook.shape
        height, width = (n * head.patch_size for n in cells)
        self.features = torch.randn(batch, *cells, head.width).to(DEVICE).requires_grad_(True)
        self.targets = torch.randint(codes, (batch, height, width)).to(DEVICE)
        self.weights = (torch.rand(batch, height, width) * (torch.rand(batch, height, width) > 0.4)).to(DEVICE)
        self.weights /= self.weights.sum()
        self.evidence = None
        if t is not None:
            self.evidence = Evidence.of(
                torch.randn(batch, dim, height, width, device=DEVICE), torch.full((batch,), t, device=DEVICE)
            )

    def loss(self, kernel: str, z_loss: float, teacher: Case | None = None) -> tuple[HeadLosses, Tensor]:
        """Losses, and all gradients in a row."""
        self.head.use_kernel(kernel)  # type: ignore[arg-type]
        soft = None if teacher is None else teacher.head.soft_targets(teacher.features, teacher.evidence, 0.7)
        made = self.head.loss(self.features, self.targets, z_loss, self.evidence, self.weights, soft)
        found = torch.autograd.grad(3 * made.total, [self.features, *self.head.parameters()])
        return made, torch.cat([part.flatten() for part in found])

    @torch.no_grad()  # a posterior that is differentiated stays with torch
    def posterior(self, kernel: str, temperature: float = 1.0) -> Posterior:
        self.head.use_kernel(kernel)  # type: ignore[arg-type]
        return self.head.posterior(self.features.detach(), self.evidence, temperature)


def compare_losses(case: Case, z_loss: float, teacher: Case | None = None) -> None:
    expected, gradient = case.loss("torch", z_loss, teacher)
    made, found = case.loss("triton", z_loss, teacher)
    for field in fields(HeadLosses):
        torch.testing.assert_close(getattr(made, field.name), getattr(expected, field.name), **CLOSE)
    assert (found - gradient).norm() <= (1e-5 if case.evidence is None else 1e-4) * gradient.norm()


# Blocks are of 64 rows × 64 codes on chip in float32, 16 × 256 through a chunk: more, fewer, a multiple of each.
SIZES = [(300, 40, (10, 7)), (5, 3, (1, 2)), (256, 32, (4, 8))]


@kernels
@pytest.mark.usefixtures("form")
@pytest.mark.parametrize(("codes", "width", "cells"), SIZES)
@pytest.mark.parametrize(("t", "z_loss"), [(None, 0.0), (None, 1e-2), (0.9, 0.0), (0.98, 1e-2)])
def test_losses_and_gradients_are_those_of_the_chunks(
    codes: int, width: int, cells: tuple[int, int], t: float | None, z_loss: float
) -> None:
    compare_losses(Case(random_head("linear", codes, width), 1, cells, t), z_loss)


@kernels
@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("kind", ["linear", "factored", "geometric"])
def test_every_head_and_patch_goes_through_the_kernels(kind: str) -> None:
    case = Case(random_head(kind, 70, 12, patch=2), 2, (2, 3), 0.6)
    compare_losses(case, 1e-3)
    case.head.chunk_bytes = 4 * 70 * 5  # five rows to a chunk
    compare_losses(case, 1e-3)
    same_posterior(case)


@kernels
@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("t", [None, 0.6])
def test_soft_targets_are_learned_by_the_kernels_too(t: float | None) -> None:
    case = Case(random_head("linear", 270, 20), 1, (5, 4), t)
    for teacher_t in (None, 0.3):
        compare_losses(case, 1e-2, Case(random_head("linear", 270, 33, seed=1), 1, (5, 4), teacher_t))


def same_posterior(case: Case, temperature: float = 1.0) -> Posterior:
    expected, made = case.posterior("torch", temperature), case.posterior("triton", temperature)
    for name in ("mean", "entropy", "max_probability"):
        torch.testing.assert_close(getattr(made, name), getattr(expected, name), rtol=1e-4, atol=1e-5)
    assert torch.equal(made.codes, expected.codes)
    return made


@kernels
@pytest.mark.usefixtures("form")
@pytest.mark.parametrize(("codes", "width", "cells"), SIZES)
@pytest.mark.parametrize(("t", "temperature", "dim"), [(None, 0.6, 3), (0.5, 1.0, 8)])
def test_posteriors_are_those_of_the_chunks(
    codes: int, width: int, cells: tuple[int, int], t: float | None, temperature: float, dim: int
) -> None:
    same_posterior(Case(random_head("linear", codes, width, dim=dim), 1, cells, t), temperature)


@kernels
@pytest.mark.usefixtures("form")
def test_a_sharp_posterior_is_finite_and_certain() -> None:
    case = Case(random_head("linear", 300, 8), 1, (3, 3), 0.999)
    with torch.no_grad():
        case.features *= 1e4
    made = same_posterior(case, 0.5)
    assert made.max_probability.min() > 0.99
    loss, gradient = case.loss("triton", 1e-5)
    assert loss.total.isfinite()
    assert gradient.isfinite().all()


@kernels
@pytest.mark.usefixtures("form")
def test_of_equal_logits_the_first_code_counts() -> None:
    case = Case(random_head("linear", 900, 8), 1, (3, 3), None)
    torch.nn.init.zeros_(case.head.get_parameter("linear.weight"))
    torch.nn.init.zeros_(case.head.get_parameter("linear.bias"))
    assert (case.posterior("triton").codes == 0).all()
    case.targets = torch.arange(9, device=DEVICE).view(1, 3, 3) * 100
    case.weights = torch.full((1, 3, 3), 1 / 9, device=DEVICE)
    made, _ = case.loss("triton", 0.0)
    torch.testing.assert_close(made.accuracy, torch.tensor(1 / 9, device=DEVICE))
    torch.testing.assert_close(made.cross_entropy, torch.tensor(900.0, device=DEVICE).log())


@kernels
@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("t", [None, 0.6])
def test_under_bfloat16_the_kernels_are_as_near_to_the_truth_as_torch(t: float | None) -> None:
    case = Case(random_head("linear", 300, 100), 1, (7, 20), t)
    teacher = Case(random_head("linear", 300, 80, seed=1), 1, (7, 20), None)
    for each in (case, teacher):
        for number in (each.features, *each.head.parameters()):
            number.data = number.data.bfloat16().float()  # what is measured is the arithmetic
    for taught in (None, teacher):
        exact, gradient = case.loss("torch", 1e-2, taught)
        with torch.autocast(DEVICE, torch.bfloat16):
            made, found = case.loss("triton", 1e-2, taught)
        for field in fields(HeadLosses):
            torch.testing.assert_close(getattr(made, field.name), getattr(exact, field.name), rtol=5e-3, atol=0.02)
        assert (found - gradient).norm() < 2e-2 * gradient.norm()
    whole = case.posterior("torch")
    with torch.autocast(DEVICE, torch.bfloat16):
        posterior = case.posterior("triton")
    assert posterior.mean.dtype == torch.float32
    assert (posterior.mean - whole.mean).norm() < 2e-2 * whole.mean.norm()
    assert (posterior.entropy - whole.entropy).norm() < 1e-2 * whole.entropy.norm()


@kernels
@pytest.mark.usefixtures("form")
def test_equal_inputs_give_equal_bits() -> None:
    case = Case(random_head("linear", 300, 40), 1, (10, 7), 0.5)
    (first, gradient), (second, again) = (case.loss("triton", 1e-2) for _ in range(2))
    assert torch.equal(first.total, second.total)
    assert torch.equal(gradient, again)


@kernels
def test_what_the_kernels_do_not_do_stays_with_torch() -> None:
    case = Case(random_head("linear", 60, 8, dim=40), 1, (3, 3), 0.5)
    head, evidence, features = case.head, case.evidence, case.features.detach()
    compare_losses(case, 1e-2)  # 40 dimensions
    same_posterior(case)
    uniforms = torch.rand(1, 3, 3, device=DEVICE)
    head.use_kernel("triton")
    made = head.posterior(features, evidence, 0.8, Truncation(top_k=5), uniforms, top=4)
    head.use_kernel("torch")
    expected = head.posterior(features, evidence, 0.8, Truncation(top_k=5), uniforms, top=4)
    assert torch.equal(made.mean, expected.mean)
    assert made.top is not None
    assert made.drawn is not None
    double = Case(random_head("linear", 60, 8).double(), 1, (3, 3), None)
    double.features = double.features.detach().double().requires_grad_(True)
    compare_losses(double, 1e-2)


def test_a_kernel_that_cannot_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    head = build_head(HeadConfig(), 8, torch.randn(9, 3), 1)
    assert isinstance(head, CategoricalHead)
    with pytest.raises(InputError, match="did you mean 'triton'"):
        head.use_kernel("tritn")  # type: ignore[arg-type]
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(InputError, match=r"'triton' (needs the package|runs on a CUDA device; given cpu)"):
        head.use_kernel("triton")
    assert head.kernel == "auto"
    with pytest.raises(InputError, match="known: auto, torch, triton"):
        head.use_kernel("cuda")  # type: ignore[arg-type]


def test_left_to_the_device_it_is_triton_where_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"triton": True}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: there.get(name) or None)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    processor, gpu = torch.device("cpu"), torch.device("cuda")
    assert [uses_triton("auto", device) for device in (processor, gpu)] == [False, True]
    assert [uses_triton("triton", device) for device in (processor, gpu)] == [True, True]
    assert [uses_triton("torch", device) for device in (processor, gpu)] == [False, False]
    there.clear()
    assert not uses_triton("auto", gpu)


@kernels
def test_training_is_the_same_with_either_kernel(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("purrception.training.loop.VALIDATION_ROWS", 16)  # the interpreter is slow

    def curve(kernel: str) -> Tensor:
        trainer = make_trainer(tiny_run, tmp_path / kernel, steps=3, head_kernel=kernel, device=DEVICE)
        assert trainer.network.head.kernel == trainer.ema.average.head.kernel == kernel
        trainer.fit()
        lines = read_json_lines(tmp_path / kernel / "metrics.jsonl")
        return torch.tensor([line["loss"] for line in lines if "loss" in line])

    made, expected = curve("triton"), curve("torch")
    assert len(made) == 3
    torch.testing.assert_close(made, expected, rtol=1e-4 if DEVICE == "cpu" else 1e-2, atol=0)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter takes a processor")
def test_a_run_on_a_processor_refuses_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(dump_settings(tiny_config(tmp_path / "runs")))
    done = run_cli(
        "train", "tiny.yaml", "--training.head-kernel", "triton", "--training.device", "cpu", cwd=tmp_path
    )
    assert done.returncode == 2
    assert "the kernel 'triton'" in done.stderr
    assert not (tmp_path / "runs").exists()
