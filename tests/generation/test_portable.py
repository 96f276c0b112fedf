"""A saved pipeline where there is diffusers but not this package: the same images, from its own code."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import VQModel
from packaging.requirements import Requirement

from purrception import PurrceptionPipeline, PurrceptionTransformer
from purrception.flow import ObjectiveConfig, build_objective
from purrception.generation.scheduler import PurrceptionScheduler
from purrception.storage import DIGESTS_FILE
from purrception.tokenizers import VQConfig
from purrception.tokenizers.vq import RescaledVQModel
from purrception.utils.errors import InputError
from tests.conftest import ROOT, network_for, random_network

NEEDED = ("torch", "diffusers", "safetensors", "numpy", "pillow")
GENERATE = """
import json, sys
sys.path.append(sys.argv[1])
import numpy as np
import torch
from diffusers import DiffusionPipeline
for package in ("purrception", "tyro", "rich", "pydantic", "torchdiffeq", "sklearn", "accelerate"):
    try:
        __import__(package)
    except ImportError:
        continue
    sys.exit(f"{package} can be imported here")
for folder, calls in json.loads(sys.argv[2]).items():
    half = {"torch_dtype": torch.bfloat16} if folder.endswith("half") else {}
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, **half)
    pipe.set_progress_bar_config(disable=True)
    for number, call in enumerate(calls):
        out = pipe(**call)
        images = np.stack([np.asarray(image) for image in out.images])
        entropy = np.zeros(0) if out.entropy is None else out.entropy.numpy()
        path = np.zeros(0) if out.path_entropy is None else out.path_entropy.numpy()
        figures = {"indices": out.indices.numpy(), "entropy": entropy, "path": path, "nfe": out.nfe}
        np.savez(f"{folder}/{number}.npz", images=images, **figures)
"""
LOAD = """
import json, sys
sys.path.append(sys.argv[1])
from diffusers import DiffusionPipeline
for options in json.loads(sys.argv[3]):
    try:
        print(type(DiffusionPipeline.from_pretrained(sys.argv[2], **options)).__name__)
    except ValueError as error:
        print(" ".join(str(error).split()))
"""
SETTINGS: list[dict[str, Any]] = [
    {},
    {"class_labels": [3, 1, 1, 4], "guidance_scale": 2.0, "seed": 3},
    {"class_labels": 2, "num_images_per_prompt": 3, "solver": "heun", "num_inference_steps": 5, "seed": 1},
    {"num_images": 5, "solver": "dpmpp_2m", "timestep_spacing": "log_snr", "batch_size": 2},
]
OF_POSTERIOR: list[dict[str, Any]] = [
    {"num_images": 3, "temperature": "linear:1.0:0.7", "guidance_scale": 1.5, "guidance_interval": [0.1, 0.8]},
    {
        "num_images": 3,
        "solver": "stochastic",
        "eta": 1.0,
        "top_p": 0.8,
        "top_k": 9,
        "last_step": "draw",
        "seed": 2,
    },
    {"num_images": 2, "guidance_scale": 3.0, "guidance_space": "mean", "last_step": "argmax"},
]
OF_DFM: list[dict[str, Any]] = [
    {"num_images": 4, "temperature": 0.8},
    {"num_images": 4, "solver": "stochastic", "eta": 0.5, "guidance_scale": 2.0, "seed": 7},
    {"num_images": 2, "redraw": True},
]


def with_dependencies(names: Iterable[str]) -> dict[str, Distribution]:
    """Distributions and those that they need, of those that are installed."""
    found: dict[str, Distribution] = {}
    left = list(names)
    while left:
        name = left.pop().lower().replace("_", "-")
        if name in found:
            continue
        with contextlib.suppress(PackageNotFoundError):
            found[name] = distribution(name)
            needs = map(Requirement, found[name].requires or [])
            left += [each.name for each in needs if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to import from that holds what an environment with diffusers holds, and nothing else."""
    folder = tmp_path_factory.mktemp("site-packages")
    for installed in with_dependencies(NEEDED).values():
        for top in {file.parts[0] for file in installed.files or []} - {"..", "__pycache__"}:
            (folder / top).exists() or (folder / top).symlink_to(Path(str(installed.locate_file(top))))
    return folder


def run(program: str, bare: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """A program in that environment."""
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, str(bare), *arguments],
        env=os.environ | {"HF_HOME": str(bare.with_name("hub"))} | changes,
        capture_output=True,
        text=True,
        check=False,
    )


def save(folder: Path, objective: str, transformer: PurrceptionTransformer, vqvae: VQModel) -> Path:
    names = [f"class {label}" for label in range(transformer.num_classes)]
    scheduler = PurrceptionScheduler(num_inference_steps=4)
    pipeline = PurrceptionPipeline(transformer, vqvae, objective, "", names, scheduler)
    pipeline.register_to_config(tokenizer_hash=pipeline.tokenizer.fingerprint)
    pipeline.portable = True
    pipeline.save_pretrained(folder)
    return folder


def tokenizer(kind: str = "group") -> VQModel:
    model = VQConfig(codebook_size=17, codebook_dim=3, channels=(8, 8), normalisation=kind)
    return model.build(3, 16)


def rescaled() -> RescaledVQModel:
    sizes = {name: value for name, value in tokenizer().config.items() if not name.startswith("_")}
    return RescaledVQModel(**sizes, input_range=(0.0, 1.0))


def test_the_images_are_the_same_bit_for_bit(bare: Path, tmp_path: Path) -> None:
    models = {
        "linear": ("purrception", random_network(depth=2), tokenizer()),
        "geometric": (
            "purrception",
            random_network(
                depth=1, head_kind="geometric", evidence=True, norm="rms", mlp="swiglu", positions="rotary"
            ),
            tokenizer("none"),
        ),
        "cfm": ("cfm", network_for(build_objective(ObjectiveConfig("cfm"))), rescaled()),
        "half": ("purrception", random_network(depth=1, head_kind="factored", evidence=True), tokenizer()),
        "converted": ("dfm", random_network(depth=1, token_embedding=True, stored_positions=True), tokenizer()),
        "dfm": ("dfm", network_for(build_objective(ObjectiveConfig("dfm"))), tokenizer()),
    }
    calls = {
        "linear": SETTINGS + OF_POSTERIOR,
        "geometric": SETTINGS[:2] + OF_POSTERIOR,
        "cfm": SETTINGS,
        "half": SETTINGS[:2],
        "converted": OF_DFM,
        "dfm": SETTINGS[:2] + OF_DFM,
    }
    folders = {name: save(tmp_path / name, *parts) for name, parts in models.items()}
    asked = json.dumps({str(folders[name]): given for name, given in calls.items()})
    done = run(GENERATE, bare, asked)
    assert done.returncode == 0, done.stderr
    for name, folder in folders.items():
        ours = PurrceptionPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16 if name == "half" else None)
        for number, call in enumerate(calls[name]):
            out, theirs = ours(**call), np.load(folder / f"{number}.npz")
            assert np.array_equal(theirs["images"], np.stack([np.asarray(image) for image in out.images])), call
            assert np.array_equal(theirs["indices"], out.indices.numpy()), call
            assert out.entropy is None or np.array_equal(theirs["entropy"], out.entropy.numpy()), call
            assert out.path_entropy is None or np.array_equal(theirs["path"], out.path_entropy.numpy()), call
            assert theirs["nfe"] == out.nfe


@pytest.fixture(scope="module")
def portable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(
        tmp_path_factory.mktemp("portable") / "p", "purrception", random_network(depth=1), tokenizer("none")
    )


def test_the_code_is_found_under_each_of_diffusers_names(bare: Path, portable: Path) -> None:
    names = ("pipeline", str(portable), str(portable / "pipeline.py"))
    options = [{"custom_pipeline": name, "trust_remote_code": True} for name in names]
    done = run(LOAD, bare, str(portable), json.dumps(options))
    assert done.stdout.split() == ["PurrceptionGenerationPipeline"] * 3, done.stderr


def test_the_code_is_found_on_the_hub(bare: Path, portable: Path, tmp_path: Path) -> None:
    """Without a network, in a cache as the hub's own client lays it out."""
    cache, commit = tmp_path / "hub/models--someone--model", "a" * 40
    (cache / "refs").mkdir(parents=True)
    (cache / "refs/main").write_text(commit)
    shutil.copytree(portable, cache / "snapshots" / commit)
    options = json.dumps([{"trust_remote_code": True}])
    done = run(LOAD, bare, "someone/model", options, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert done.stdout.strip() == "PurrceptionGenerationPipeline", done.stderr


def test_no_code_runs_unless_it_is_trusted(bare: Path, portable: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    files = sorted(portable.rglob("*.py"))
    assert [path.relative_to(portable).as_posix() for path in files] == [
        "pipeline.py",
        "scheduler/scheduler.py",
        "transformer/transformer.py",
        "vqvae/vq.py",
    ]
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    digests = (portable / DIGESTS_FILE).read_text(encoding="utf-8")
    try:
        (portable / DIGESTS_FILE).unlink()
        for path, text in texts.items():
            path.write_text(text + f"\nopen({str(marker)!r}, 'a').close()\n", encoding="utf-8")
        PurrceptionPipeline.from_pretrained(portable)  # which never looks at them
        options: list[dict[str, Any]] = [{}, {"custom_pipeline": "pipeline"}, {"trust_remote_code": False}]
        done = run(LOAD, bare, str(portable), json.dumps(options))
        assert done.stdout.count("Pass `trust_remote_code=True`") == 3, done.stderr
        assert not marker.exists()
        done = run(LOAD, bare, str(portable), json.dumps([{"trust_remote_code": True}]))
        assert done.returncode == 0
        assert marker.exists()  # so that the absence above means something
    finally:
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")
        (portable / DIGESTS_FILE).write_text(digests, encoding="utf-8")


def test_a_change_of_the_code_is_seen_by_its_digest(portable: Path) -> None:
    listed = (portable / DIGESTS_FILE).read_text(encoding="utf-8")
    assert all(f"  {name}\n" in listed for name in ("pipeline.py", "transformer/transformer.py"))


def test_code_is_saved_again_where_there_was_code(portable: Path, tmp_path: Path) -> None:
    again = PurrceptionPipeline.from_pretrained(portable)
    again.save_pretrained(tmp_path / "with")
    assert (tmp_path / "with/pipeline.py").read_bytes() == (portable / "pipeline.py").read_bytes()
    again.portable = False
    again.save_pretrained(tmp_path / "without")
    assert not list((tmp_path / "without").rglob("*.py"))
    assert PurrceptionPipeline.from_pretrained(tmp_path / "without").portable is False


def test_the_code_is_as_its_source_is(portable: Path) -> None:
    """No name that is not defined, no import that is not used, nothing that a formatter would change."""
    settings = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    for command in (["check", "--ignore", "D1"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *settings, str(portable)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["pipeline.py", "transformer/transformer.py"])
def test_the_code_is_for_generating_alone(portable: Path, name: str) -> None:
    text = (portable / name).read_text(encoding="utf-8")
    for word in (
        "triton",
        "pydantic",
        "torchrun",
        "def loss",
        "def save_pretrained",
        "checkpoint_",
        "import purrception",
    ):
        assert word not in text
    assert len(text.splitlines()) < 2800


def test_an_index_that_names_other_code_is_refused(portable: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(portable, tmp_path / "copied")
    (copied / DIGESTS_FILE).unlink()
    index = json.loads((copied / "model_index.json").read_text(encoding="utf-8"))
    assert index["_class_name"] == ["pipeline", "PurrceptionGenerationPipeline"]
    assert index["vqvae"] == ["vq", "UnnormalisedVQModel"]
    for change in ({"_class_name": ["other", "Other"]}, {"transformer": ["other", "PurrceptionTransformer"]}):
        (copied / "model_index.json").write_text(json.dumps(index | change), encoding="utf-8")
        with pytest.raises(InputError, match=r"expected PurrceptionPipeline|accepted are"):
            PurrceptionPipeline.from_pretrained(copied)
