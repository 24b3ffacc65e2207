"""Documents through a tokenizer in several processes, in order and in bounded memory."""

import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from edgetiny.errors import DataError
from edgetiny.measure import cores
from edgetiny.tokenizer.tokenizer import Tokenizer

Item = TypeVar("Item")
Result = TypeVar("Result")

# A worker takes a second to start, in which one process tokenizes a few megabytes.
_SMALL_BYTES = 4 << 20
_BATCH_CHARACTERS = 1 << 18
_BATCHES_AHEAD = 3
# With few processes more, so that they go on while the caller is busy for a second.
_LEAST_AHEAD = 24

_of_this_process: list[Tokenizer] = []


def process_count(asked: int, text_bytes: int) -> int:
    """Return the processes to use: as asked, or for 0 one a core (one if the text is small)."""
    if asked > 0:
        return asked
    return 1 if text_bytes < _SMALL_BYTES else cores()


def batches(
    items: Iterable[Item], size: Callable[[Item], int], limit: int = _BATCH_CHARACTERS
) -> Iterator[list[Item]]:
    """Group items in order into lists of about `limit` in summed size."""
    batch: list[Item] = []
    total = 0
    for item in items:
        batch.append(item)
        total += size(item)
        if total >= limit:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def map_in_order(
    function: Callable[[Tokenizer, Item], Result],
    items: Iterable[Item],
    tokenizer: Tokenizer,
    processes: int,
    meanwhile: Callable[[], None] | None = None,
) -> Iterator[Result]:
    """Yield function(tokenizer, item) for each item in order, however many processes work.

    function: importable by name, as the processes are spawned (they inherit no threads or locks).
    Items are taken only a few ahead of the results. Raises DataError if a process is killed.
    meanwhile: called once when several processes have work ahead: for what the caller must do too.
    """
    if processes == 1:
        for item in items:
            yield function(tokenizer, item)
        return
    ahead = max(_BATCHES_AHEAD * processes, _LEAST_AHEAD)
    with ProcessPoolExecutor(
        processes, get_context("spawn"), initializer=_open_tokenizer, initargs=(tokenizer.path,)
    ) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(_apply, function, item))
                if len(waiting) > ahead:
                    if meanwhile is not None:
                        meanwhile()
                        meanwhile = None
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise DataError(
                "a tokenizer process was killed, perhaps for want of memory; try fewer --processes"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _open_tokenizer(path: Path) -> None:
    # Ctrl-C goes to every process; the parent alone answers, and ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _of_this_process[:] = [Tokenizer.open(path)]


def _apply(function: Callable[[Tokenizer, Item], Result], item: Item) -> Result:
    return function(_of_this_process[0], item)
