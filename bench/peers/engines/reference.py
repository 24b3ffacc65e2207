"""A fixed program that reads memory and multiplies as decoding does: what the machine gives.

It streams the fp32 matrices of model A through numpy's matrix-vector product, once a "token". No
engine under test has part in it, so rows can be given as ratios to it.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from peers.work import Timed, Work

_SHAPES = (((1920, 640), (640, 640), (1776, 640), (1776, 640), (640, 1776)), (16_000, 640))
_LAYERS = 20
_TOKENS = 60


def prepare(checkpoint: Path, folder: Path, options: Mapping[str, Any]) -> None:
    """Nothing is prepared."""


def run(folder: Path, options: Mapping[str, Any], work: Work) -> Timed:
    """Time the products of `_TOKENS` tokens, scaled to the tokens that were asked for."""
    layer, head = _SHAPES
    random = np.random.default_rng(0)
    matrices = [random.random(shape, np.float32) for shape in (*layer * _LAYERS, head)]
    vectors = {width: random.random(width, np.float32) for width in (640, 1776)}

    def token() -> None:
        for matrix in matrices:
            matrix @ vectors[matrix.shape[1]]

    for _ in range(5):
        token()
    begin = time.perf_counter()
    for _ in range(_TOKENS):
        token()
    seconds = (time.perf_counter() - begin) / _TOKENS
    return Timed(
        seconds=seconds * work.new_tokens * work.batch,
        first_token_seconds=seconds * work.batch,
        first_ids=None,
    )
