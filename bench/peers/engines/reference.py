"""A fixed program that reads memory and multiplies as decoding does: what the machine gives.

It streams the fp32 matrices of model A through numpy's matrix product, once a step, with a column
for each sequence: memory bounds it at batch 1 and arithmetic at batch 20, as in the rows beside it.
No engine under test has part in it, so rows can be given as ratios to it.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from peers.work import Timed, Work

_SHAPES = (((1920, 640), (640, 640), (1776, 640), (1776, 640), (640, 1776)), (16_000, 640))
_LAYERS = 20
_STEPS = 100


def prepare(checkpoint: Path, folder: Path, options: Mapping[str, Any]) -> None:
    """Nothing is prepared."""


def run(folder: Path, options: Mapping[str, Any], work: Work) -> Timed:
    """Time `_STEPS` steps, scaled to the tokens that were asked for."""
    layer, head = _SHAPES
    random = np.random.default_rng(0)
    matrices = [random.random(shape, np.float32) for shape in (*layer * _LAYERS, head)]
    columns = {width: random.random((width, work.batch), np.float32) for width in (640, 1776)}

    def step() -> None:
        for matrix in matrices:
            matrix @ columns[matrix.shape[1]]

    for _ in range(5):
        step()
    begin = time.perf_counter()
    for _ in range(_STEPS):
        step()
    seconds = (time.perf_counter() - begin) / _STEPS
    return Timed(seconds=seconds * work.new_tokens, first_token_seconds=seconds, first_ids=None)
