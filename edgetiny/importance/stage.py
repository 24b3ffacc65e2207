"""`edgetiny importance`: what a checkpoint would miss, layer by layer and neuron by neuron."""

import time
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from edgetiny.checkpoint import Checkpoint
from edgetiny.config.model import ImportanceConfig, ScoreMethod
from edgetiny.console import QUIET, Reporter
from edgetiny.data import Shards
from edgetiny.evaluate.compatible import check_same_tokenizer
from edgetiny.evaluate.window import trained_length
from edgetiny.files import atomic_file, refuse_existing, write_json
from edgetiny.importance.neurons import score
from edgetiny.importance.report import render
from edgetiny.importance.skips import n_steps, skip_losses, turns
from edgetiny.importance.text import text_windows
from edgetiny.measure import torch_threads

SCHEMA_VERSION = 1
_RUNS = (1, 2, 3)
_METHODS: tuple[ScoreMethod, ...] = ("l1", "l2", "activation", "taylor")


@dataclass(frozen=True, slots=True)
class Importance:
    """What was found: rows of tables. layers, neurons: empty where they were not asked for."""

    source: str
    loss: float | None
    layers: list[dict[str, Any]]
    neurons: list[dict[str, Any]]

    def summary(self) -> dict[str, Any]:
        """Return the tables that are not empty."""
        tables = {"layers": self.layers, "neurons": self.neurons}
        loss = {} if self.loss is None else {"loss": self.loss}
        return {"checkpoint": self.source} | loss | {k: rows for k, rows in tables.items() if rows}

    def document(self) -> dict[str, Any]:
        """Return what --out holds."""
        return {"schema_version": SCHEMA_VERSION} | self.summary()


def run(config: ImportanceConfig, reporter: Reporter = QUIET) -> Importance:
    """Return the tables; write them as JSON and as a page where that was asked for.

    Layers are scored on held-out text, neurons on training text. Raises DataError for shards of
    another tokenizer or shorter than a window.
    """
    for path in (config.out, config.report):
        if path is not None:
            refuse_existing(path, overwrite=config.overwrite)
    source, shards = Checkpoint.open(config.source), Shards.open(config.data)
    check_same_tokenizer(source.path, source.config.vocab_size, shards)
    with torch_threads(config.threads):
        loss, layers = _layers(source, shards, config, reporter) if config.layers else (None, [])
        neurons = _neurons(source, shards, config, reporter) if config.neurons else []
    found = Importance(str(source.path), loss, layers, neurons)
    if config.out is not None:
        with atomic_file(config.out) as temporary:
            write_json(temporary, found.document())
    if config.report is not None:
        with atomic_file(config.report) as temporary:
            temporary.write_text(render(found.summary()), encoding="utf-8")
    return found


def _layers(
    source: Checkpoint, shards: Shards, config: ImportanceConfig, reporter: Reporter
) -> tuple[float, list[dict[str, Any]]]:
    """Return the loss, and per layer what each run that begins there is worth and how it turns."""
    windows = text_windows(shards.valid, config.calibration_tokens, trained_length(source))
    tensors, n_layers = source.state_dict(), source.config.num_hidden_layers
    lengths = [n for n in _RUNS if n < n_layers]
    with reporter.task("skipping layers", n_steps(n_layers, windows)) as task:
        found = skip_losses(source.config, tensors, range(n_layers), windows, lengths, task)
    with reporter.task("turns of layers", n_layers) as task:
        turned = turns(source.config, tensors, windows, task)
    rows = []
    for layer in range(n_layers):
        row: dict[str, Any] = {"layer": layer}
        for n, losses in found.without.items():
            row[f"loss_without_{n}"] = losses[layer] if layer < len(losses) else None
        rows.append(row | {"turn": turned[layer]})
    return found.whole, rows


def _neurons(
    source: Checkpoint, shards: Shards, config: ImportanceConfig, reporter: Reporter
) -> list[dict[str, Any]]:
    """Return per method and axis how much of the score the best half of the neurons has."""
    windows = text_windows(shards.train, config.calibration_tokens, trained_length(source))
    shape, tensors = source.config, source.state_dict()
    rows = []
    for method in _METHODS:
        started = time.perf_counter()
        scores = score(method, shape, tensors, windows, reporter=reporter)
        seconds = time.perf_counter() - started
        for axis, parts in (
            ("hidden", [scores.hidden]),
            ("units", scores.units),
            ("query heads", scores.query),
        ):
            halves = [_best_half(part) for part in parts]
            rows.append(
                {"method": method, "axis": axis, "sets": len(parts), "size": len(parts[0])}
                | {"share_of_best_half": sum(halves) / len(halves), "seconds": seconds}
            )
    return rows


def _best_half(scores: Tensor) -> float:
    """Return the share of the sum that the larger half of the scores has: 0.5 if all are equal."""
    total = float(scores.sum())
    if total == 0:
        return 0.5
    falling = scores.sort(descending=True).values
    # The middle one of an odd number counts half.
    twice = falling[: len(scores) // 2].sum() + falling[: (len(scores) + 1) // 2].sum()
    return float(twice) / (2 * total)
