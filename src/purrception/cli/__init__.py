"""The command line: runs a command, whose module is imported only then, and tells its errors in one line."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from purrception.cli.verbs import GROUPS, VERBS
from purrception.utils.errors import InputError, in_words, unknown_name
from purrception.utils.packages import explained, is_foreign
from purrception.utils.text import make_output_encodable

SUMMARY = "Image generation in vector-quantised latent spaces with variational flow matching."


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
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, known))
        listed = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in known.items())
        print(
            f"usage: purrception {before}VERB …\n\n{GROUPS.get(group, SUMMARY)}\n\n{listed}\n\n"
            f"'purrception {before}VERB --help' explains each, with an example."
        )
    elif arguments[0] not in known:
        raise unknown_name(f"{before}command", arguments[0], known)
    elif arguments[0] in GROUPS and not group:
        run_verb(arguments[1:], arguments[0])
    else:
        VERBS[before + arguments[0]].run(arguments[1:])


def complain(error: Exception) -> int:
    """Say in one line what the user can correct; returns the exit status of that."""
    print(f"purrception: {in_words(error)}", file=sys.stderr)
    return 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status: 0, 2 for what the user can correct, 130 when interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    make_output_encodable()
    try:
        if arguments and arguments[0] == "--version":
            from purrception.utils.version import __version__

            print(f"purrception {__version__}")
        else:
            run_verb(arguments)
        sys.stdout.flush()  # to a full disk it fails here, and not when nobody can tell of it
    except (InputError, OSError) as error:
        return complain(error)
    except ImportError as error:
        if not is_foreign(error):
            raise
        return complain(explained(error, " ".join(["purrception", *arguments[:1]])))
    except KeyboardInterrupt as interruption:
        how = getattr(interruption, "__notes__", [])[-1:]  # the outermost, of what the person asked for
        print("; ".join(["purrception: interrupted", *how]), file=sys.stderr)
        return 130
    except Exception as error:  # of a library that met a full disk, and has a kind of error of its own for it
        from purrception.storage import disk_error

        if not (reason := disk_error(error)):
            raise
        return complain(InputError(f"the disk does not take what is written ({reason}): make room, and try again"))
    return 0
