"""``purrception train``. What is heavy is imported when it is needed."""

from __future__ import annotations

from dataclasses import dataclass, field

from purrception.cli.parsing import (
    RecipeOptions,
    check_known,
    configure,
    flat,
    parse,
    remark,
    resumed,
    say,
    target_of,
)
from purrception.cli.verbs import Verb
from purrception.experiment.config import RunConfig
from purrception.experiment.recipes import digits
from purrception.training import RunDirectory
from purrception.utils.errors import InputError
from purrception.utils.text import command_line


@dataclass(frozen=True, kw_only=True)
class TrainOptions(RecipeOptions):
    """What ``purrception train`` takes."""

    resume: str = ""
    """The run to go on with, in place of a recipe. It keeps its settings; those that are given change it, such as
    --training.steps to train longer."""
    dry_run: bool = False
    """Stop after the first step, on images of noise, to see that everything fits."""
    recipe: RunConfig = field(default_factory=digits, metadata=flat(own="the recipe's"))

    @property
    def needs_images(self) -> bool:
        """Not for a dry run."""
        return not self.dry_run

    def check(self) -> None:
        """Names and paths of nothing, and a run of that name."""
        if not self.dry_run:
            from purrception.experiment.run import check_start

            check_start(self.recipe)


def train(verb: Verb, arguments: list[str]) -> None:
    """Do everything a recipe needs, or go on with a run."""
    run_to_resume, rest = resumed(verb, arguments)
    if run_to_resume:
        directory = RunDirectory.open(run_to_resume)
        check_known(TrainOptions, verb, rest)
        from purrception.experiment.saved_run import saved_config

        options = parse(TrainOptions, verb, rest, TrainOptions(recipe=saved_config(directory)))
        if options.dry_run:
            raise InputError(f"--dry-run tries a recipe, and {run_to_resume} has begun already: leave it out")
    else:
        target, rest = target_of(verb, arguments)
        options = configure(TrainOptions, verb, target, rest)
    config = options.recipe
    from purrception.experiment.dry_run import dry_run
    from purrception.experiment.run import resume_run, start_run
    from purrception.experiment.summary import summarise
    from purrception.training.overfitting import describe_overfitting

    def announce(config: RunConfig, run: RunDirectory) -> None:
        remark(summarise(config, run, rest))

    if options.dry_run:
        print(dry_run(config))
        return
    run = resume_run(run_to_resume, config, announce) if run_to_resume else start_run(config, announce)
    if warning := describe_overfitting(run):
        say(f"warning: {warning}")
    say(f"done: {run.root}  (next: {command_line(['sample', str(run.root)])})")
