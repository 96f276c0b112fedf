"""What lies on disk: written whole or not at all, by one process at a time, verified, read within limits."""

from purrception.storage.checkpoints import load_optimizer_state, optimizer_state, refuse_to_start_over, set_aside
from purrception.storage.digests import (
    DIGESTS_FILE,
    check_digests,
    content_digest,
    digest_lines,
    renewing,
    sha256_of,
    skips_digests,
    write_digests,
)
from purrception.storage.files import (
    append,
    append_line,
    cannot_write,
    is_plain_name,
    plain_name,
    put,
    remove,
    sync,
    whole_file,
    write_file,
    writing,
)
from purrception.storage.folders import is_unused, output_folder, unused_folder, whole_folder
from purrception.storage.lines import append_json_line, drop_lines_after, read_json_lines
from purrception.storage.locks import LOCK_FILE, TakenError, one_writer
from purrception.storage.pictures import save_png
from purrception.storage.readers import LimitedReads, plain_reason, read_json, read_limited, read_yaml, reading
from purrception.storage.settings import dump_settings, load_settings, settings_from_dict, settings_to_dict

__all__ = [
    "DIGESTS_FILE",
    "LOCK_FILE",
    "LimitedReads",
    "TakenError",
    "append",
    "append_json_line",
    "append_line",
    "cannot_write",
    "check_digests",
    "content_digest",
    "digest_lines",
    "drop_lines_after",
    "dump_settings",
    "is_plain_name",
    "is_unused",
    "load_optimizer_state",
    "load_settings",
    "one_writer",
    "optimizer_state",
    "output_folder",
    "plain_name",
    "plain_reason",
    "put",
    "read_json",
    "read_json_lines",
    "read_limited",
    "read_yaml",
    "reading",
    "refuse_to_start_over",
    "remove",
    "renewing",
    "save_png",
    "set_aside",
    "settings_from_dict",
    "settings_to_dict",
    "sha256_of",
    "skips_digests",
    "sync",
    "unused_folder",
    "whole_file",
    "whole_folder",
    "write_digests",
    "write_file",
    "writing",
]
