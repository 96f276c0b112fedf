"""How many images a run has, as far as it can be told before it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from purrception.data import Views, open_images
from purrception.data.hub import is_saved
from purrception.data.sources import BUILT_IN
from purrception.experiment.config import RunConfig
from purrception.tokens import MANIFEST_FILE, Manifest, TokenStore

Prepared = tuple[Manifest, Manifest | None]
"""Token shards to learn from, and those held out."""
IMAGENET_IMAGES = 1_281_167
IMAGENET_RECIPES = ("imagenet256", "paper-code")
"""How the names of recipes begin whose images are ImageNet's training set."""


@dataclass(frozen=True)
class Images:
    """The images of a run, as far as they can be counted before it."""

    train: int | None
    """To learn from; nothing where it is not known."""
    held_out: int | None
    rows: int | None
    """Rows of the token shards that both become."""
    classes: int
    classes_known: bool


def prepared_tokens(config: RunConfig) -> Prepared | None:
    """What the token shards that the run names say of themselves, those to learn from and those held out."""
    if not config.data.tokens:
        return None
    location = config.data.tokens.rstrip("/")
    held_out = TokenStore(f"{location}/test").fetch(MANIFEST_FILE) is not None
    return Manifest.read(f"{location}/train"), Manifest.read(f"{location}/test") if held_out else None


def count_images(config: RunConfig, tokens: Prepared | None, given: int | None, classes: int | None) -> Images:
    """Count them, where that needs no download.

    Args:
        config: of the run.
        tokens: what :func:`prepared_tokens` found.
        given: images of both splits, where a person says so.
        classes: likewise.

    Raises:
        InputError: images that the configuration names are not there.
    """
    data = config.data
    found: tuple[str, ...] | None = None
    train: int | None = None
    held_out, views = 0, Views.of(data).per_image
    if tokens is not None:
        found, views = tokens[0].class_names, 1  # rows are what training counts
        train, held_out = (sum(shard.count for shard in one.shards) if one else 0 for one in tokens)
    elif data.source in BUILT_IN or (data.root and (data.source != "hub" or is_saved(Path(data.root)))):
        sources = [open_images(data, split) for split in ("train", "test")]
        found, (train, held_out) = sources[0].class_names, map(len, sources)
    every = given
    if every is None and train is None and config.name.startswith(IMAGENET_RECIPES):
        every = IMAGENET_IMAGES
    if every is not None:
        held_out = round(every * data.test_fraction)
        train = every - held_out
    named = next((one for one in (classes, data.classes, found and len(found)) if one is not None), None)
    return Images(
        train=train,
        held_out=None if train is None else held_out,
        rows=None if train is None else train * views + held_out,
        classes=named or 0,
        classes_known=named is not None,
    )
