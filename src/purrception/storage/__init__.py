"""What lies on disk: written whole or not at all, by one process at a time, verified, read within limits."""

from purrception.storage.damaged import refuse_to_begin_anew, set_aside
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
    is_unused,
    plain_name,
    put,
    remove,
    sync,
    whole_file,
    whole_folder,
    write_file,
    writing,
)
from purrception.storage.lines import append_json_line, drop_lines_after, read_json_lines
from purrception.storage.locks import LOCK_FILE, TakenError, one_writer
from purrception.storage.readers import LimitedReads, plain_reason, read_json, read_limited, read_yaml, reading

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
    "is_plain_name",
    "is_unused",
    "one_writer",
    "plain_name",
    "plain_reason",
    "put",
    "read_json",
    "read_json_lines",
    "read_limited",
    "read_yaml",
    "reading",
    "refuse_to_begin_anew",
    "remove",
    "renewing",
    "set_aside",
    "sha256_of",
    "skips_digests",
    "sync",
    "whole_file",
    "whole_folder",
    "write_digests",
    "write_file",
    "writing",
]
