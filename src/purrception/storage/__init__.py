"""Files on disk: written completely or not at all, by one process at a time, verified, and read within limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from purrception.utils.lazy import lazy_names

if TYPE_CHECKING:
    from purrception.storage.checkpoints import (
        load_optimizer_state,
        optimizer_state,
        refuse_to_start_over,
        set_aside,
    )
    from purrception.storage.digests import (
        DIGESTS_FILE,
        check_digests,
        content_digest,
        digest_lines,
        sha256_of,
        skips_digests,
        updating_digests,
        write_digests,
    )
    from purrception.storage.files import (
        append,
        append_line,
        disk_error,
        is_plain_name,
        move_into_place,
        plain_name,
        remove,
        sync,
        whole_file,
        write_file,
        writing,
    )
    from purrception.storage.folders import is_unused, output_folder, unused_folder, whole_folder
    from purrception.storage.json_lines import append_json_line, drop_lines_after, read_json_lines
    from purrception.storage.locks import LOCK_FILE, one_writer
    from purrception.storage.readers import LimitedReads, plain_reason, read_json, read_limited, reading
    from purrception.storage.report import save_png
    from purrception.storage.settings import dump_settings, load_settings, settings_from_dict, settings_to_dict

__getattr__, __dir__ = lazy_names(__name__)
