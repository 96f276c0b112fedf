"""What the commands' parsing shares: the target, options by tyro, and errors of one line.

One parser for the whole command line, such as ``tyro.extras.SubcommandApp`` makes, is not used: what an option
defaults to depends on the target before it, a recipe or a run, and only the module of one command is imported.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import os
import re
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import field, replace
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, TypeVar, cast, get_args

from purrception.cli.options import holds_settings, options_of, settings_in
from purrception.cli.suggestions import unknown_option
from purrception.cli.verbs import Verb
from purrception.data.config import BUILT_IN, PREFIXES
from purrception.experiment.config import RunConfig, load_config
from purrception.experiment.recipes import RECIPES, fit_to_images, get_recipe
from purrception.training import RunDirectory
from purrception.utils.errors import InputError, unknown_name
from purrception.utils.packages import require
from purrception.utils.settings import check_numbers, field_docs
from purrception.utils.text import command_line, quiet

T = TypeVar("T")
TRUTH = {"true": True, "false": False}


def flat(*left_out: str, own: str = "") -> dict[str, Any]:
    """Metadata of a field that holds settings: their options stand beside the others, without a prefix.

    Args:
        left_out: settings that are no options here.
        own: what help gives as their default where it depends on the target: ``the run's own``.
    """
    return {"flat": True, "left_out": left_out, "own": own}


class RecipeOptions:
    """What a command takes whose target is a recipe: a dataclass of its own options and, last, the recipe's."""

    recipe: RunConfig

    @property
    def needs_images(self) -> bool:
        """Whether the images must be there."""
        return True

    def check(self) -> None:
        """Refuse what cannot be done, before any image is read."""


R = TypeVar("R", bound=RecipeOptions)


def say(text: str) -> None:
    """Print for the person who asked; of the processes of ``torchrun`` the first speaks."""
    if os.environ.get("RANK", "0") == "0":
        print(text, flush=True)


def remark(text: str) -> None:
    """Print what is not the result, unless ``--quiet`` is given."""
    if not quiet():
        say(text)


def say_skipped(text: str) -> None:
    """Tell which images were not taken, if any; see :func:`purrception.data.describe_report`."""
    if text:
        say(f"images: {text}")


def check_can_draw() -> None:
    """Refuse a report before the work, where its picture could not be drawn.

    Raises:
        InputError: matplotlib is not installed.
    """
    require("matplotlib", "the picture of a report")


def say_report(markdown: str, place: Path, result: str = "") -> None:
    """Print a report, with the section of this title at its end, and where it is kept."""
    from purrception.utils.terminal import for_terminal

    say(for_terminal(markdown, result) + f"\n\nreport: {place}")


def names_in(words: Iterable[str]) -> list[str]:
    """The names that a list gives, whose parts may hold several with commas between."""
    return [name.strip() for word in words for name in word.split(",") if name.strip()]


def target_of(verb: Verb, arguments: list[str]) -> tuple[str, list[str]]:
    """What a command works on, always its first argument, and the options after it.

    Where help is asked for and no target is given, it is empty.
    """
    if arguments and not arguments[0].startswith("-"):
        return arguments[0], arguments[1:]
    if asks_for_help(arguments):
        return "", arguments
    raise InputError(f"usage: purrception {verb.name} {verb.usage} [OPTIONS]; for example: {verb.example}")


def asks_for_help(arguments: list[str]) -> bool:
    """Whether a command is to be explained and not run."""
    return bool({"-h", "--help"} & set(arguments))


def resumed(verb: Verb, arguments: list[str]) -> tuple[str, list[str]]:
    """What ``--resume`` names, and the other arguments; empty where it is not given.

    It is read before the other options, whose defaults are those of what is resumed.

    Raises:
        InputError: it names nothing, or a target is given as well; the right command is told.
    """
    given = next((number for number, word in enumerate(arguments) if word.split("=")[0] == "--resume"), None)
    if given is None or asks_for_help(arguments):
        return "", arguments
    before, (word, *after) = arguments[:given], arguments[given:]
    place = word.removeprefix("--resume").removeprefix("=")
    if not place and after and not after[0].startswith("-"):
        place, after = after[0], after[1:]
    target = next(iter(before), "-")
    right = f"purrception {verb.name} --resume"
    if not target.startswith("-"):
        runs = [target, place, f"runs/{target}", f"tokenizers/{target}"]
        there = next((run for run in runs if run and RunDirectory(run).config_file.is_file()), place or target)
        raise InputError(f"what is resumed keeps its recipe, so that --resume comes first: {right} {there}")
    if not place:
        example = "tokenizers/mine" if "tokenizer" in verb.name else "runs/digits"
        raise InputError(f"--resume needs the directory to go on with, such as {right} {example}")
    return place, before + after


def recipe_of(target: str) -> RunConfig:
    """A recipe by name, or a configuration file.

    Raises:
        InputError: it is neither; what it is instead, or the nearest recipe, is told.
    """
    if target in RECIPES:
        return get_recipe(target)
    run = RunDirectory(target)
    if run.config_file.is_file():
        go_on = command_line(["train", "--resume", target])
        raise InputError(f"{target} is a run: go on with it by {go_on}, or give a recipe or {run.config_file}")
    if Path(target).is_dir():
        recipe = command_line(["train", "folder"], {"data.root": target})
        raise InputError(f"{target} is a folder, and here is wanted a recipe or a .yaml file, such as: {recipe}")
    if target.endswith((".yaml", ".yml")):
        return load_config(target)
    raise unknown_name("recipe", target, RECIPES, "or a configuration in a .yaml file")


def configure(kind: type[R], verb: Verb, target: str, arguments: list[str]) -> R:
    """A recipe or file with options; sizes that a recipe leaves open are chosen from the images, and told.

    Args:
        kind: the options of the command, which have a recipe.
        verb: the command.
        target: recipe or file; empty where help is asked for, which then gives no recipe's values.
        arguments: options.
    """
    if not target:
        return parse(kind, verb, arguments)
    recipe = recipe_of(target)
    options = parse(kind, verb, arguments, cast(Any, kind)(recipe=recipe))
    options.check()
    config = options.recipe
    if recipe.data.image_size or config.data.tokens:
        return options
    if not options.needs_images and not config.data.root:
        fitted = replace(recipe, data=replace(recipe.data, image_size=64))
    else:
        fitted, choice = fit_to_images(recipe, config.data)
        remark(choice)
    return parse(kind, verb, arguments, cast(Any, kind)(recipe=fitted))


def parse(kind: type[T], verb: Verb, arguments: list[str], default: T | None = None) -> T:
    """Options by tyro, with errors as one line.

    Args:
        kind: the dataclass of the options.
        verb: the command.
        arguments: what follows its target.
        default: what options that are not given default to; help shows these values.

    Raises:
        InputError: an unknown option (with the one that is probably meant), or a value that an option does not
            take.
    """
    import tyro

    printed = io.StringIO()
    shown = _shown(kind, own_defaults=default is None)
    settings: dict[str, Any] = {} if default is None else {"default": _rebuilt(default, shown)}
    try:
        with contextlib.redirect_stderr(printed):
            parsed, unknown = tyro.cli(
                shown,
                args=spelt_out(kind, arguments),
                prog=" ".join(filter(None, ["purrception", verb.name, verb.usage])),
                description=_explained(verb, own_defaults=default is None and issubclass(kind, RecipeOptions)),
                return_unknown_args=True,
                **settings,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(condense(printed.getvalue())) from stop
    if unknown:
        raise unknown_option(verb, unknown[0].split("=")[0], [option.name for option in options_of(kind)])
    check_numbers(parsed)
    return _rebuilt(parsed, kind)


def check_known(kind: type, verb: Verb, arguments: list[str]) -> None:
    """Refuse an unknown option before there are defaults to parse the others with.

    Raises:
        InputError: see :func:`parse`.
    """
    options = list(options_of(kind))
    known = {name for option in options for name in (option.name, negated(option.name))} | {"--help"}
    for word in spelt_out(kind, arguments):
        if word.startswith("--") and word.split("=")[0] not in known:
            raise unknown_option(verb, word.split("=")[0], [option.name for option in options])


def _explained(verb: Verb, own_defaults: bool) -> str:
    """What help says before the options."""
    values = f" purrception {verb.name} digits --help gives the values of that recipe." if own_defaults else ""
    return f"{verb.summary}{values}\n\nExample: {verb.example}"


def _shown(
    kind: type, own_defaults: bool, is_flat: bool = False, own: str = "", left_out: Iterable[str] = ()
) -> Any:
    """The dataclass as tyro is to see it: names, texts and defaults as :func:`flat` and the docstrings say."""
    import tyro

    docs, prefixed = field_docs(kind), False if is_flat else None
    fields: list[tuple[str, Any, Any]] = []
    for item, hint, name in settings_in(kind):
        default, factory, text = item.default, item.default_factory, docs.get(item.name, "").replace("`", "")
        option: Any
        if item.name in left_out:
            option = Annotated[hint, tyro.conf.Suppress, tyro.conf.Fixed]
        elif holds_settings(hint):
            beside, its_own = item.metadata.get("flat", False), item.metadata.get("own") or own
            inner = _shown(hint, own_defaults, beside, its_own, item.metadata.get("left_out", ()))
            option = Annotated[inner, tyro.conf.arg(help=text or None, prefix_name=prefixed)]
            if factory is not dataclasses.MISSING:
                factory = _rebuilding(factory, inner)
            if default is not dataclasses.MISSING:
                default = _rebuilt(default, inner)
        else:
            said = tyro.conf.arg(
                name=name,
                help=text,
                help_behavior_hint=f"(default: {own})" if own and own_defaults else _saying(text),
                metavar=_metavar(hint),
                prefix_name=prefixed,
            )
            option = Annotated[hint, said]
        defaults: dict[str, Any] = {"default": default, "default_factory": factory}
        fields.append((item.name, option, field(**defaults, kw_only=bool(item.kw_only))))
    made = dataclasses.make_dataclass(kind.__name__, fields, bases=(kind,), frozen=True)
    made.__doc__ = str(kind.__doc__).replace("`", "")
    return made


def _saying(text: str) -> Callable[[str], str]:
    """How help gives a default behind an option's text, which may say what happens by default in its own words."""
    nothing = "" if re.search("default|required|empty", text, re.IGNORECASE) else "(default: none)"
    words = {"": nothing, "''": nothing, "None": nothing, "False": "(default: off)", "True": "(default: on)"}
    return lambda value: words.get(value, f"(default: {value})")


def _metavar(hint: Any) -> str | None:
    """What stands for the numbers of an option that may be left out; of others tyro says it better."""
    if NoneType not in get_args(hint):
        return None
    kind = next(kind for kind in get_args(hint) if kind is not NoneType)
    return " ".join(number.__name__.upper() for number in get_args(kind) or (kind,))


def _rebuilding(factory: Callable[[], Any], kind: type) -> Callable[[], Any]:
    return lambda: _rebuilt(factory(), kind)


def _rebuilt(settings: Any, kind: type[T]) -> T:
    """The same settings as another dataclass with the same fields."""
    if type(settings) is kind:
        return settings
    values = {}
    for item, hint, _ in settings_in(kind):
        value = getattr(settings, item.name)
        values[item.name] = _rebuilt(value, hint) if holds_settings(hint) else value
    return kind(**values)


def spelt_out(kind: type, arguments: list[str]) -> list[str]:
    """``arguments`` under today's names, and every switch bare: ``--flips`` or ``--no-flips``.

    Raises:
        InputError: a switch is given a value that is neither True nor False.
    """
    options = list(options_of(kind))
    switches = {option.name for option in options if option.kind is bool}
    off = {negated(name): name for name in switches} | {f"--no-{name[2:]}": name for name in switches}
    today = {other: option.name for option in options for other in option.other_names}
    today |= {option.name: option.name for option in options}
    spelt: list[str] = []
    rest = deque(arguments)
    while rest:
        argument = rest.popleft()
        name, *value = argument.split("=", 1)
        name = name.replace("_", "-") if name.startswith("--") else name
        name = today.get(name, name)
        if name not in switches and name not in off:
            spelt.append("=".join([name, *value]) if name.startswith("--") else argument)
            continue
        if not value and rest and rest[0].lower() in TRUTH:
            value = [rest.popleft()]
        if value and value[0].lower() not in TRUTH:
            raise InputError(f"{name} is a switch: give it alone, or with True or False; given {value[0]!r}")
        on = name in switches
        if value and not TRUTH[value[0].lower()]:
            on = not on
        spelt.append(off.get(name, name) if on else negated(off.get(name, name)))
    return spelt


def negated(name: str) -> str:
    """What turns a switch off: ``--no-strict``, ``--data.no-flips``."""
    before, last = re.fullmatch(r"--(.*\.)?(.*)", name).groups()  # type: ignore[union-attr]
    return f"--{before or ''}no-{last}"


def check_images(place: str, *recipes: str) -> None:
    """Refuse images that are not there, before anything heavy is imported.

    Args:
        place: as a person gives it.
        recipes: names that are accepted as well, by the command that asks.

    Raises:
        InputError: ``place`` is no built-in source, no address, no pattern of tars and no path.
    """
    elsewhere = place.startswith(tuple(PREFIXES)) or "://" in place or ".tar" in place
    if place not in BUILT_IN and not elsewhere and not Path(place).exists():
        images = f"a folder, tars (in/train-{{000..146}}.tar), hub:NAME, {', '.join(BUILT_IN)}"
        if recipes:
            raise unknown_name("recipe or images", place, recipes, f"or images: {nearest_in(place)}{images}")
        raise InputError(f"no images at {place!r}: {nearest_in(place)}accepted are {images}")


def source_of(target: str) -> RunConfig:
    """A recipe by name, a configuration file, or the recipe ``folder`` for images of any other source."""
    if target in RECIPES or target.endswith((".yaml", ".yml")):
        return recipe_of(target)
    check_images(target, *RECIPES)
    from purrception.data import find_source

    source, root = find_source(target)
    recipe = get_recipe("folder")
    return replace(recipe, data=replace(recipe.data, source=source, root=root))


def nearest_in(place: str) -> str:
    """A hint at what a path that does not exist could have been, from what lies in its folder; or nothing."""
    path = Path(place)
    there = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, there, n=1, cutoff=0.6)
    return f"did you mean {str(path.with_name(close[0]))!r}? " if close else ""


def condense(message: str) -> str:
    """A framed message of several lines as one plain line, without help texts and what they are parsed into."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", message)
    parts = (part.strip(" │╭╮╰╯─") for part in text.splitlines())
    line = " ".join(part for part in parts if part.strip("-"))  # without Unicode, rules are of "-"
    line = re.split(r"Argument helptext|For full helptext|Full helptext", line)[0]
    return re.sub(r"^\s*((Value|Parsing) error\s+)?(Error parsing [\w.]+: )?", "", line).strip()
