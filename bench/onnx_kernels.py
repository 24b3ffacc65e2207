"""What the kernels, blocks, caches and settings of an ONNX graph come to in tok/s.

    python bench/onnx_kernels.py --shape A --batch 20 --write docs/results/onnx_kernels

Graphs are lowered from random weights, greedily decoded from an empty cache, and measured in
fresh processes, the variants taking turns. Run it alone on the machine. `--write` names the
results without suffix: `.json` has every round.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from edgetiny.checkpoint import ModelConfig
from edgetiny.device import cpu_model
from edgetiny.init import RandomTensors
from edgetiny.quantize import KVScales, Scheme, Weights

# Depth, width, heads, key/value heads and FFN width of research models of about 100M parameters.
SHAPES = {"A": (20, 640, 10, 10, 1776), "G": (20, 640, 10, 2, 1776), "B": (5, 1152, 18, 18, 3072)}
_CONTEXT = 512
_TILED = {"ORT_GQA_DISABLE_FLASH_ATTENTION": "0", "ORT_MLAS_QKGEMM_S8_APPROX_VNNI": "0"}
_TILED_BYTES = _TILED | {"ORT_MLAS_QKGEMM_S8_APPROX_VNNI": "1"}
_PLAIN = _TILED | {"ORT_GQA_DISABLE_FLASH_ATTENTION": "1"}


@dataclass(frozen=True)
class Variant:
    """One way to store and run the model; environment: onnxruntime's, ours where empty."""

    precision: str
    kernel: str = "weight_only"
    block_size: int = 128
    kv_dtype: str = "int8"
    environment: dict[str, str] = field(default_factory=dict)


VARIANTS = {
    "fp32": Variant("fp32", kv_dtype="fp32"),
    "int8 channels": Variant("int8", "dynamic"),
    "int8 channels, fp32 cache": Variant("int8", "dynamic", kv_dtype="fp32"),
    "int8 channels, tiled attention": Variant("int8", "dynamic", environment=_TILED),
    "int8 channels, tiled, integer products": Variant("int8", "dynamic", environment=_TILED_BYTES),
    "int8 channels, plain attention": Variant("int8", "dynamic", environment=_PLAIN),
    "int8 blocks of 32": Variant("int8", block_size=32),
    "int8 blocks of 128": Variant("int8"),
    "int4 as channels": Variant("int4", "dynamic"),
    "int4 blocks of 32": Variant("int4", block_size=32),
    "int4 blocks of 64": Variant("int4", block_size=64),
    "int4 blocks of 128": Variant("int4"),
}


def lower(shape: str, variant: Variant, folder: Path) -> None:
    """Write the graph of a variant over random weights."""
    from edgetiny.export.lower import lower_onnx
    from edgetiny.export.plan import Plan

    n_layers, width, n_heads, n_kv_heads, ffn = SHAPES[shape]
    config = ModelConfig(
        vocab_size=16000,
        hidden_size=width,
        intermediate_size=ffn,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        num_key_value_heads=n_kv_heads,
        head_dim=width // n_heads,
    )
    storage = {
        "precision": variant.precision,
        "kernel": variant.kernel,
        "block_size": variant.block_size,
    }
    scales = torch.full((n_layers, n_kv_heads, config.head_dim), 0.02)
    kv_scales = KVScales(scales, scales) if variant.kv_dtype == "int8" else None
    scheme = Scheme(**storage, kv=variant.kv_dtype)
    tensors = RandomTensors(config, std=0.02, seed=0)
    weights = Weights(config, tensors, scheme, kv_scales=kv_scales)
    plan = Plan(
        format="onnx",
        layout="edgetiny",
        kv_dtype=variant.kv_dtype,
        batch=1,
        context=_CONTEXT,
        **storage,
    )
    lower_onnx(folder, weights, plan, lambda *_: None)


def decode(folder: Path, batch: int, threads: int, steps: int) -> float:
    """Return the tok/s, summed over the batch, of greedy decoding from nothing."""
    import numpy as np

    from edgetiny.runtimes.ort import open_session
    from edgetiny.runtimes.ort_graph import graph_of

    graph = graph_of(open_session(folder / "model.onnx", threads))
    stepper = graph.stepper(graph.new_cache(batch, _CONTEXT))
    assert stepper is not None
    ids = np.ones((batch, 1), np.int64)
    for count in (8, steps):
        start = time.perf_counter()
        for done in range(count):
            _, ids = stepper.step(ids, np.full(batch, done + 1))
        seconds = time.perf_counter() - start
    return batch * steps / seconds


def measure(folder: Path, variant: Variant, args: argparse.Namespace) -> float:
    """Decode in a fresh process."""
    command = [sys.executable, __file__, "--worker", str(folder), "--batch", str(args.batch)]
    command += ["--threads", str(args.threads), "--steps", str(args.steps)]
    run = subprocess.run(
        command, env=os.environ | variant.environment, check=True, capture_output=True, text=True
    )
    return float(run.stdout)


def main() -> None:
    """Lower, measure in turns, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="A")
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=510)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variant", choices=VARIANTS, action="append")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker is not None:
        print(decode(args.worker, args.batch, args.threads, args.steps))
        return
    variants = {name: VARIANTS[name] for name in args.variant or VARIANTS}
    rows: dict[str, list[float]] = {name: [] for name in variants}
    with tempfile.TemporaryDirectory() as scratch:
        folders = {name: Path(scratch) / str(i) for i, name in enumerate(variants)}
        for name, folder in folders.items():
            folder.mkdir()
            lower(args.shape, variants[name], folder)
        for _ in range(args.rounds):
            for name, variant in variants.items():
                rows[name].append(measure(folders[name], variant, args))
    print(f"shape {args.shape}, batch {args.batch}, {args.threads} threads of {cpu_model()}")
    for name, rates in rows.items():
        spread = f"{min(rates):.0f} to {max(rates):.0f}"
        print(f"{name:40s} {statistics.median(rates):6.0f} tok/s ({spread})")
    if args.write is not None:
        settings = {key: value for key, value in vars(args).items() if key in _SETTINGS}
        found = [
            asdict(variants[name]) | {"name": name, "tok_s": rates} for name, rates in rows.items()
        ]
        content = {"cpu": cpu_model(), "settings": settings, "variants": found}
        args.write.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")


_SETTINGS = ("shape", "batch", "threads", "steps", "rounds")

if __name__ == "__main__":
    main()
