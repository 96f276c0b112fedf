"""A few drawn emoji, laid out as npm's packages have them."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

FOLDERS = {
    "google": ("emoji-datasource-google/img/google/64", ".png"),
    "twitter": ("emoji-datasource-twitter/img/twitter/64", ".png"),
    "fluent": ("@lobehub/fluent-emoji-3d/assets", ".webp"),
}
EIGHT = ("1f600", "1f603", "263a-fe0f", "1f344", "1f34e", "1f44b", "1f44b-1f3fd", "1f3c3-200d-2642-fe0f")
"""Three faces, a mushroom, an apple, a hand without and with a tone, and a man running."""


def write_emoji(root: Path, *styles: str, codes: tuple[str, ...] = EIGHT, size: int = 64) -> Path:
    """Discs of a colour of their own on a transparent ground; returns the folder for ``data.root``."""
    for number, style in enumerate(styles or FOLDERS):
        below, suffix = FOLDERS[style]
        folder = root / below
        folder.mkdir(parents=True, exist_ok=True)
        for place, code in enumerate(codes):
            picture = Image.new("RGBA", (size, size))
            colour = (40 * number, 30 * place, 255 - 30 * place, 255)
            ImageDraw.Draw(picture).ellipse(
                (size // 8, size // 8, size - size // 8 - 1, size - size // 8 - 1), fill=colour
            )
            picture.save(folder / f"{code}{suffix}", lossless=True)
    return root
