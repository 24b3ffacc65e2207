"""What a run records as it goes: a line of JSON per event, and TensorBoard if asked for."""

import contextlib
import json
import os
import shutil
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edgetiny.errors import DeviceError
from edgetiny.files import atomic_file, writing

LOG_FILE = "log.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
_LOSSES_AVERAGED = 100


class Log:
    """`OUT/log.jsonl`: one line a step and one a validation, flushed as it is written.

    OUT is replaced as a whole at each save. The files of the log are carried over as hard links,
    so that what is open goes on; where a file system has none they are copied and opened anew.
    """

    def __init__(self, out: Path, *, step: int, tensorboard: bool) -> None:
        """Open the log of a run that stands at `step`; what was logged later is forgotten."""
        self._out = out
        self._losses: deque[float] = deque(maxlen=_LOSSES_AVERAGED)
        for record in truncate(out / LOG_FILE, step):
            if "loss" in record:
                self._losses.append(record["loss"])
        self._tensorboard = tensorboard
        self._is_linked = True
        self._open(step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A disk that is full refuses again what is left to be written: the first error says it.
        with contextlib.nullcontext() if error is None else contextlib.suppress(OSError):
            self._close()

    @property
    def mean_loss(self) -> float | None:
        """The mean training loss of the last hundred steps; None before the first."""
        return sum(self._losses) / len(self._losses) if self._losses else None

    def step(self, record: Mapping[str, Any]) -> None:
        """Record one optimizer step; it has `step` and `loss`."""
        self._losses.append(record["loss"])
        self._write(record, "train")

    def validation(self, step: int, loss: float, bits_per_byte: Mapping[str, float]) -> None:
        """Record a validation after `step` steps."""
        record = {"step": step, "valid_loss": loss, "bits_per_byte": dict(bits_per_byte)}
        self._write(record, "valid")

    def carry_over(self, folder: Path) -> None:
        """Put the log's files into the folder that is about to replace OUT."""
        self._stream.flush()
        files = [self._out / LOG_FILE]
        if self._board is not None:
            self._board.flush()
            (folder / TENSORBOARD_FOLDER).mkdir()
        files += sorted((self._out / TENSORBOARD_FOLDER).glob("events.*"))
        for file in files:
            target = folder / file.relative_to(self._out)
            target.parent.mkdir(exist_ok=True)
            self._is_linked &= _link(file, target)

    def reopen(self, step: int) -> None:
        """Go on in what stands in OUT now, after it was replaced at `step`."""
        if not self._is_linked:
            self._close()
            self._open(step)

    def _open(self, step: int) -> None:
        self._stream = (self._out / LOG_FILE).open("a", encoding="utf-8")
        self._board: Any = None
        if self._tensorboard:
            self._board = _open_board(self._out / TENSORBOARD_FOLDER, step)

    def _close(self) -> None:
        self._stream.close()
        if self._board is not None:
            self._board.close()

    def _write(self, record: Mapping[str, Any], kind: str) -> None:
        with writing(self._out / LOG_FILE):
            self._stream.write(json.dumps(record, allow_nan=False) + "\n")
            self._stream.flush()
        if self._board is None:
            return
        for name, value in record.items():
            if isinstance(value, Mapping):
                for part, number in value.items():
                    self._board.add_scalar(f"{kind}/{name}/{part}", number, record["step"])
            elif name != "step" and value is not None:
                self._board.add_scalar(f"{kind}/{name}", value, record["step"])


def truncate(path: Path, step: int) -> list[dict[str, Any]]:
    """Cut a log down to what happened up to `step`, and return that.

    A line that a killed process left half written is dropped.
    """
    kept: list[dict[str, Any]] = []
    if not path.exists():
        return kept
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            is_kept = record["step"] <= step
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
        if is_kept:
            kept.append(record)
    with atomic_file(path) as temporary:
        lines = [json.dumps(record) + "\n" for record in kept]
        temporary.write_text("".join(lines), encoding="utf-8")
    return kept


def check_tensorboard() -> None:
    """Raise DeviceError if TensorBoard is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise DeviceError(
            "--tensorboard needs the package tensorboard, which is not installed;"
            " pip install 'edgetiny[plot]'"
        ) from None


def _open_board(folder: Path, step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    # Events after `step` were written by a run that was killed: TensorBoard is to drop them.
    return SummaryWriter(folder, purge_step=step + 1)


def _link(source: Path, target: Path) -> bool:
    """Give a file a second name, or copy it where that cannot be; return whether it is one file."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        return False
    return True
