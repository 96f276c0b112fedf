"""What generated images are compared with, and under which name."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from purrception.data import DataConfig, Split
from purrception.errors import InputError, unknown_name
from purrception.evaluation.extractors import Extractor
from purrception.evaluation.extractors.random_features import is_of_grey
from purrception.evaluation.features import FeatureCache, ImageFeatures, extract_features
from purrception.evaluation.image_sets import NPZ_IMAGES, CodeImages, FolderOfImages, ImageSet, NpzImages
from purrception.evaluation.learning import split_images
from purrception.evaluation.statistics import FeatureStatistics
from purrception.storage import write_file
from purrception.tokenizers import VQTokenizer
from purrception.tokens import MANIFEST_FILE, TokenDataset

PROTOCOLS = {
    "adm-train": "the training images, whose statistics are the convention since ADM (arXiv 2105.05233)",
    "val": "held-out images",
    "custom": "other images, named below",
}
SPLITS: dict[str, tuple[Split, str]] = {"test": ("test", "val"), "train": ("train", "adm-train")}
ADM_FEATURES = "inception"
MEAN, COVARIANCE, SPATIAL_MEAN, SPATIAL_COVARIANCE = "mu", "sigma", "mu_s", "sigma_s"


@dataclass(frozen=True)
class Origin:
    """Where saved statistics come from."""

    features: str
    """Name of the extractor."""
    fingerprint: str
    """Its hash; empty for files that others wrote."""
    protocol: str
    title: str


@dataclass(frozen=True)
class Reference:
    """Real images to compare with, or what was saved of them."""

    title: str
    protocol: str
    """A name in ``PROTOCOLS``."""
    images: ImageSet | None
    """None where only statistics were saved."""
    saved: ImageFeatures | None = None
    origin: Origin | None = None
    """Of what was saved."""

    @property
    def grey(self) -> bool:
        """Whether none of the images has any colour; of texture statistics their dimension tells."""
        if self.images is not None:
            return self.images.grey
        assert self.saved is not None
        assert self.origin is not None
        return self.origin.features == "texture" and is_of_grey(self.saved.statistics.dimension)

    def features(self, extractor: Extractor, cache: FeatureCache, *, strict: bool) -> ImageFeatures:
        """The reference as the extractor sees it.

        Statistics of a file are taken as they are; the images beside them, where there are any, add what only
        single images tell: KID, precision and recall.

        Raises:
            InputError: the file's statistics are of another extractor.
        """
        if self.saved is not None and self.origin is not None:
            mine = (extractor.name, extractor.fingerprint)
            theirs = (self.origin.features, self.origin.fingerprint or extractor.fingerprint)
            if mine == theirs:
                if self.images is None:
                    return self.saved
                seen = extract_features(self.images, extractor, cache, strict=strict, title="reference")
                return ImageFeatures(
                    self.saved.statistics, self.saved.spatial, seen.spatial_halves, seen.features, seen.logits,
                    seen.labels, seen.rows, self.saved.content, seen.size, seen.skipped, seen.passed_over,
                )  # fmt: skip
            if self.images is None:
                how = f"take --features {theirs[0]}"
                if theirs[0] == mine[0]:
                    remedy = "give the --classifier saved beside them" * (mine[0] == "classifier")
                    how = f"they are of other weights or of another version: {remedy or 'save them again'}"
                raise InputError(
                    f"{self.title} holds statistics of {_called(*theirs)}; asked for are {_called(*mine)}: {how}, "
                    "or take a reference with images"
                )
        assert self.images is not None
        return extract_features(self.images, extractor, cache, strict=strict, title="reference")


def _called(features: str, fingerprint: str) -> str:
    return f"{features} features ({fingerprint[:12]}…)"


def open_reference(
    text: str,
    data: DataConfig | None,
    tokenizer: VQTokenizer | None,
    protocol: str = "",
) -> Reference:
    """What a person names as reference.

    Args:
        text: ``test`` or ``train`` (a split of the run's data), a folder of images, a folder of token shards, or
            an ``.npz``: ADM's, or one that ``--save-stats`` wrote.
        data: the run's images; none where images alone are judged.
        tokenizer: the run's, which decodes token shards.
        protocol: its name, where it is not what the kind of reference says.

    Raises:
        InputError: there is no such reference, or it cannot be used here.
    """
    if protocol and protocol not in PROTOCOLS:
        raise unknown_name("protocol", protocol, PROTOCOLS)
    path = Path(text)
    if text in SPLITS:
        if data is None:
            raise InputError(
                f"{text!r} is a split of a run's data; beside images give a folder, shards or an .npz"
            )
        split, usual = SPLITS[text]
        title = f"{split} split of {data.source}{f' {data.root}' if data.root else ''}"
        return Reference(title, protocol or usual, split_images(data, split))
    if path.suffix == ".npz":
        return _open_npz(path, protocol)
    if (path / MANIFEST_FILE).is_file() and "tokenizer_hash" in (path / MANIFEST_FILE).read_text(encoding="utf-8"):
        if tokenizer is None:
            raise InputError(f"{path} holds token shards, which a run's tokenizer decodes: evaluate a run with it")
        return Reference(text, protocol or "custom", CodeImages.of_tokens(TokenDataset(path), tokenizer))
    if not path.is_dir():
        raise InputError(
            f"no reference at {text!r}: accepted are test, train, a folder of images, a folder of token shards, "
            "and an .npz with images or statistics"
        )
    return Reference(text, protocol or "custom", FolderOfImages(path))


def _open_npz(path: Path, protocol: str) -> Reference:
    names, content = read_npz(path, leave=(NPZ_IMAGES,))
    images = NpzImages(path) if NPZ_IMAGES in names else None
    if MEAN not in content or COVARIANCE not in content:
        if images is None:
            raise InputError(
                f"{path} holds {', '.join(names) or 'nothing'}; expected are {MEAN} and {COVARIANCE} "
                f"(statistics), {NPZ_IMAGES} (images), or both"
            )
        return Reference(str(path), protocol or "custom", images)
    for name in {MEAN, COVARIANCE, SPATIAL_MEAN, SPATIAL_COVARIANCE, "features", "logits"} & content.keys():
        if content[name].dtype.kind not in "fiu" or not np.isfinite(content[name]).all():
            raise InputError(
                f"{path} holds {name} with values that are not finite (NaN or infinite), or no numbers: make it "
                "again"
            )
    # ADM's files do not say how many images their statistics are of: all of the training set.
    count = int(content["count"]) if "count" in content else 2**31
    spatial = None
    if SPATIAL_MEAN in content and SPATIAL_COVARIANCE in content:
        spatial = _statistics(content[SPATIAL_MEAN], content[SPATIAL_COVARIANCE], count, path)
    origin = Origin(ADM_FEATURES, "", "adm-train", str(path))
    if "origin" in content:
        origin = Origin(**json.loads(str(content["origin"])))
    saved = ImageFeatures(
        _statistics(content[MEAN], content[COVARIANCE], count, path),
        spatial,
        features=_tensor(content, "features"),
        logits=_tensor(content, "logits"),
        labels=_tensor(content, "labels"),
        size=tuple(content["size"].tolist()) if "size" in content else (),
        content=str(content["content"]) if "content" in content else _hash(content[MEAN], content[COVARIANCE]),
    )
    return Reference(str(path), protocol or origin.protocol, images, saved, origin)


def read_npz(path: Path, leave: tuple[str, ...] = ()) -> tuple[list[str], dict[str, np.ndarray]]:
    """Names in an ``.npz``, and its arrays but for those to ``leave``; nothing in it is unpickled.

    Raises:
        InputError: the file is missing or no ``.npz``.
    """
    if not path.is_file():
        raise InputError(f"no file at {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            return list(file.files), {name: file[name] for name in file.files if name not in leave}
    except Exception as error:  # zip and numpy have many errors for damage
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is no .npz that can be read: {reason}") from error


def save_statistics(path: Path, features: ImageFeatures, origin: Origin, manifest: dict[str, Any]) -> None:
    """Write statistics and features as an ``.npz``, under ADM's names, with where they come from."""
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
    content = io.BytesIO()
    np.savez(content, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, content.getvalue())


def _statistics(mean: np.ndarray, covariance: np.ndarray, count: int, path: Path) -> FeatureStatistics:
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise InputError(
            f"{path} holds a mean of shape {list(mean.shape)} and a covariance of {list(covariance.shape)}; "
            "expected are [d] and [d, d]"
        )
    return FeatureStatistics(torch.from_numpy(mean).double(), torch.from_numpy(covariance).double(), count)


def _tensor(content: dict[str, np.ndarray], name: str) -> torch.Tensor | None:
    return torch.from_numpy(content[name]) if name in content else None


def _hash(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()
