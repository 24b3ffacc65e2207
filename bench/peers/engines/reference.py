"""A fixed program that reads memory and multiplies as decoding does: what the machine gives.

A step multiplies the fp32 matrices of model A by a column for each sequence, and reads what a cache
of 256 positions holds for each, in numpy: memory bounds it at batch 1, arithmetic and the cache at
batch 20, as in the rows beside it. No engine under test has part in it, so rows can be given as
ratios to it.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from peers.work import Timed, Work

_LAYER = ((1920, 640), (640, 640), (1776, 640), (1776, 640), (640, 1776))
_HEAD = (16_000, 640)
_LAYERS = 20
_POSITIONS = 256
_SECONDS = 4.0  # as long as a row at batch 1; a second was noisier than the rows


def prepare(checkpoint: Path, folder: Path, options: Mapping[str, Any]) -> None:
    """Nothing is prepared."""


def run(folder: Path, options: Mapping[str, Any], work: Work) -> Timed:
    """Time steps for `_SECONDS`, scaled to the tokens that were asked for."""
    random = np.random.default_rng(0)
    matrices = [random.random(shape, np.float32) for shape in (*_LAYER * _LAYERS, _HEAD)]
    columns = {width: random.random((width, work.batch), np.float32) for width in (640, 1776)}
    caches = [
        np.ones((work.batch * _POSITIONS, 640), np.float32) for _ in range(2 * _LAYERS)
    ]  # keys and values
    query = random.random(640, np.float32)

    def step() -> None:
        for matrix in matrices:
            matrix @ columns[matrix.shape[1]]
        for cache in caches:
            cache @ query

    for _ in range(5):
        step()
    begin, steps = time.perf_counter(), 0
    while time.perf_counter() - begin < _SECONDS:
        step()
        steps += 1
    seconds = (time.perf_counter() - begin) / steps
    return Timed(seconds=seconds * work.new_tokens, first_token_seconds=seconds, first_ids=None)
