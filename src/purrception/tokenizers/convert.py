"""Opening tokenizers from elsewhere: public checkpoints, diffusers folders, and the hub."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from purrception.storage import (
    DIGESTS_FILE,
    read_limited,
    sha256_of,
    updating_digests,
    whole_folder,
    write_file,
)
from purrception.storage.foreign_weights import read_weights, renamed, tensors_in
from purrception.storage.hub import download
from purrception.storage.names import CONFIG_FILE, HUB_PREFIX
from purrception.tokenizers.public import PUBLIC_TOKENIZERS, PublicTokenizer
from purrception.tokenizers.saved import ORIGIN_FILE
from purrception.tokenizers.vq import VQTokenizer
from purrception.utils.errors import InputError, unknown_name

LARGEST_ORIGIN = 2**20
"""The largest ``origin.json``, in bytes."""
AVERAGE_KEYS, STATE_KEYS = ("ema",), ("model", "state_dict")
"""The keys of a checkpoint's tensors: LlamaGen's moving average; LlamaGen's and Lightning's weights."""
HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+(/[\w./-]+)?")
"""A tokenizer on the hub: a repository, with or without a subfolder."""


@dataclass(frozen=True)
class Origin:
    """Where a converted tokenizer comes from, stored as ``origin.json`` beside its weights."""

    source: str
    """The name of the file, or of the model on the hub."""
    arch: str = ""
    """The architecture, one of ``PUBLIC_TOKENIZERS``; empty for a folder of diffusers."""
    sha256: str = ""
    """The SHA-256 of the file; empty for a folder."""
    codebook_normalised: bool = False
    """Whether the codes were scaled to unit length, as the source does whenever it uses them."""
    dropped: tuple[str, ...] = ()
    """Tensors of the file that the tokenizer does not need."""


def open_tokenizer(source: Path | str, arch: str = "") -> VQTokenizer:
    """Open a tokenizer: diffusers' ``VQModel`` in a folder or on the hub, or a public checkpoint.

    Args:
        source: a folder, a file, or ``hub:owner/name`` or ``hub:owner/name/subfolder`` on the Hugging Face hub.
        arch: the architecture of a checkpoint file, one of ``PUBLIC_TOKENIZERS``; empty for a folder of diffusers.

    Raises:
        InputError: the tokenizer cannot be read, or its tensors are not exactly those of the architecture.
    """
    return _open(source, arch)[0]


def convert_tokenizer(
    source: Path | str,
    arch: str,
    folder: Path,
    sha256: str = "",
    ema: bool = True,
    input_range: tuple[float, float] | None = None,
) -> VQTokenizer:
    """Open a tokenizer and write it to ``folder`` in diffusers' layout, with its origin.

    Args:
        source: see :func:`open_tokenizer`.
        arch: see :func:`open_tokenizer`.
        folder: where to write it.
        sha256: what the file's SHA-256 must begin with; if empty, it is only recorded.
        ema: use the moving average where a file has it beside the weights.
        input_range: the range of pixels, for a folder or the hub; see :meth:`VQTokenizer.load`.

    Raises:
        InputError: see :func:`open_tokenizer`; or the file has another SHA-256, the folder is not empty, or the
            disk is full.
    """
    tokenizer, origin = _open(source, arch, sha256, ema, input_range)
    with whole_folder(folder) as partial:
        tokenizer.save(partial)
        with updating_digests(partial, [ORIGIN_FILE]):
            if origin is not None:
                write_file(partial / ORIGIN_FILE, json.dumps(asdict(origin), indent=2) + "\n")
            elif (earlier := Path(source) / ORIGIN_FILE).is_file():
                content = read_limited(earlier, LARGEST_ORIGIN, "the origin of a tokenizer")
                write_file(partial / ORIGIN_FILE, content)
    return tokenizer


def known_arch(name: str) -> PublicTokenizer:
    """The public tokenizer of that name, written with dashes or, as LlamaGen does, with underscores.

    Raises:
        InputError: there is none; the message suggests the closest name.
    """
    name = name.replace("_", "-")
    if name not in PUBLIC_TOKENIZERS:
        raise unknown_name("tokenizer architecture", name, PUBLIC_TOKENIZERS)
    return PUBLIC_TOKENIZERS[name]


def _open(
    source: Path | str,
    arch: str,
    sha256: str = "",
    ema: bool = True,
    input_range: tuple[float, float] | None = None,
) -> tuple[VQTokenizer, Origin | None]:
    path = Path(source)
    if arch:
        known_arch(arch)
    if path.is_dir() and (arch or sha256):
        raise InputError(f"{source} is a folder, which describes itself: leave out the architecture and SHA-256")
    if arch or path.is_file():
        if input_range:
            raise InputError("the public architectures take pixels in [−1, 1]: leave out the range")
        return _from_file(path, arch.replace("_", "-"), sha256, ema)
    if str(source).startswith(HUB_PREFIX):
        name = str(source).removeprefix(HUB_PREFIX)
        if not HUB_NAME.fullmatch(name):
            raise InputError(
                f"a tokenizer on the hub is hub:owner/name or hub:owner/name/subfolder; given {name!r}"
            )
        folder = download(name, "tokenizer", [CONFIG_FILE, "*.safetensors", "*.bin", DIGESTS_FILE])
        return VQTokenizer.load(folder, input_range), Origin(name)
    return VQTokenizer.load(path, input_range), None


def _from_file(path: Path, arch: str, sha256: str, ema: bool) -> tuple[VQTokenizer, Origin]:
    """A tokenizer from a checkpoint file, every tensor of which is accounted for."""
    if not arch:
        raise InputError(
            f"{path} is a file: say which tokenizer it holds with an architecture, one of "
            f"{', '.join(PUBLIC_TOKENIZERS)}"
        )
    public = known_arch(arch)
    keys = AVERAGE_KEYS + STATE_KEYS if ema else STATE_KEYS + AVERAGE_KEYS
    tensors = tensors_in(read_weights(path), keys, path)
    found = sha256_of(path)
    if not found.startswith(sha256.lower()):
        raise InputError(f"{path} is not the expected file: its SHA-256 is {found}, not {sha256}")
    problem, dropped = public.account(tensors)
    if problem:
        fitting = [name for name, other in PUBLIC_TOKENIZERS.items() if not other.account(tensors)[0]]
        advice = f"its tensors are those of {' or '.join(fitting)}" if fitting else "no known tokenizer fits it"
        raise InputError(f"{path} is no {arch}: {advice}. {problem}")
    vq = public.build()
    shapes = {name: tensor.shape for name, tensor in vq.state_dict().items()}
    weights = renamed(tensors, public.names(shapes), shapes, path)
    if public.normalised:
        weights["quantize.embedding.weight"] = unit_codes(weights["quantize.embedding.weight"])
    vq.load_state_dict(weights)
    return VQTokenizer(vq), Origin(path.name, arch, found, public.normalised, dropped)


def unit_codes(codebook: Tensor) -> Tensor:
    """Codes ``[K, D]`` scaled to unit length.

    The source also normalises its latents. That is not needed here: for unit codes |z − e|² = |z|² + 1 − 2 z·e,
    so that the code nearest to z is the one nearest to z/|z|, and the indices agree.

    Raises:
        InputError: a code is zero and has no direction.
    """
    if not bool(torch.linalg.vector_norm(codebook, dim=-1).gt(0).all()):
        raise InputError("a code is zero and cannot be scaled to unit length: the file is damaged")
    return F.normalize(codebook, dim=-1)
