"""What every verb's parsing shares: the target, options by tyro, and errors of one line."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

from purrception.utils.errors import InputError, unknown_name
from purrception.utils.settings import check_numbers, option_names

if TYPE_CHECKING:
    from purrception.experiment.config import RunConfig

T = TypeVar("T")


@dataclass(frozen=True)
class Verb:
    """One command."""

    run: Callable[[list[str]], None]
    usage: str
    summary: str
    example: str

    @property
    def description(self) -> str:
        """What ``--help`` begins with."""
        return f"{self.summary}\n\nExample: {self.example}"


def run_verb(arguments: list[str], verbs: Mapping[str, Verb], group: str, summary: str) -> None:
    """Run the verb that the first argument names, or explain them all.

    Args:
        arguments: what follows the group on the command line.
        verbs: by name.
        group: what stands before them, with a space behind it; empty for the outermost.
        summary: what they are for.

    Raises:
        InputError: there is no such verb; the nearest known one is suggested.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(len(name) for name in verbs)
        listed = "\n".join(f"  {name:<{width}}  {verb.summary}" for name, verb in verbs.items())
        print(
            f"usage: purrception {group}VERB …\n\n{summary}\n\n{listed}\n\n"
            f"'purrception {group}VERB --help' explains each, with an example."
        )
    elif arguments[0] not in verbs:
        raise unknown_name(f"{group}command", arguments[0], verbs)
    else:
        verbs[arguments[0]].run(arguments[1:])


def say(text: str) -> None:
    """Print for the person who asked; of the processes of ``torchrun`` the first speaks."""
    if os.environ.get("RANK", "0") == "0":
        print(text, flush=True)


def say_skipped(text: str) -> None:
    """Tell which images were not taken, if any; see :func:`purrception.data.describe_report`."""
    if text:
        say(f"images: {text}")


def target_of(verb: Verb, arguments: list[str]) -> tuple[str, list[str]]:
    """What a verb works on, always its first argument, and the options after it."""
    if arguments and arguments[0] in ("-h", "--help"):
        return "--help", ["--help"]
    if not arguments or arguments[0].startswith("-"):
        raise InputError(f"usage: purrception {verb.usage}; for example: {verb.example}")
    return arguments[0], arguments[1:]


def recipe_of(target: str) -> RunConfig:
    """A recipe by name, or a configuration file."""
    from purrception.experiment.config import load_config
    from purrception.experiment.recipes import RECIPES, get_recipe

    if target in RECIPES or not (target.endswith((".yaml", ".yml")) or os.path.sep in target):
        return get_recipe("digits" if target == "--help" else target)
    return load_config(target)


def configure(verb: Verb, target: str, arguments: list[str], *, dry: bool = False) -> RunConfig:
    """A recipe or file with options; sizes that a recipe leaves open are chosen from the images, and told.

    Args:
        verb: for the errors.
        target: recipe or file.
        arguments: options.
        dry: images need not be there; a middling size is taken without them.
    """
    from dataclasses import replace

    from purrception.experiment.config import RunConfig
    from purrception.experiment.recipes import fit_to_images

    recipe = recipe_of(target)
    config = parse(RunConfig, verb, arguments, recipe)
    if recipe.data.image_size or config.data.tokens:
        return config
    if dry and not config.data.root:
        fitted = replace(recipe, data=replace(recipe.data, image_size=64))
    else:
        fitted, choice = fit_to_images(recipe, config.data)
        print(choice, flush=True)
    return parse(RunConfig, verb, arguments, fitted)


def parse(kind: type[T], verb: Verb, arguments: list[str], default: T | None = None) -> T:
    """Options, all of them known.

    Raises:
        InputError: an unknown option (with the nearest known one), or a value that an option does not take.
    """
    parsed, unknown = parse_known(kind, verb, arguments, default)
    if unknown:
        given = unknown[0].split("=")[0]
        raise unknown_name("option", given, [f"--{name.replace('_', '-')}" for name in option_names(kind)])
    return parsed


def parse_known(kind: type[T], verb: Verb, arguments: list[str], default: T | None = None) -> tuple[T, list[str]]:
    """Options by tyro, with errors as one line; (parsed, what is left).

    Raises:
        InputError: a value that an option does not take.
    """
    import tyro

    printed = io.StringIO()
    settings: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(printed):
            parsed, unknown = tyro.cli(
                kind,
                args=_spelt_out(kind, arguments),
                prog=f"purrception {verb.usage}",
                description=verb.description,
                return_unknown_args=True,
                config=(tyro.conf.FlagConversionOff,),
                **settings,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(condense(printed.getvalue())) from stop
    check_numbers(parsed)
    return parsed, unknown


def _spelt_out(kind: type, arguments: list[str]) -> list[str]:
    """``arguments`` with True behind every switch that stands alone, such as ``--decoder-only``."""
    switches = {f"--{name}" for name in option_names(kind, of=bool)}
    spelt: list[str] = []
    for argument, following in pairwise([*arguments, ""]):
        spelt.append(argument)
        if argument.replace("-", "_").replace("__", "--", 1) in switches and following not in ("True", "False"):
            spelt.append("True")
    return spelt


def condense(message: str) -> str:
    """A framed message of several lines as one plain line, without help texts and what they are parsed into."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", message)
    parts = (part.strip(" │╭╮╰╯─") for part in text.splitlines())
    line = " ".join(part for part in parts if part.strip("-"))  # without Unicode, rules are of "-"
    line = re.split(r"Argument helptext|For full helptext|Full helptext", line)[0]
    return re.sub(r"^\s*((Value|Parsing) error\s+)?(Error parsing [\w.]+: )?", "", line).strip()


def override(settings: T, options: Any) -> T:
    """``settings`` with every field that ``options`` gives a value for; an empty text is none."""
    import dataclasses

    names = {field.name for field in dataclasses.fields(settings)}  # type: ignore[arg-type]
    now = getattr(settings, "RENAMED", {})
    options = {now.get(name, name): value for name, value in vars(options).items() if value not in (None, (), "")}
    given = {name: value for name, value in options.items() if name in names}
    return dataclasses.replace(settings, **given)  # type: ignore[type-var]
