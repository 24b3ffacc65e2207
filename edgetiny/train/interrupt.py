"""Ctrl-C: the first asks the loop to stop at the next step, the second stops at once."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from edgetiny.console import Reporter


class StopRequest:
    """While the block runs, the first Ctrl-C sets `is_set`; a second one interrupts as usual.

    Outside the main thread, where Python delivers no signals, it is never set.
    """

    def __init__(self, reporter: Reporter) -> None:
        self.is_set = False
        self._reporter = reporter
        self._before: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._on_interrupt)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        self.is_set = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._reporter.say("stopping after this step, then saving; Ctrl-C again stops at once")
