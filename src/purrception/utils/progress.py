"""Showing progress and the time left: a live bar on a terminal, a line every few seconds in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from purrception.utils import distributed
from purrception.utils.text import quiet

SECONDS_BETWEEN_LINES = 10.0


def note(message: str) -> None:
    """Print a line for the user to stderr; of several processes, only the first does.

    Under ``--quiet`` only warnings are printed.
    """
    if distributed.rank() == 0 and (message.startswith("warning") or not quiet()):
        print(message, file=sys.stderr, flush=True)


class ProgressBar:
    """Shows how far a loop has come, its latest figures and the time left; of several processes, only the first
    does.

    Args:
        title: what is being done, in a word or two.
        total: the number of steps of the whole loop.
        start: the steps that an earlier process has done, which do not count for the time left.
        silent: whether to show nothing.
    """

    def __init__(self, title: str, total: int, start: int = 0, *, silent: bool = False) -> None:
        self.title, self.total, self.start = title, total, start
        self.console = Console(stderr=True, quiet=silent or quiet() or distributed.rank() > 0)
        self._bar = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
        )

    def __enter__(self) -> Self:
        self._began = self._printed = time.monotonic()
        if self.console.is_terminal:
            self._task = self._bar.add_task(self.title, total=self.total, completed=self.start, figures="")
            self._bar.start()
        return self

    def update(self, done: int, figures: str = "") -> None:
        """Show that ``done`` steps are done; the last figures stay if ``figures`` is empty."""
        distributed.beat()
        if self.console.is_terminal:
            self._bar.update(self._task, completed=done)
            if figures:
                self._bar.update(self._task, figures=figures)
            return
        now = time.monotonic()
        if done < self.total and now - self._printed < SECONDS_BETWEEN_LINES:
            return
        self._printed = now
        left = (now - self._began) / max(done - self.start, 1) * (self.total - done)
        self.console.print(
            f"{self.title} {done}/{self.total}  {left:.0f} s left  {figures}".rstrip(),
            highlight=False,
            soft_wrap=True,
        )

    def note(self, message: str) -> None:
        """Print a line above the bar."""
        self.console.print(message, highlight=False, markup=False, soft_wrap=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._bar.stop()
