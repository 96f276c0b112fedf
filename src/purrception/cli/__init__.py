"""The command line: runs a command, whose module is imported only then, and tells its errors in one line."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import TextIO

from purrception.cli.verbs import GROUPS, VERBS
from purrception.utils.errors import InputError, in_words, unknown_name
from purrception.utils.packages import explained, is_foreign, versions
from purrception.utils.text import QUIET, aligned, make_output_encodable

SUMMARY = "Image generation in vector-quantised latent spaces with variational flow matching."
EVERYWHERE = {
    "--quiet": "only the result: no progress and no remarks",
    "--verbose": "errors with their traceback; with --version, the versions of what matters",
}
"""Options of every command, which may stand anywhere among its words."""


def run_verb(arguments: list[str], group: str = "") -> None:
    """Run the command that the first argument names, or explain them all.

    Args:
        arguments: what follows the group on the command line.
        group: the group of commands that was named; empty for all of them.

    Raises:
        InputError: there is no such command; the nearest known one is suggested.
    """
    before = f"{group} " if group else ""
    named = {name.removeprefix(before): verb.summary for name, verb in VERBS.items() if name.startswith(before)}
    known = named if group else {name: text for name, text in named.items() if " " not in name} | GROUPS
    first_sentences = {name: f"{text.split('. ')[0].rstrip('.')}." for name, text in known.items()}
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            f"usage: purrception {before}VERB …\n\n{GROUPS.get(group, SUMMARY)}\n\n"
            f"{aligned(first_sentences, '  ')}\n\n"
            f"With every command:\n{aligned(EVERYWHERE, '  ')}\n\n"
            f"'purrception {before}VERB --help' explains each, with an example."
        )
    elif arguments[0] == "help":
        run_verb([*arguments[1:], "--help"], group)
    elif arguments[0] not in known:
        raise unknown_name(f"{before}command", arguments[0], known)
    elif arguments[0] in GROUPS and not group:
        run_verb(arguments[1:], arguments[0])
    else:
        VERBS[before + arguments[0]].run(arguments[1:])


def complain(error: Exception, verbose: bool) -> int:
    """Say in one line what the user can correct, after a traceback if ``verbose``; returns the exit status."""
    if verbose:
        traceback.print_exception(error)
    print(f"purrception: {in_words(error)}", file=sys.stderr)
    return 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0, 2 for what the user can correct, 130 when interrupted, and 141 (as of a program that
        SIGPIPE ends) when nobody reads what is printed any more.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    given = {name for name in EVERYWHERE if name in arguments}
    arguments = [argument for argument in arguments if argument not in given]
    if "--quiet" in given:
        os.environ[QUIET] = "1"
    # What imports make stays: looking for garbage in it takes a fifth of their time.
    gc.set_threshold(100_000, 50, 100)
    make_output_encodable()
    try:
        return _status_of(arguments, verbose="--verbose" in given)
    except BrokenPipeError as error:
        if not (gone := [stream for stream in (sys.stdout, sys.stderr) if _nobody_reads(stream)]):
            return complain(error, verbose=False)
        for stream in gone:  # what is left in its buffer would fail once more at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return 128 + signal.SIGPIPE


def _nobody_reads(stream: TextIO) -> bool:
    """Whether a stream is a pipe whose reader has gone, as ``head`` does."""
    with contextlib.suppress(OSError, ValueError):
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    return False


def _status_of(arguments: list[str], verbose: bool) -> int:
    """Run a command, and tell its errors in one line or, if ``verbose``, with a traceback."""
    try:
        if arguments and arguments[0] in ("-V", "--version"):
            from purrception.utils.version import __version__

            print(f"purrception {__version__}")
            if verbose:
                others = versions("torch", "diffusers", "numpy", "gradio", "triton")
                print("\n".join(f"{name} {number}" for name, number in others.items() if name != "purrception"))
        else:
            run_verb(arguments)
        sys.stdout.flush()  # to a full disk it fails here, and not when nobody can tell of it
    except SystemExit as stop:
        if stop.code:
            raise
        sys.stdout.flush()  # of help
    except BrokenPipeError:
        raise
    except (InputError, OSError) as error:
        return complain(error, verbose)
    except ImportError as error:
        if not is_foreign(error):
            raise
        return complain(explained(error, " ".join(["purrception", *arguments[:1]])), verbose)
    except KeyboardInterrupt as interruption:
        how = getattr(interruption, "__notes__", [])[-1:]  # the outermost, of what the person asked for
        print("; ".join(["purrception: interrupted", *how]), file=sys.stderr)
        return 130
    except Exception as error:  # of a library that met a full disk, and has a kind of error of its own for it
        from purrception.storage import disk_error

        if not (reason := disk_error(error)):
            raise
        return complain(
            InputError(f"the disk does not take what is written ({reason}): make room, and try again"), verbose
        )
    return 0
