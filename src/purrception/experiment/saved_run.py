"""The configuration of a run that is there: where its paths lead, and what may change when it goes on."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

from purrception.experiment.config import RunConfig, load_config, map_paths
from purrception.storage.hub import HUB_PREFIX
from purrception.training import RunDirectory
from purrception.utils import distributed
from purrception.utils.errors import InputError
from purrception.utils.folders import absolute

RESUMABLE_SECTIONS = frozenset({"training", "sampling", "evaluation"})


def saved_config(run: RunDirectory) -> RunConfig:
    """The configuration of a run, with paths that lead to the same from any folder.

    Runs keep absolute paths. Earlier ones kept them as they had been typed: these are looked for in the folder
    where training was started, as far as the run's own place tells it, and then in this one. A line tells of
    images or token shards that are in neither. A tokenizer that is not where it was any more, or that an earlier
    version found on the hub without ``hub:``, is the run's own copy.
    """
    config = load_config(run.config_file)
    origin = _started_in(config, run)

    def place(text: str) -> str:
        beside = absolute(str(origin / text)) if origin is not None and text else text
        return beside if os.path.isabs(beside) and _leads_somewhere(beside) else absolute(text)

    placed = _own_tokenizer(map_paths(config, place), run)
    for name, text in (("data.root", placed.data.root), ("data.tokens", placed.data.tokens)):
        if _is_lost(text, placed) and distributed.rank() == 0:
            print(
                f"note: this run keeps {name} {text!r} relative to the folder where its training was started"
                f"{f', {origin},' if origin else ''} and nothing is there now: start this command in the folder "
                "that holds it",
                file=sys.stderr,
            )
    return placed


def _own_tokenizer(config: RunConfig, run: RunDirectory) -> RunConfig:
    """The configuration with the run's copy of its tokenizer, where there is one and the original is gone."""
    path = config.tokenizer.path
    if not path or path.startswith(HUB_PREFIX) or os.path.exists(path) or not run.has_tokenizer:
        return config
    own = dataclasses.replace(config.tokenizer, path=os.path.abspath(run.tokenizer), arch="")
    return dataclasses.replace(config, tokenizer=own)


def _started_in(config: RunConfig, run: RunDirectory) -> Path | None:
    """The working folder of a training, where the run still lies at RUNS/NAME below it; ``None`` if unknown."""
    here, below = run.root.resolve(), Path(config.runs) / config.name
    if below.is_absolute() or here.parts[-len(below.parts) :] != below.parts:
        return None
    return here.parents[len(below.parts) - 1]


def _leads_somewhere(path: str) -> bool:
    return os.path.exists(path) or (path.endswith(".tar") and os.path.isdir(os.path.dirname(path)))


def _is_lost(text: str, config: RunConfig) -> bool:
    """Whether a text is a path, relative, of nothing."""
    of_hub = config.data.source == "hub" and text == config.data.root
    return bool(text) and "://" not in text and not of_hub and not os.path.isabs(text)


def check_change(saved: RunConfig, config: RunConfig) -> None:
    """Refuse to change what a run has already built.

    Raises:
        InputError: the change concerns more than ``training``, ``sampling`` or ``evaluation``.
    """
    changed = {
        field.name
        for field in dataclasses.fields(config)
        if getattr(config, field.name) != getattr(saved, field.name)
    }
    if fixed := sorted(changed - RESUMABLE_SECTIONS):
        raise InputError(
            f"a resumed run keeps its {', '.join(fixed)}; only {', '.join(sorted(RESUMABLE_SECTIONS))} "
            "may change: start another run with a --name of its own"
        )


def describe_jump(saved: RunConfig, config: RunConfig, step: int) -> str:
    """A line about a learning rate that rises at ``step`` because its cosine has been made longer; else empty."""
    before, after = saved.training.learning_rate_at(max(step - 1, 0)), config.training.learning_rate_at(step)
    longer = config.training.decay == "cosine" and config.training.steps > saved.training.steps
    if step == 0 or not longer or after <= before:
        return ""
    return (
        f"the cosine now falls over {config.training.steps} steps instead of {saved.training.steps}, so that the "
        f"learning rate goes from {before:.3g} up to {after:.3g} at step {step}; to stay at {before:.3g}, give "
        f"--training.decay constant --training.learning-rate {before:.3g} as well"
    )
