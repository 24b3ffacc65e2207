"""What the report shows, read from what the stages left: held-out text, logs, benchmark rows."""

import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgetiny.data import Shards
from edgetiny.tokenizer import Tokenizer
from edgetiny.train.log import LOG_FILE

_POINTS_DRAWN = 150


def held_out_text(shards: Shards) -> bytes:
    """Return the held-out documents' text, one after the other: what `xz` is measured on."""
    assert shards.tokenizer_path is not None
    tokenizer = Tokenizer.open(shards.tokenizer_path)
    split = shards.valid
    first = 0 if shards.document_start is None else 1
    texts = [
        tokenizer.decode(split.tokens[start + first : end].tolist())
        for start, end in itertools.pairwise(split.document_offsets)
    ]
    return "".join(texts).encode()


def first_words(shards: Path) -> str:
    """Return the first words of the held-out text: the same question for every model."""
    words = held_out_text(Shards.open(shards)).decode()[:400].split()
    return " ".join(words[:6])


def training_log(folder: Path) -> list[dict[str, Any]]:
    """Return the steps that a training run logged, in order."""
    lines = (folder / LOG_FILE).read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if "loss" in entry]


def smoothed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the means of equal runs of points, as many as a chart can show."""
    size = max(1, math.ceil(len(points) / _POINTS_DRAWN))
    runs = [points[start : start + size] for start in range(0, len(points), size)]
    return [(run[-1][0], statistics.fmean(y for _, y in run)) for run in runs]


def speed_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a table has room for of a row of a benchmark result."""
    bound = row["roofline"]
    return {
        "batch": row["n_batch"],
        "new_tokens": row["n_gen"],
        "tok_s_summed": row["tok_per_s_summed"]["median"],
        "tok_s_per_sequence": row["tok_per_s_per_sequence"]["median"],
        "step_ms": row["step_ms"]["p50"],
        "bound_ms": bound["predicted_step_ms"],
        "limited_by": bound["limited_by"],
        "of_read_bandwidth": f"{bound['mbu']:.1%}" + (", in cache" if bound["in_cache"] else ""),
        "peak_memory_mb": row["peak_rss_bytes"] / 1e6,
    }


def machine(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return where and with what a benchmark row was measured."""
    return {
        "cpu": row["cpu_info"],
        "threads": row["n_threads"],
        "runtime": row["runtime"],
        "commit": row["build_commit"],
    } | {f"version of {name}": version for name, version in row["versions"].items()}
