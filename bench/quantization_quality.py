"""What fewer bits cost in held-out bits per byte: method x bits x block x KV cache.

    python bench/quantization_quality.py --checkpoint DIR --data SHARDS \
        --write docs/results/quantization

Every row is the fp32 torch model that a scheme's integers stand for. Text that calibrates is from
the training split, text that scores from the held-out one. With the dynamic kernel one scale
serves all activations of a scored batch, as in onnxruntime.
`--write` names the results without suffix: `.md` for people and `.json`, both with all rows.
Exits 1 if a bar is missed: int8 with an int8 cache 0.5%, the default int4 3%.
"""

import argparse
import json
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from edgetiny.checkpoint import Checkpoint, parameter_shapes
from edgetiny.data import Shards
from edgetiny.device import cpu_model
from edgetiny.evaluate import bits_per_byte, documents_of_split
from edgetiny.measure.memory import anonymous_rss_bytes
from edgetiny.model import Transformer
from edgetiny.quantize import (
    KVScales,
    Scheme,
    Weights,
    calibrate,
    calibration_windows,
    simulated,
)
from edgetiny.quantize.blocks import (
    BlockWeight,
    cut_blocks,
    dequantize,
    largest_scales,
    round_blocks,
)

BARS = {"int8": 0.5, "int4": 3.0}
"""Most that a precision may cost, in percent."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row; `rounding` and `cache` are what a Scheme has no word for."""

    scheme: Scheme
    rounding: str = ""
    cache: str = ""
    bar: bool = False

    @property
    def method(self) -> str:
        return self.rounding or self.scheme.method

    @property
    def kv(self) -> str:
        return self.cache or self.scheme.kv


def cases(block_sizes: list[int]) -> Iterator[Case]:
    """Yield the rows of the table; the first block size is the one looked at most."""
    for kv in ("fp32", "int8"):
        for kernel in ("weight_only", "dynamic"):
            scheme = Scheme(precision="int8", kernel=kernel, kv=kv)
            yield Case(scheme=scheme, bar=kv == "int8")
    yield Case(scheme=Scheme(precision="int8", kv="int8"), cache="int8, a scale a layer")
    for block_size in block_sizes:
        plain = Scheme(precision="int4", block_size=block_size)
        yield Case(scheme=plain)
        if block_size == block_sizes[0]:
            yield Case(scheme=plain, rounding="least squares")
        yield Case(scheme=Scheme(precision="int4", block_size=block_size, method="hqq"))
        yield Case(scheme=Scheme(precision="int4", block_size=block_size, method="gptq"), bar=True)
    for kernel in ("weight_only", "dynamic"):
        best = Scheme(precision="int4", method="gptq", kernel=kernel, kv="int8")  # type: ignore[arg-type]
        yield Case(scheme=best, bar=True)


@dataclass
class Peak:
    """The most anonymous memory seen, over what there was before."""

    grown_bytes: int = 0
    _done: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def watch(self) -> Iterator[None]:
        before = anonymous_rss_bytes() or 0

        def sample() -> None:
            while not self._done.wait(0.005):
                self.grown_bytes = max(self.grown_bytes, (anonymous_rss_bytes() or 0) - before)

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()


def least_squares(weight: torch.Tensor, block_size: int) -> BlockWeight:
    """Round to four bits with the scales, of those that cut off up to a third, of least error."""
    blocks, columns = cut_blocks(weight, block_size), weight.shape[1]
    plain = largest_scales(blocks, 4, torch.float16)
    best, least = plain, torch.full_like(plain, torch.inf, dtype=torch.float32)
    for share in (1, 0.95, 0.9, 0.875, 0.85, 0.8, 0.75, 0.7, 0.65):
        scales = (plain.float() * share).half()
        found = dequantize(round_blocks(blocks, scales, 4, blocks[0].numel()))
        error = (found.view_as(blocks) - blocks).square().sum(dim=-1)
        best = torch.where(error < least, scales, best)
        least = torch.minimum(error, least)
    return round_blocks(blocks, best, 4, columns)


def quantized(case: Case, checkpoint: Checkpoint, tokens: torch.Tensor, scratch: Path) -> Weights:
    """Return the weights of a row."""
    config, tensors, scheme = checkpoint.config, checkpoint.state_dict(), case.scheme
    if case.rounding:
        linears = {
            name: lambda name=name: least_squares(tensors[name], scheme.block_size)
            for name, shape in parameter_shapes(config).items()
            if len(shape) == 2
        }
        return Weights(config, tensors, scheme, linears=linears)
    if not scheme.needs_text:
        return Weights(config, tensors, scheme)
    weights = calibrate(config, tensors, scheme, tokens, scratch)
    if case.cache:
        scales = weights.kv_scales
        assert scales is not None
        key, value = (each[:, None, None] for each in scales.per_layer())
        weights.kv_scales = KVScales(key.expand_as(scales.key), value.expand_as(scales.value))
    return weights


def stored_bits(weights: Weights) -> float:
    """Return the bits on disk of a parameter, scales and norms included; a tied table once."""
    n_bytes = n_parameters = 0
    for name, shape in parameter_shapes(weights.config).items():
        stored = weights.linear(name) if len(shape) == 2 else weights.tensor(name)
        n_bytes += stored.nbytes if isinstance(stored, torch.Tensor) else stored.size_bytes
        n_parameters += torch.Size(shape).numel()
    return 8 * n_bytes / n_parameters


def score(model: Transformer, shards: Shards, options: argparse.Namespace) -> dict[str, float]:
    """Return held-out bits per byte by group."""
    documents = documents_of_split(
        shards.valid, shards.document_start is not None, options.tokens_per_group
    )
    with torch.inference_mode():
        scores = bits_per_byte(
            model, documents, context=options.context, batch_size=options.batch_size
        )
    return scores.bits_per_byte


def measure(
    case: Case,
    checkpoint: Checkpoint,
    tokens: torch.Tensor,
    shards: Shards,
    plain: dict[str, float],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Return one row of the table."""
    peak, begun = Peak(), time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        with peak.watch():
            weights = quantized(case, checkpoint, tokens, Path(scratch))
            bits = stored_bits(weights)
        seconds = time.perf_counter() - begun
        found = score(simulated(weights), shards, options)
    scheme = case.scheme
    row = {
        "precision": scheme.precision,
        "kernel": scheme.kernel,
        "block": 0 if scheme.is_per_channel else scheme.block_size,
        "method": case.method,
        "kv": case.kv,
        "bits_per_weight": bits,
        "bits_per_byte": found["all"],
        "change_percent": {name: 100 * (found[name] / plain[name] - 1) for name in plain},
        "seconds": seconds,
        "memory_mib": peak.grown_bytes / 2**20,
        "bar_percent": BARS[scheme.precision] if case.bar else None,
    }
    print(json.dumps(row), flush=True)
    return row


def markdown(facts: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Return the page."""
    groups = list(rows[0]["change_percent"])
    lines = ["# What fewer bits cost", "", "Written by `bench/quantization_quality.py`.", ""]
    lines += [f"- {name.replace('_', ' ')}: {value}" for name, value in facts.items()]
    lines += ["", "Change of held-out bits per byte against fp32, in percent:", ""]
    head = ["weights", "kernel", "block", "method", "KV", "bits a weight", *groups]
    head += ["bar", "seconds", "MiB"]
    lines += [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        bar = row["bar_percent"]
        cells = [row["precision"], row["kernel"], row["block"] or "row", row["method"], row["kv"]]
        cells += [f"{row['bits_per_weight']:.2f}"]
        cells += [f"{row['change_percent'][name]:+.3f}" for name in groups]
        cells += ["" if bar is None else f"{bar:g}", f"{row['seconds']:.0f}"]
        cells += [f"{row['memory_mib']:.0f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every row, print them as they come, and write them down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="shard folder")
    parser.add_argument("--tokens-per-group", type=int, default=4096, help="held-out tokens")
    parser.add_argument("--calibration-tokens", type=int, default=16_384)
    parser.add_argument("--context", type=int, default=256, help="tokens of a window")
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--block-size", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--write", type=Path, help="results, without suffix")
    options = parser.parse_args()
    checkpoint, shards = Checkpoint.open(options.checkpoint), Shards.open(options.data)
    tokens = calibration_windows(
        shards.train.tokens,
        shards.document_start,
        n_tokens=options.calibration_tokens,
        window=options.context,
    )
    full = Weights(checkpoint.config, checkpoint.state_dict(), Scheme(precision="fp32"))
    plain = score(simulated(full), shards, options)
    rows = [
        measure(case, checkpoint, tokens, shards, plain, options)
        for case in cases(options.block_size)
    ]
    facts = {
        "model": checkpoint.summary()["shape"],
        "fp32": ", ".join(f"{name} {value:.4f}" for name, value in plain.items())
        + " bits per byte",
        "held-out text": f"{options.tokens_per_group:,} tokens a group, windows of"
        f" {options.context}, batches of {options.batch_size}",
        "calibration": f"{tokens.numel():,} tokens of training text",
        "machine": f"{cpu_model()}, {torch.get_num_threads()} threads, torch {torch.__version__},"
        f" Python {platform.python_version()}",
    }
    if options.write is not None:
        options.write.with_suffix(".md").write_text(markdown(facts, rows), encoding="utf-8")
        text = json.dumps({"facts": facts, "rows": rows}, indent=1) + "\n"
        options.write.with_suffix(".json").write_text(text, encoding="utf-8")
    missed = [
        row
        for row in rows
        if row["bar_percent"] is not None and row["change_percent"]["all"] > row["bar_percent"]
    ]
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
