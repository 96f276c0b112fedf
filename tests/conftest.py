"""Shared fixtures: a tiny configuration, and one tiny run made by the real command line.

What takes seconds to import is imported where it is used: the process that hands the tests to others needs none of
it.
"""

from __future__ import annotations

import fcntl
import gc
import os

# Before torch is imported. Workers share the cores: threads that spin while they wait starve each other. And the
# hub is not asked for anything.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"}

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from PIL import Image

import purrception
from tests import forked
from tests.forked import python

if TYPE_CHECKING:
    from purrception.experiment.config import RunConfig
    from purrception.flow import Objective
    from purrception.models import PurrceptionTransformer

gc.disable()  # while tests are collected: what is imported stays

ROOT = Path(__file__).parents[1]
# Processes that tests start find what the tests found, wherever they run: PYTHONPATH=src need not be absolute.
PATHS = [str(ROOT), str(Path(purrception.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, PATHS))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # or Triton's extension says at the end what was not freed


def run_cli(
    *arguments: str | Path, cwd: Path, timeout: float = 300, fresh: bool = False, **options: Any
) -> subprocess.CompletedProcess[str]:
    """``purrception …`` as a person would start it.

    A process of its own, with its packages imported before (:mod:`tests.forked`) unless it is to be ``fresh``.
    """
    return subprocess.run(
        [sys.executable if fresh else python(), "-m", "purrception", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **options,
    )


def run_torchrun(
    *arguments: str | Path, cwd: Path, options: Sequence[str] = (), timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Two processes, as ``torchrun`` starts them on a machine without a GPU."""
    # standalone: a store of its own at a free port, so that tests may run side by side
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *options]
    return subprocess.run(
        [python(), *command, *map(str, arguments)],
        env=os.environ | {"PYTHON_EXEC": python()},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def tiny_config(runs: Path, **changes: object) -> RunConfig:
    """A run of seconds: every part of the real one, small."""
    from dataclasses import replace

    from purrception.data import DataConfig
    from purrception.evaluation import ClassifierConfig, EvaluationConfig
    from purrception.experiment.config import RunConfig, TokenizerConfig
    from purrception.flow import SamplingConfig
    from purrception.models import DiTConfig
    from purrception.tokenizers import TokenizerTrainingConfig, VQConfig
    from purrception.training import TrainingConfig

    config = RunConfig(
        name="tiny",
        runs=str(runs),
        data=DataConfig(source="digits", image_size=16),
        tokenizer=TokenizerConfig(
            model=VQConfig(codebook_size=16, codebook_dim=3, channels=(8, 8, 8)),
            training=TokenizerTrainingConfig(steps=6, batch_size=16, report_every=3),
        ),
        network=DiTConfig(depth=2, width=32, heads=2, patch_size=2),
        training=TrainingConfig(
            steps=8,
            batch_size=8,
            learning_rate=1e-2,
            warmup_steps=2,
            log_every=1,
            validate_every=4,
            sample_every=4,
            checkpoint_every=4,
        ),
        sampling=SamplingConfig(num_inference_steps=3),
        evaluation=EvaluationConfig(num=20, classifier=ClassifierConfig(steps=5)),
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def of_all_workers(factory: pytest.TempPathFactory) -> Path:
    """A temporary folder that all workers of this session share."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the first worker to ask makes, for all of them."""
    folder = of_all_workers(factory) / name
    with folder.with_suffix(".made").open("a+") as made:
        fcntl.flock(made, fcntl.LOCK_EX)
        made.seek(0)
        if not made.read():
            folder.mkdir()
            make(folder)
            made.write("whole")
    return folder


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run. Do not change it: copy it. A test that runs other tests may hand its own over."""
    from purrception.storage import dump_settings

    def make(folder: Path) -> None:
        (folder / "tiny.yaml").write_text(dump_settings(tiny_config(folder / "runs")))
        done = run_cli("train", "tiny.yaml", cwd=folder)
        assert done.returncode == 0, done.stderr

    if "TINY_RUN" in os.environ:
        return Path(os.environ["TINY_RUN"])
    return made_once(tmp_path_factory, "tiny", make) / "runs" / "tiny"


CLASS_FOLDERS = ("1", "2", "3")
"""Class folders by numbers that are not their labels."""


def save_pictures(folder: Path, classes: tuple[str, ...] = CLASS_FOLDERS, each: int = 8) -> None:
    rng = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = rng.integers(256, size=(16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders by numbers, and a short run whose paths were given as seen from here. Do not change: copy."""
    from purrception.storage import dump_settings

    folder = tmp_path_factory.mktemp("project")
    save_pictures(folder / "my pictures")
    config = yaml.safe_load(dump_settings(tiny_config(Path("my runs"))))
    config["data"] |= {"source": "folder", "root": "my pictures", "test_fraction": 0.3}
    config["training"] |= {"steps": 4, "decay": "cosine", "warmup_steps": 0, "sample_every": 0}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        from purrception.cli import main

        assert main(["train", "tiny.yaml"]) == 0
    return folder


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty home for everything that tests start, whose caches lie beside it: nothing meets a person's own."""
    home = of_all_workers(tmp_path_factory) / "home"
    home.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("XDG_CACHE_HOME", str(home.with_name("cache")))
        forked.ENVIRONMENT.update(os.environ)  # whatever the first test that starts something has changed
        forked.ENVIRONMENT["LOOKUPS"] = str(home.with_name("lookups"))
        yield home


@pytest.fixture
def network() -> PurrceptionTransformer:
    """A small network whose every weight is random, so that nothing holds by accident of a zero."""
    return random_network(depth=2)


def network_for(objective: Objective) -> PurrceptionTransformer:
    """A small network of random weights, for an objective."""
    return random_network(
        depth=1,
        input_channels=3 + objective.extra_channels,
        head_kind="regression" if objective.head_family == "regression" else "linear",
    )


def random_network(**settings: Any) -> PurrceptionTransformer:
    import torch

    from purrception.models import PurrceptionTransformer

    torch.manual_seed(0)
    made = PurrceptionTransformer(
        grid=(4, 6), codebook_size=17, codebook_dim=3, num_classes=5, width=32, heads=2, patch_size=2, **settings
    )
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    made.set_codebook(torch.randn(17, 3))
    return made.eval()


@pytest.fixture
def digits_recipe() -> RunConfig:
    from purrception.experiment.recipes import digits

    return digits()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test draws the same numbers every time."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _same_environment() -> Iterator[None]:
    """What a test, or a library that it imports, does to the environment ends with it."""
    before = dict(os.environ)
    yield
    for name in (os.environ.keys() | before.keys()) - {"PYTEST_CURRENT_TEST"}:
        if name not in before:
            del os.environ[name]
        elif os.environ.get(name) != before[name]:
            os.environ[name] = before[name]
