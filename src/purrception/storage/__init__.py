"""What lies on disk: written whole or not at all, by one process at a time, verified, read within limits."""

from purrception.storage.digests import (
    DIGESTS_FILE,
    SKIP_DIGESTS,
    check_digests,
    digest_lines,
    renewing,
    sha256_of,
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
    sync,
    whole_file,
    whole_folder,
    write_file,
    writing,
)
from purrception.storage.locks import LOCK_FILE, TakenError, one_writer
from purrception.storage.readers import LimitedReads, plain_reason, read_json, read_limited, read_yaml, reading

__all__ = [
    "DIGESTS_FILE",
    "LOCK_FILE",
    "SKIP_DIGESTS",
    "LimitedReads",
    "TakenError",
    "append",
    "append_line",
    "cannot_write",
    "check_digests",
    "digest_lines",
    "is_plain_name",
    "is_unused",
    "one_writer",
    "plain_name",
    "plain_reason",
    "put",
    "read_json",
    "read_limited",
    "read_yaml",
    "reading",
    "renewing",
    "sha256_of",
    "sync",
    "whole_file",
    "whole_folder",
    "write_digests",
    "write_file",
    "writing",
]
