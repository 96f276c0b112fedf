"""Derive ``src/purrception/data/emoji.csv`` from Unicode's ``emoji-test.txt`` (Debian: package unicode-data).

    python tools/emoji_table.py /usr/share/unicode/emoji/emoji-test.txt > src/purrception/data/emoji.csv

Each fully qualified emoji becomes a row: its code points, category (Unicode's group), subcategory, English name
and family, which is the code points of the same emoji without a skin tone. The data are Unicode's, under its
licence.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

LINE = re.compile(r"(?P<points>[0-9A-F ]+?) *; fully-qualified +# \S+ E[0-9.]+ (?P<name>.+)")
TONE = re.compile(r"(light|medium-light|medium|medium-dark|dark) skin tone")
COLUMNS = ("code", "category", "subcategory", "name", "family")


def derive(lines: Iterable[str]) -> list[dict[str, str]]:
    """The rows of the table, in Unicode's order.

    Raises:
        ValueError: an emoji with a tone has no counterpart without.
    """
    rows, category, subcategory = [], "", ""
    for line in lines:
        if line.startswith("# group: "):
            category = line.removeprefix("# group: ").strip()
        elif line.startswith("# subgroup: "):
            subcategory = line.removeprefix("# subgroup: ").strip()
        elif match := LINE.match(line):
            code, name = "-".join(match["points"].split()), match["name"].strip()
            rows.append({"code": code, "category": category, "subcategory": subcategory, "name": name})
    plain = {row["name"]: row["code"] for row in rows if not TONE.search(row["name"])}
    for row in rows:
        name = without_tones(row["name"])
        # "kiss: person, person, light skin tone, dark skin tone" is a "kiss" of two persons of unlike tones
        family = plain.get(name) or plain.get(name.partition(": ")[0])
        if family is None:
            raise ValueError(f"{row['name']} has a tone, and there is no {name}")
        row["family"] = family
    return rows


def without_tones(name: str) -> str:
    """The name of the same emoji without its tones: ``man: dark skin tone, red hair`` → ``man: red hair``."""
    head, _, details = name.partition(": ")
    kept = [detail for detail in details.split(", ") if detail and not TONE.fullmatch(detail)]
    return f"{head}: {', '.join(kept)}" if kept else head


def write(rows: Iterable[dict[str, str]], stream: TextIO) -> None:
    """Write the rows as CSV."""
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


if __name__ == "__main__":
    with Path(sys.argv[1]).open(encoding="utf-8") as test_file:
        write(derive(test_file), sys.stdout)
