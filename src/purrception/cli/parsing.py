"""What the commands' parsing shares: the target, options by tyro, and errors of one line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeGuard, TypeVar, get_type_hints

from purrception.cli.verbs import Verb
from purrception.utils.errors import InputError, unknown_name
from purrception.utils.settings import check_numbers

if TYPE_CHECKING:
    from purrception.experiment.config import RunConfig

T = TypeVar("T")


def flat(*left_out: str) -> dict[str, Any]:
    """Metadata of a field that holds settings: their options stand beside the others, without a prefix.

    Args:
        left_out: settings that are no options here.
    """
    return {"flat": True, "left_out": left_out}


def say(text: str) -> None:
    """Print for the person who asked; of the processes of ``torchrun`` the first speaks."""
    if os.environ.get("RANK", "0") == "0":
        print(text, flush=True)


def say_skipped(text: str) -> None:
    """Tell which images were not taken, if any; see :func:`purrception.data.describe_report`."""
    if text:
        say(f"images: {text}")


def target_of(verb: Verb, arguments: list[str]) -> tuple[str, list[str]]:
    """What a command works on, always its first argument, and the options after it."""
    if arguments and arguments[0] in ("-h", "--help"):
        return "--help", ["--help"]
    if not arguments or arguments[0].startswith("-"):
        raise InputError(f"usage: purrception {verb.name} {verb.usage}; for example: {verb.example}")
    return arguments[0], arguments[1:]


def recipe_of(target: str) -> RunConfig:
    """A recipe by name, or a configuration file."""
    from purrception.experiment.config import load_config
    from purrception.experiment.recipes import RECIPES, get_recipe

    if target in RECIPES or not (target.endswith((".yaml", ".yml")) or os.path.sep in target):
        return get_recipe("digits" if target == "--help" else target)
    return load_config(target)


def configure(
    verb: Verb,
    target: str,
    arguments: list[str],
    *,
    dry: bool = False,
    check: Callable[[RunConfig], None] | None = None,
) -> RunConfig:
    """A recipe or file with options; sizes that a recipe leaves open are chosen from the images, and told.

    Args:
        verb: for the errors.
        target: recipe or file.
        arguments: options.
        dry: images need not be there; without them a middling size is taken.
        check: refuses a configuration before any image is read.
    """
    from purrception.experiment.config import RunConfig
    from purrception.experiment.recipes import fit_to_images

    recipe = recipe_of(target)
    config = parse(RunConfig, verb, arguments, recipe)
    if check is not None:
        check(config)
    if recipe.data.image_size or config.data.tokens:
        return config
    if dry and not config.data.root:
        fitted = replace(recipe, data=replace(recipe.data, image_size=64))
    else:
        fitted, choice = fit_to_images(recipe, config.data)
        say(choice)
    return parse(RunConfig, verb, arguments, fitted)


def parse(kind: type[T], verb: Verb, arguments: list[str], default: T | None = None) -> T:
    """Options, all of them known.

    Raises:
        InputError: an unknown option (with the nearest known one), or a value that an option does not take.
    """
    parsed, unknown = parse_known(kind, verb, arguments, default)
    if unknown:
        given = unknown[0].split("=")[0]
        raise unknown_name("option", given, [option.name for option in options_of(kind)])
    return parsed


def parse_known(kind: type[T], verb: Verb, arguments: list[str], default: T | None = None) -> tuple[T, list[str]]:
    """Options by tyro, with errors as one line; (parsed, what is left).

    Raises:
        InputError: a value that an option does not take.
    """
    import tyro

    printed = io.StringIO()
    shown = _with_options(kind)
    settings: dict[str, Any] = {} if default is None else {"default": _rebuilt(default, shown)}
    try:
        with contextlib.redirect_stderr(printed):
            parsed, unknown = tyro.cli(
                shown,
                args=spelt_out(kind, arguments),
                prog=f"purrception {verb.name} {verb.usage}",
                description=f"{verb.summary}\n\nExample: {verb.example}",
                return_unknown_args=True,
                config=(tyro.conf.FlagConversionOff,),
                **settings,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(condense(printed.getvalue())) from stop
    check_numbers(parsed)
    return _rebuilt(parsed, kind), unknown


def _holds_settings(hint: Any) -> TypeGuard[type]:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def _settings_in(kind: type) -> Iterator[tuple[dataclasses.Field[Any], Any, str]]:
    """The fields of a dataclass that are options, with their types and their names on the command line."""
    hints = get_type_hints(kind)
    names = getattr(kind, "OPTIONS", {})
    for item in dataclasses.fields(kind):
        yield item, hints[item.name], names.get(item.name, item.name)


class Option(NamedTuple):
    """An option of a command."""

    name: str
    """Its name, such as ``--training.batch-size``."""
    kind: Any
    """The type of its value."""
    other_names: tuple[str, ...]
    """What it was called before, and what it is called in Python if not the same: accepted too."""


def options_of(kind: type, prefix: str = "--", left_out: tuple[str, ...] = ()) -> Iterator[Option]:
    """Every option that a dataclass gives a command, those of the settings within it included."""
    renamed = getattr(kind, "RENAMED", {})
    for item, hint, name in _settings_in(kind):
        if item.name in left_out:
            continue
        if _holds_settings(hint):
            within = prefix if item.metadata.get("flat") else f"{prefix}{name}."
            yield from options_of(hint, within, item.metadata.get("left_out", ()))
        else:
            others = {item.name, *(old for old, new in renamed.items() if new == item.name)} - {name}
            spelt = [f"{prefix}{each}".replace("_", "-") for each in (name, *sorted(others))]
            yield Option(spelt[0], hint, tuple(spelt[1:]))


def _with_options(kind: type, left_out: tuple[str, ...] = ()) -> Any:
    """The dataclass as tyro is to see it: with the command line's names, and flat where :func:`flat` says so."""
    import tyro

    changed: list[tuple[str, Any, Any]] = []
    for item, hint, name in _settings_in(kind):
        option, default = hint, item.default
        if item.name in left_out:
            option = Annotated[hint, tyro.conf.Suppress, tyro.conf.Fixed]
        elif _holds_settings(hint):
            option = inner = _with_options(hint, item.metadata.get("left_out", ()))
            if _holds_settings(type(default)):
                default = _rebuilt(default, inner)
            if item.metadata.get("flat"):
                option = Annotated[inner, tyro.conf.arg(name="", prefix_name=False)]
        elif name != item.name:
            option = Annotated[hint, tyro.conf.arg(name=name)]
        if option is not hint:
            defaults: dict[str, Any] = {"default": default, "default_factory": item.default_factory}
            changed.append((item.name, option, field(**defaults, kw_only=bool(item.kw_only))))
    if not changed:
        return kind
    made = dataclasses.make_dataclass(kind.__name__, changed, bases=(kind,), frozen=True)
    made.__doc__ = kind.__doc__
    return made


def _rebuilt(settings: Any, kind: type[T]) -> T:
    """The same settings as another dataclass with the same fields."""
    if type(settings) is kind:
        return settings
    values = {}
    for item, hint, _ in _settings_in(kind):
        value = getattr(settings, item.name)
        values[item.name] = _rebuilt(value, hint) if _holds_settings(hint) else value
    return kind(**values)


def spelt_out(kind: type, arguments: list[str]) -> list[str]:
    """``arguments`` under today's names, and with True behind every switch that stands alone."""
    kinds = {option.name: option.kind for option in options_of(kind)}
    names = {other: option.name for option in options_of(kind) for other in option.other_names}
    spelt: list[str] = []
    for argument, following in pairwise([*arguments, ""]):
        name, *value = argument.split("=", 1)
        name = name.replace("_", "-") if name.startswith("--") else name
        if name not in kinds:
            name = names.get(name, name)
        spelt.append("=".join([name, *value]) if name.startswith("--") else argument)
        if kinds.get(name) is bool and not value and following not in ("True", "False"):
            spelt.append("True")
    return spelt


def condense(message: str) -> str:
    """A framed message of several lines as one plain line, without help texts and what they are parsed into."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", message)
    parts = (part.strip(" │╭╮╰╯─") for part in text.splitlines())
    line = " ".join(part for part in parts if part.strip("-"))  # without Unicode, rules are of "-"
    line = re.split(r"Argument helptext|For full helptext|Full helptext", line)[0]
    return re.sub(r"^\s*((Value|Parsing) error\s+)?(Error parsing [\w.]+: )?", "", line).strip()
