"""``purrception completion``: what a shell asks for when Tab is pressed.

The shell asks this program, so that what it offers is what the commands take, runs and recipes included. The
scripts that tyro makes hold one parser's options and no targets, and commands here have a parser each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args, get_origin

from purrception.cli.options import options_of
from purrception.cli.parsing import negated, parse, target_of
from purrception.cli.verbs import GROUPS, VERBS, Verb
from purrception.experiment.recipes import RECIPES
from purrception.training.run_directory import nearby
from purrception.utils.errors import unknown_name

SCRIPTS = {
    "bash": """_purrception() {
    local IFS=$'\\n'
    COMPREPLY=($(purrception completion words "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o bashdefault -o default -F _purrception purrception""",
    "zsh": """_purrception() {
    local -a found=("${(@f)$(purrception completion words "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    [[ -n $found ]] && compadd -a found || _files
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _purrception purrception""",
    "fish": "complete -c purrception "
    "-a '(purrception completion words (commandline -opc)[2..] (commandline -ct))'",
}
"""What each shell is told: it hands over the words so far, the last of which may be empty, and gets the possible
ones, one a line; where there are none, it offers files."""


@dataclass(frozen=True)
class CompletionOptions:
    """What ``purrception completion`` takes."""


def completion(verb: Verb, arguments: list[str]) -> None:
    """Print the script for a shell; or, when that script asks, the words that may follow."""
    if arguments[:1] == ["words"]:
        print("\n".join(following(arguments[1:])))
        return
    shell, rest = target_of(verb, arguments)
    parse(CompletionOptions, verb, rest)
    if shell not in SCRIPTS:
        raise unknown_name("shell", shell, SCRIPTS)
    print(SCRIPTS[shell])


def following(words: list[str]) -> list[str]:
    """The words that may stand in place of the last of these, which is the beginning of one."""
    *before, start = words or [""]
    name = next((" ".join(before[:n]) for n in (2, 1) if " ".join(before[:n]) in VERBS), "")
    if not name:
        group = " ".join(before)
        names = [verb.removeprefix(group).strip() for verb in VERBS if verb.startswith(group)]
        known = {word.split()[0] for word in names if word} if not before or group in GROUPS else set()
        known |= set() if before else {*GROUPS, "help"}
    elif start.startswith("-"):
        known = set()
        for option in options_of(VERBS[name].options):
            known |= {option.name, *([negated(option.name)] if option.kind is bool else [])}
    else:
        known = set(_targets(VERBS[name], before[len(name.split()) :]))
    return sorted(word for word in known if word.startswith(start))


def _targets(verb: Verb, given: list[str]) -> list[str]:
    """What may stand for a command's next target, or for the value of the option before it."""
    if given and given[-1].startswith("--"):
        kinds = {option.name: option.kind for option in options_of(verb.options)}
        if given[-1] == "--resume":
            return nearby()
        kind = kinds.get(given[-1])
        return [str(value) for value in get_args(kind)] if get_origin(kind) is Literal else []
    wanted = verb.usage.split()[len(given) :] if not any(word.startswith("-") for word in given) else []
    if not wanted:
        return []
    if wanted[0] == "SHELL":
        return list(SCRIPTS)
    recipes = list(RECIPES) if "RECIPE" in wanted[0] else []
    return recipes + (nearby() if "RUN" in wanted[0] else [])
