"""Images generated for an evaluation: their codes are kept on disk, so that a killed job resumes where it was."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from purrception.data import array_to_pil
from purrception.evaluation.image_sets import NPZ_IMAGES, NPZ_LABELS, CodeImages
from purrception.evaluation.sealed import Sealed, read_sealed, write_sealed
from purrception.flow import SamplingConfig
from purrception.generation.pipeline import PurrceptionPipeline
from purrception.generation.sampler import sample_codes
from purrception.storage import one_writer, reading, save_png, whole_file, write_file
from purrception.tokenizers import fingerprint
from purrception.utils import distributed
from purrception.utils.errors import InputError
from purrception.utils.keyed_rng import Stream, keyed_rng
from purrception.utils.progress import ProgressBar, note

PART = 128
"""Images per file of codes; also the unit of work that is shared among processes."""
PART_FILE = "a part of generated codes"


@dataclass(frozen=True)
class Request:
    """Which images are generated; image i depends on this and on i alone."""

    settings: SamplingConfig
    seed: int = 0
    labels: Literal["balanced", "data"] = "balanced"
    """balanced: classes take turns; data: each label is drawn as often as it occurs among the training images."""
    label_shares: tuple[float, ...] = ()
    """For data: how often each class occurs among them."""

    def label(self, number: int, classes: int) -> int:
        """The label of image ``number``."""
        if classes == 0:
            return 0
        if self.labels == "balanced":
            return number % classes
        rng = keyed_rng(self.seed, Stream.EVALUATION, number, part=3)
        return int(rng.choice(classes, p=self.label_shares))


def describe(pipeline: PurrceptionPipeline, request: Request) -> dict[str, Any]:
    """Everything that the codes depend on."""
    return {
        "transformer_hash": fingerprint(pipeline.transformer),
        "tokenizer_hash": pipeline.tokenizer.fingerprint,
        "objective": pipeline.config.objective,
        "sampling": asdict(request.settings),
        "seed": request.seed,
        "labels": request.labels,
        "label_shares": list(request.label_shares),
        "precision": str(pipeline.dtype),
        "device": pipeline.device.type,
    }


def request_key(description: dict[str, Any]) -> str:
    """The name of a folder of codes: a hash of everything that they depend on, see :func:`describe`.

    Settings that were renamed enter under their first names, so that codes of earlier versions are found again.
    """
    first_names = {name: first for first, name in SamplingConfig.RENAMED.items()}
    sampling = {first_names.get(name, name): value for name, value in description["sampling"].items()}
    text = json.dumps({**description, "sampling": sampling}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Expected:
    """What the codes of a request must look like."""

    request: str
    """The request's key, which names their folder."""
    codes: int
    """Codes in the codebook, K."""
    grid: tuple[int, ...]
    labels: Callable[[range], list[int]]
    """Labels of images, by their numbers."""


class GeneratedCodes:
    """Files of codes in a folder, :data:`PART` images each, by number.

    Args:
        folder: where they are.
        num: how many images are requested.
        expected: what they must look like; by default, their digests alone are checked.
    """

    def __init__(self, folder: Path, num: int, expected: Expected | None = None) -> None:
        self.folder, self.num, self.expected = folder, num, expected
        self.parts = -(-num // PART)
        """Number of files."""
        self._read = lru_cache(maxsize=4)(self._load)
        self._told = False

    def numbers(self, number: int) -> range:
        """The images in a part."""
        return range(number * PART, min((number + 1) * PART, self.num))

    def part(self, number: int) -> tuple[np.ndarray, np.ndarray, int] | None:
        """Codes, labels and NFE of a part, no more than requested; ``None`` where it is missing or too short.

        Raises:
            InputError: it is damaged or altered.
        """
        path, rows = self._path(number), self.numbers(number)
        if not path.is_file():
            return None
        kept = read_sealed(path, PART_FILE)
        with reading(PART_FILE, path):
            indices, labels = kept.tensors["indices"].numpy(), kept.tensors["labels"].numpy()
            nfe = int(kept.tensors["nfe"][0])
            if len(indices) < len(rows):
                return None
            self._check(number, kept, indices, labels)
        if not kept.has_digest and not self._told:
            self._told = True
            note(
                f"the codes in {self.folder} are of an earlier version, which gave them no digest: they are used "
                "as they are; remove the folder to have them generated again"
            )
        return indices[: len(rows)], labels[: len(rows)], nfe

    def is_valid(self, number: int) -> bool:
        """Whether a part is there and valid; a line is printed about one that is damaged or altered."""
        try:
            return self.part(number) is not None
        except InputError as error:
            note(f"{error}; its images are generated again")
            return False

    def _check(self, number: int, kept: Sealed, indices: np.ndarray, labels: np.ndarray) -> None:
        rows, expected = range(number * PART, number * PART + len(indices)), self.expected
        if indices.dtype.kind not in "iu" or labels.dtype.kind not in "iu" or labels.shape != indices.shape[:1]:
            raise ValueError(f"codes of shape {list(indices.shape)} do not go with labels of {list(labels.shape)}")
        if len(rows) > PART:
            raise ValueError(f"a part has at most {PART} images; this one has {len(rows)}")
        if expected is None:
            return
        if kept.has_digest and kept.about != self._about(number):
            raise ValueError("it is another part, or of other images")
        if indices.shape[1:] != expected.grid or int(indices.min()) < 0 or int(indices.max()) >= expected.codes:
            raise ValueError(f"codes are below {expected.codes}, on a grid of {'×'.join(map(str, expected.grid))}")
        if labels.tolist() != expected.labels(rows):
            raise ValueError("its labels are not those that were requested")

    def _path(self, number: int) -> Path:
        return self.folder / f"codes-{number:05d}.safetensors"

    def _about(self, number: int) -> dict[str, Any]:
        return {"request": self.expected.request if self.expected else "", "part": number}

    def write(self, number: int, indices: torch.Tensor, labels: torch.Tensor, nfe: int, codes: int) -> None:
        """Write a part; its file appears whole or not at all."""
        content = {
            "indices": indices.to(torch.uint16 if codes <= 2**16 else torch.int32),
            "labels": labels.to(torch.int32),
            "nfe": torch.tensor([nfe], dtype=torch.int32),
        }
        write_sealed(self._path(number), content, self._about(number))

    @property
    def nfe(self) -> int:
        """Network evaluations per image, in the part that took most."""
        return max(self._read(number)[2] for number in range(self.parts))

    def rows(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes, int64 ``[n, h, w]``, and labels, int64 ``[n]``, of images by number."""
        found = [(self._read(number // PART), number % PART) for number in numbers.tolist()]
        indices = np.stack([part[0][row] for part, row in found]).astype(np.int64)
        return indices, np.array([part[1][row] for part, row in found], dtype=np.int64)

    def counts(self, codes: int) -> np.ndarray:
        """How often each code occurs, int64 ``[K]``."""
        total = np.zeros(codes, dtype=np.int64)
        for number in range(self.parts):
            total += np.bincount(self._read(number)[0].reshape(-1), minlength=codes)
        return total

    def _load(self, number: int) -> tuple[np.ndarray, np.ndarray, int]:
        part = self.part(number)
        if part is None:
            raise InputError(f"{self._path(number)} was there and is gone: run the same command again")
        return part


def generate(
    pipeline: PurrceptionPipeline,
    request: Request,
    num: int,
    parent: Path,
    batch_size: int = PART,
) -> GeneratedCodes:
    """Generate the codes that are missing, shared by all processes; each returns when all are there.

    They are kept below ``parent`` in a folder named by a hash of everything they depend on. What a killed job had
    finished is found again, and a request for more images adds to those that are there.

    Args:
        pipeline: the network and its tokenizer.
        request: which images.
        num: how many.
        parent: holds the folders of codes.
        batch_size: images that the network sees at a time.

    Raises:
        InputError: settings that the objective or the network cannot honour; another process generates the same
            images, or the disk is full.
    """
    network, description = pipeline.transformer, describe(pipeline, request)
    key = request_key(description)

    def labels_of(rows: range) -> list[int]:
        return [request.label(row, network.num_classes) for row in rows]

    codes = GeneratedCodes(parent / key, num, Expected(key, len(network.codebook), network.grid, labels_of))
    with one_writer(codes.folder):
        if distributed.rank() == 0:
            write_file(codes.folder / "request.json", json.dumps(description, indent=2))
        _generate_missing(codes, pipeline, request, batch_size)
        distributed.wait()
    return codes


def _generate_missing(
    codes: GeneratedCodes, pipeline: PurrceptionPipeline, request: Request, batch_size: int
) -> None:
    """This process's share of the parts that are not there."""
    network, objective = pipeline.transformer.eval(), pipeline.objective
    own = [number for number in distributed.share(codes.parts) if not codes.is_valid(number)]
    total, done = sum(len(codes.numbers(number)) for number in own), 0
    with ProgressBar(f"guidance {request.settings.guidance_scale:g}", total, silent=not own) as bar:
        for number in own:
            numbers = codes.numbers(number)
            labels = torch.tensor([request.label(image, network.num_classes) for image in numbers])
            samples = sample_codes(
                network,
                objective,
                labels,
                request.settings,
                request.seed,
                batch_size,
                on_progress=lambda part, before=done: bar.update(before + part),  # type: ignore[misc]
                first=numbers.start,
            )
            codes.write(number, samples.indices, labels, samples.nfe, len(network.codebook))
            done += len(numbers)


def images_of(codes: GeneratedCodes, pipeline: PurrceptionPipeline, *, truncate: bool = False) -> CodeImages:
    """The images of generated codes, decoded as they are read."""
    classes = pipeline.transformer.num_classes
    names = tuple(pipeline.class_names) or tuple(map(str, range(classes)))
    return CodeImages(codes.num, codes.rows, pipeline.tokenizer, names, truncate=truncate)


def save_images(images: CodeImages, folder: Path, kind: Literal["png", "npz"], manifest: dict[str, Any]) -> Path:
    """Write generated images for other evaluators, beside their codes; returns where they are.

    PNGs are named by their numbers, ``png-N/000000.png`` and so on, so that no two share a name; ``images-N.npz``
    has ADM's layout. What a killed job had written is kept.
    """
    name = f"{len(images)}{'-truncated' if images.truncate else ''}"
    path = folder / (f"png-{name}" if kind == "png" else f"images-{name}.npz")
    with one_writer(folder):
        if kind == "png":
            _save_pngs(images, path)
        elif distributed.rank() == 0 and not path.is_file():
            with whole_file(path) as partial:
                _save_npz(images, partial, manifest)
        distributed.wait()
    return path


def _save_pngs(images: CodeImages, folder: Path) -> None:
    """Shared by all processes."""
    folder.mkdir(parents=True, exist_ok=True)
    own = distributed.share(-(-len(images) // PART))
    with ProgressBar("images", len(own), silent=len(own) < 2) as bar:
        for done, part in enumerate(own, start=1):
            rows = range(part * PART, min((part + 1) * PART, len(images)))
            paths = [folder / f"{number:06d}.png" for number in rows]
            if not all(path.is_file() for path in paths):
                for path, (array, _) in zip(paths, images.read(rows), strict=True):
                    save_png(array_to_pil(array), path)
            bar.update(done)


def _save_npz(images: CodeImages, path: Path, manifest: dict[str, Any]) -> None:
    """ADM's layout, a part at a time: ``arr_0``, uint8 ``[n, H, W, 3]``, labels ``arr_1``, and the manifest."""
    shape = (len(images), *images.read(range(1))[0][0].shape[:2], 3)
    labels: list[int] = []
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        with archive.open(f"{NPZ_IMAGES}.npy", "w", force_zip64=True) as stream:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(stream, header)
            for start in range(0, len(images), PART):
                part = images.read(range(start, min(start + PART, len(images))))
                levels = np.stack([array for array, _ in part])
                stream.write(np.broadcast_to(levels, (len(part), *shape[1:])).tobytes())
                labels += [label for _, label in part]
        for name, array in ((NPZ_LABELS, np.array(labels)), ("manifest", np.array(json.dumps(manifest)))):
            with archive.open(f"{name}.npy", "w") as stream:
                np.lib.format.write_array(stream, array)
