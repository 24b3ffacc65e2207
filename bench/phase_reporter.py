"""A stage's tasks as the phases of a child process that `phases.watch` watches."""

import contextlib
from collections.abc import Iterator

from phases import say_phase

from edgetiny.console import Reporter, Task


class PhaseReporter(Reporter):
    """A quiet reporter whose tasks are phases."""

    def __init__(self) -> None:
        super().__init__(quiet=True)

    @contextlib.contextmanager
    def task(self, name: str, total: int | None = None) -> Iterator[Task]:
        """Begin a phase of the task's first word; what follows it is `between`."""
        say_phase(name.split()[0])
        with super().task(name, total) as task:
            yield task
        say_phase("between")
