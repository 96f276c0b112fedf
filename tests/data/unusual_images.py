"""Images as people have them on disk, made by code: every mode, and everything that is broken."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 24
READABLE = 15
BROKEN = {
    "empty.png": "empty",
    "text.png": "not an image",
    "cut.jpg": "truncated",
    "cut.png": "",
    "dot.png": "1×1 pixels",
    "nowhere.png": "No such file",
}


def gradient() -> Image.Image:
    """Dark at the left, bright at the right, RGB."""
    ramp = np.linspace(0, 255, SIZE * SIZE).reshape(SIZE, SIZE).T
    return Image.fromarray(np.stack([ramp, ramp, ramp * 0.5], axis=-1).astype(np.uint8))


def make_unusual_images(root: Path) -> Path:
    """READABLE images in many modes and places, and the files of BROKEN."""
    root.mkdir(parents=True)
    image = gradient()
    image.save(root / "plain.png")
    image.save(root / "lossy.JPEG")
    image.convert("L").save(root / "grey.png")
    image.convert("1").save(root / "bits.png")
    image.convert("CMYK").save(root / "print.jpg")
    image.convert("YCbCr").save(root / "video.jpg")
    image.convert("P").save(root / "palette.gif")
    image.quantize(16).save(root / "holes.png", transparency=3)
    _transparent().save(root / "transparent.png")
    _transparent().convert("LA").save(root / "grey and transparent.webp", lossless=True)
    deep = np.asarray(image.convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(root / "deep.png")
    Image.fromarray((deep / 65535).astype(np.float32)).save(root / "float.tiff")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(root / "turned.jpg", exif=exif)
    nested = root / "nested" / "deeper"
    nested.mkdir(parents=True)
    image.save(nested / "inside.png")
    image.save(root / "mit Leerzeichen, ž 猫.png")
    _break_things(root, image)
    (root / "notes.txt").write_text("no image, and not called one")
    os.symlink("..", root / "nested" / "loop", target_is_directory=True)
    os.symlink(".", root / "again", target_is_directory=True)
    return root


def _transparent() -> Image.Image:
    """Left half opaque black, right half fully transparent with red behind it."""
    pixels = np.zeros((SIZE, SIZE, 4), dtype=np.uint8)
    pixels[:, : SIZE // 2, 3] = 255
    pixels[:, SIZE // 2 :, 0] = 255
    return Image.fromarray(pixels)


def _break_things(root: Path, image: Image.Image) -> None:
    (root / "empty.png").write_bytes(b"")
    (root / "text.png").write_text("I am a text")
    for name in ("cut.jpg", "cut.png"):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / name)
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: len(content) // 2])
    image.resize((1, 1)).save(root / "dot.png")
    os.symlink("gone.png", root / "nowhere.png")
