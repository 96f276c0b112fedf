"""Sources of images: uint8 arrays with labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from purrception.utils.lazy import lazy_names

if TYPE_CHECKING:
    from purrception.data.config import DataConfig, ImageSource, Split, captions_of
    from purrception.data.decoding import UnreadableImageError, decode_image
    from purrception.data.readable import ReadableImages
    from purrception.data.skip_report import (
        REPORT_FILE,
        NothingReadableError,
        Skipped,
        describe,
        describe_report,
        ignored_files,
        report_text,
        write_report,
    )
    from purrception.data.sources import SOURCES, find_source, load_split, name_source, open_images, spread_rows
    from purrception.data.survey import Survey
    from purrception.data.transforms import array_to_pil, images_to_tensor, tensor_to_images
    from purrception.data.views import Views

__getattr__, __dir__ = lazy_names(__name__)
