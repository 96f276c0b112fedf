"""The reference that images are compared with, under a named protocol."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from purrception.data import DataConfig, Split
from purrception.data.labels import MOST_CLASSES
from purrception.evaluation.extractors import Extractor
from purrception.evaluation.extractors.random_features import is_of_grey
from purrception.evaluation.features import FeatureCache, ImageFeatures, extract_features
from purrception.evaluation.image_sets import (
    NPZ_IMAGES,
    CodeImages,
    FolderOfImages,
    ImageSet,
    NpzImages,
    split_images,
)
from purrception.evaluation.metrics.statistics import FeatureStatistics
from purrception.evaluation.npz import listed, read_npz
from purrception.storage import read_limited, reading, write_file
from purrception.storage.readers import LARGEST_TEXT
from purrception.tokenizers import VQTokenizer
from purrception.tokens import MANIFEST_FILE, TokenDataset
from purrception.utils.errors import InputError, unknown_name

PROTOCOLS = {
    "adm-train": "the training images, whose statistics are the convention since ADM (arXiv 2105.05233)",
    "val": "held-out images",
    "custom": "other images, named below",
}
SPLITS: dict[str, tuple[Split, str]] = {"test": ("test", "val"), "train": ("train", "adm-train")}
ADM_FEATURES = "inception"
MEAN, COVARIANCE, SPATIAL_MEAN, SPATIAL_COVARIANCE = "mu", "sigma", "mu_s", "sigma_s"
NUMBERS = (MEAN, COVARIANCE, SPATIAL_MEAN, SPATIAL_COVARIANCE, "features", "logits")
DIGEST = "sha256"
KEPT_ARRAYS = (*NUMBERS, "labels", "count", "size", "content", "origin", DIGEST)
LARGEST_NUMBER = 1e100
"""Largest absolute value in features and statistics: the product of two is still finite."""
NOT_SYMMETRIC = 1e-5
"""By this share of a covariance's largest entry two that should be equal may differ through rounding."""
UNKNOWN_COUNT = 2**31
"""ADM's files do not say how many images their statistics are of: all of the training set."""


@dataclass(frozen=True)
class Origin:
    """Where saved statistics come from."""

    features: str
    """Name of the extractor."""
    fingerprint: str
    """Hash of the extractor; empty for files that others wrote."""
    protocol: str
    title: str


@dataclass(frozen=True)
class Reference:
    """Real images to compare with, or statistics saved of them."""

    title: str
    protocol: str
    """A name in ``PROTOCOLS``."""
    images: ImageSet | None
    """None where only statistics were saved."""
    saved: ImageFeatures | None = None
    origin: Origin | None = None
    """Where the saved statistics come from."""

    @property
    def grey(self) -> bool:
        """Whether none of the images has any colour; of texture statistics their dimension tells."""
        if self.images is not None:
            return self.images.grey
        assert self.saved is not None
        assert self.origin is not None
        return self.origin.features == "texture" and is_of_grey(self.saved.statistics.dimension)

    def features(self, extractor: Extractor, cache: FeatureCache, *, strict: bool) -> ImageFeatures:
        """The reference's features.

        Statistics from a file are taken as they are. Where the file holds images too, these add what needs single
        images: KID, precision and recall.

        Raises:
            InputError: the file's statistics are of another extractor.
        """
        mine = (extractor.name, extractor.fingerprint)
        theirs = mine
        if self.origin is not None:
            theirs = (self.origin.features, self.origin.fingerprint or extractor.fingerprint)
        if self.images is None:
            assert self.saved is not None
            if mine == theirs:
                return self.saved
            how = f"take --features {theirs[0]}"
            if theirs[0] == mine[0]:
                remedy = "give the --classifier saved with them" * (mine[0] == "classifier")
                how = f"they are of other weights or of another version: {remedy or 'save them again'}"
            raise InputError(
                f"{self.title} holds statistics of {_called(*theirs)}; needed are {_called(*mine)}: {how}, or "
                "take a reference with images"
            )
        seen = extract_features(self.images, extractor, cache, strict=strict, title="reference")
        if self.saved is None or mine != theirs:
            return seen
        saved = self.saved
        return replace(seen, statistics=saved.statistics, spatial=saved.spatial, content=saved.content)


def _called(features: str, fingerprint: str) -> str:
    return f"{features} features ({fingerprint[:12]}…)"


def open_reference(
    text: str,
    data: DataConfig | None,
    tokenizer: VQTokenizer | None,
    protocol: str = "",
) -> Reference:
    """Open the reference that a person names.

    Args:
        text: ``test`` or ``train`` (a split of the run's data), a folder of images, a folder of token shards, or
            an ``.npz``: ADM's, or one that ``--save-stats`` wrote.
        data: the run's images; none where images without a run are evaluated.
        tokenizer: the run's tokenizer, which decodes token shards.
        protocol: the protocol's name, where it is not that of the kind of reference.

    Raises:
        InputError: there is no such reference, or it cannot be used here.
    """
    if protocol and protocol not in PROTOCOLS:
        raise unknown_name("protocol", protocol, PROTOCOLS)
    path = Path(text)
    if text in SPLITS:
        if data is None:
            raise InputError(
                f"{text!r} is a split of a run's data; to compare images give a folder, shards or an .npz"
            )
        split, usual = SPLITS[text]
        title = f"{split} split of {data.source}{f' {data.root}' if data.root else ''}"
        return Reference(title, protocol or usual, split_images(data, split))
    if path.suffix == ".npz":
        return _open_npz(path, protocol)
    if _holds_tokens(path):
        if tokenizer is None:
            raise InputError(f"{path} holds token shards, which a run's tokenizer decodes: evaluate a run with it")
        return Reference(text, protocol or "custom", CodeImages.of_tokens(TokenDataset(path), tokenizer))
    if not path.is_dir():
        raise InputError(
            f"no reference at {text!r}: accepted are test, train, a folder of images, a folder of token shards, "
            "and an .npz with images or statistics"
        )
    return Reference(text, protocol or "custom", FolderOfImages(path))


def _holds_tokens(folder: Path) -> bool:
    file = folder / MANIFEST_FILE
    return file.is_file() and b"tokenizer_hash" in read_limited(file, LARGEST_TEXT, "a token manifest")


def _open_npz(path: Path, protocol: str) -> Reference:
    names, content = read_npz(path, KEPT_ARRAYS)
    images = NpzImages(path) if NPZ_IMAGES in names else None
    if MEAN not in content or COVARIANCE not in content:
        if images is None:
            raise InputError(
                f"{path} holds {listed(names)}; expected are {MEAN} and {COVARIANCE} (statistics), {NPZ_IMAGES} "
                "(images), or both"
            )
        return Reference(str(path), protocol or "custom", images)
    with reading("a file of statistics", path, "make it again"):
        saved, origin = _saved(content, path)
    return Reference(str(path), protocol or origin.protocol, images, saved, origin)


def _saved(content: dict[str, np.ndarray], path: Path) -> tuple[ImageFeatures, Origin]:
    """Statistics from a file, and features where it holds some, checked against each other."""
    if DIGEST in content and str(content[DIGEST]) != _digest(content):
        raise ValueError("its content is not what its digest says: it is damaged or altered")
    for name in NUMBERS:
        if name in content and (content[name].dtype.kind not in "fiu" or not np.isfinite(content[name]).all()):
            raise InputError(
                f"{path} holds {name} with values that are not finite (NaN or infinite), or no numbers: make it "
                "again"
            )
        if name in content and float(np.abs(content[name]).max(initial=0)) > LARGEST_NUMBER:
            raise InputError(f"{path} holds {name} with values beyond {LARGEST_NUMBER:g}: make it again")
    count = int(content["count"]) if "count" in content else UNKNOWN_COUNT
    origin = Origin(ADM_FEATURES, "", "adm-train", str(path))
    if "origin" in content:
        origin = TypeAdapter(Origin).validate_json(str(content["origin"]), strict=True)
    if origin.protocol not in PROTOCOLS:
        raise unknown_name("protocol", origin.protocol, PROTOCOLS)
    spatial = None
    if SPATIAL_MEAN in content and SPATIAL_COVARIANCE in content:
        spatial = _statistics(content, SPATIAL_MEAN, SPATIAL_COVARIANCE, count)
    own = content[MEAN].tobytes() + content[COVARIANCE].tobytes()
    saved = ImageFeatures(
        _statistics(content, MEAN, COVARIANCE, count),
        spatial,
        features=_tensor(content, "features"),
        logits=_tensor(content, "logits"),
        labels=_tensor(content, "labels"),
        size=tuple(content["size"].tolist()) if "size" in content else (),
        content=str(content.get("content", hashlib.sha256(own).hexdigest())),
    )
    _check_rows(saved)
    return saved, origin


def _check_rows(saved: ImageFeatures) -> None:
    """Check what the file holds of single images.

    Raises:
        ValueError: shapes that do not go together.
    """
    rows, features = None, saved.features
    if features is not None:
        rows = len(features)
        if features.dim() != 2 or features.shape[1] != saved.statistics.dimension or not 2 <= rows <= saved.count:
            raise ValueError(
                f"features are of shape {list(features.shape)}, statistics of {saved.count} images and "
                f"{saved.statistics.dimension} dimensions"
            )
    logits, labels = saved.logits, saved.labels
    if logits is not None and (logits.dim() != 2 or len(logits) != rows or logits.shape[1] < 1):
        raise ValueError(f"logits are of shape {list(logits.shape)} for the features of {rows} images")
    if labels is not None and (labels.dtype != torch.long or labels.shape != (rows,)):
        raise ValueError(f"labels are of shape {list(labels.shape)} for the features of {rows} images")
    if labels is not None and not 0 <= int(labels.min()) <= int(labels.max()) < MOST_CLASSES:
        raise ValueError(f"labels are from {int(labels.min())} to {int(labels.max())}")
    if saved.size and (len(saved.size) != 2 or min(saved.size) < 1):
        raise ValueError(f"the size of images is {saved.size}")


def save_statistics(path: Path, features: ImageFeatures, origin: Origin, manifest: dict[str, Any]) -> None:
    """Write statistics and features as an ``.npz``, under ADM's names, with their origin and a manifest."""
    arrays: dict[str, Any] = {
        MEAN: features.statistics.mean.numpy(),
        COVARIANCE: features.statistics.covariance.numpy(),
        "count": features.count,
        "content": features.content,
        "size": np.array(features.size, dtype=np.int64),
        "origin": json.dumps(asdict(origin)),
        "manifest": json.dumps(manifest),
    }
    if features.spatial is not None:
        arrays |= {
            SPATIAL_MEAN: features.spatial.mean.numpy(),
            SPATIAL_COVARIANCE: features.spatial.covariance.numpy(),
        }
    for name in ("features", "logits", "labels"):
        if (tensor := getattr(features, name)) is not None:
            arrays[name] = tensor.numpy()
    arrays[DIGEST] = _digest({name: np.asarray(array) for name, array in arrays.items()})
    content = io.BytesIO()
    np.savez(content, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, content.getvalue())


def _statistics(content: dict[str, np.ndarray], mean: str, covariance: str, count: int) -> FeatureStatistics:
    centre, spread = content[mean].astype(np.float64), content[covariance].astype(np.float64)
    if centre.ndim != 1 or not len(centre) or spread.shape != (len(centre), len(centre)) or count < 2:
        raise ValueError(
            f"{mean} and {covariance} are of shape {list(centre.shape)} and {list(spread.shape)}, of {count} "
            "images; expected are [d] and [d, d], of at least 2"
        )
    rounding = NOT_SYMMETRIC * np.abs(spread).max()
    if np.abs(spread - spread.T).max() > rounding or spread.diagonal().min() < -rounding:
        raise ValueError(f"{covariance} is no covariance: it is not symmetric, or a variance is negative")
    return FeatureStatistics(torch.from_numpy(centre), torch.from_numpy(spread), count)


def _tensor(content: dict[str, np.ndarray], name: str) -> torch.Tensor | None:
    return torch.from_numpy(content[name]) if name in content else None


def _digest(content: dict[str, np.ndarray]) -> str:
    """SHA-256 of names, types, shapes and values of what is read back."""
    digest = hashlib.sha256()
    for name in sorted((set(KEPT_ARRAYS) - {DIGEST}) & content.keys()):
        array = content[name]
        digest.update(f"{name} {array.dtype} {array.shape} ".encode() + array.tobytes())
    return digest.hexdigest()
