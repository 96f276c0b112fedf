"""``purrception train``. What is heavy is imported when it is needed."""

from __future__ import annotations

from purrception.cli.parsing import configure, parse, say, target_of
from purrception.cli.verbs import Verb
from purrception.utils.errors import InputError
from purrception.utils.text import command_line


def train(verb: Verb, arguments: list[str]) -> None:
    """Do everything a recipe needs, or go on with a run."""
    dry = "--dry-run" in arguments
    arguments = [argument for argument in arguments if argument != "--dry-run"]
    resume = arguments[:1] == ["--resume"]
    if not resume:
        target, rest = target_of(verb, arguments)
    elif len(arguments) > 1 and not dry:
        target, rest = arguments[1], arguments[2:]
    else:
        raise InputError("--resume needs the directory of a run: purrception train --resume runs/digits")
    from purrception.experiment.config import RunConfig
    from purrception.experiment.dry_run import dry_run
    from purrception.experiment.run import check_start, resume_run, start_run
    from purrception.experiment.saved_run import saved_config
    from purrception.experiment.summary import summarise
    from purrception.training import RunDirectory

    def announce(config: RunConfig, run: RunDirectory) -> None:
        say(summarise(config, run, rest))

    if resume:
        config = parse(RunConfig, verb, rest, saved_config(RunDirectory.open(target)))
        run = resume_run(target, config, announce)
    elif dry:
        print(dry_run(configure(verb, target, rest, dry=True)))
        return
    else:
        run = start_run(configure(verb, target, rest, check=check_start), announce)
    say(f"done: {run.root}  (next: {command_line(['sample', str(run.root)])})")
