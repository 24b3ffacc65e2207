"""How far the dry run's sizes and memory are from what an export writes and a process needs.

    python bench/export_forecast.py --write docs/results/export_forecast

Random weights of several shapes are lowered to ONNX and ExecuTorch by several plans. In a fresh
process each file is loaded and decodes with a whole batch: a few steps over a cache written to its
end in ONNX, to the end of the context in ExecuTorch, which keeps its cache to itself. What is
compared is the peak of that process's anonymous memory; what it maps of files (code of packages,
weights that the kernel may drop) is beside it. `--write` names the results without suffix; what is
there already stays, but for cases that are named again. Exits 1 if a size is more than 3% off, or a
memory more than 15%.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgetiny.checkpoint import Checkpoint, ModelConfig, write_checkpoint
from edgetiny.config.export import ExportConfig
from edgetiny.device import cpu_model
from edgetiny.export.calibration import scheme_of
from edgetiny.export.dry_run import model_bytes, ram_bytes
from edgetiny.export.package import model_file, write_companions, write_manifest
from edgetiny.export.plan import Plan, plans
from edgetiny.export.stage import lowerer_of
from edgetiny.files import atomic_folder
from edgetiny.init import RandomTensors
from edgetiny.markdown import markdown_table
from edgetiny.measure.memory import anonymous_rss_bytes, peak_rss_bytes
from edgetiny.quantize import KVScales, Weights

_STEPS = 8
SIZE_BAR, RAM_BAR = 3.0, 15.0
"""Percent that a forecast may be off."""


@dataclass(frozen=True)
class Case:
    """One file to forecast: a shape by its number of layers and width, and the settings."""

    layers: int
    width: int
    precision: str
    batch: int
    context: int
    kv: str = "int8"
    format: str = "onnx"

    @property
    def name(self) -> str:
        """Return what `--cases` calls it."""
        shape = f"{self.layers}x{self.width}-{self.format}-{self.precision}"
        return f"{shape}-b{self.batch}-c{self.context}-kv-{self.kv}"


SHAPES = ((8, 384), (10, 768), (20, 640))
PLANS = (
    ("fp32", 1, 512, "fp32"),
    ("fp16", 1, 512, "fp32"),
    ("int8", 1, 1024, "int8"),
    ("int8", 1, 1024, "fp32"),
    ("int8", 20, 512, "int8"),
    ("int8", 20, 1024, "fp32"),
    ("int4", 1, 1024, "int8"),
    ("int4", 20, 512, "int8"),
)
EXECUTORCH = (
    *((8, 384, precision, 1) for precision in ("fp32", "fp16", "int8", "int4")),
    *((8, 384, "int8", 20), (10, 768, "int4", 1), (20, 640, "int8", 1)),
)
_ALL = (
    *(
        Case(layers, width, precision, batch, context, kv)
        for layers, width in SHAPES
        for precision, batch, context, kv in PLANS
    ),
    *(
        Case(layers, width, precision, batch, 512, "fp32", "executorch")
        for layers, width, precision, batch in EXECUTORCH
    ),
)
CASES = {case.name: case for case in _ALL}


def shape_of(case: Case) -> ModelConfig:
    """Return the shape: heads of 64, an FFN of 8/3, a vocabulary of 16,000, tied."""
    return ModelConfig(
        vocab_size=16_000,
        hidden_size=case.width,
        intermediate_size=case.width * 8 // 3 // 32 * 32,
        num_hidden_layers=case.layers,
        num_attention_heads=case.width // 64,
        num_key_value_heads=case.width // 64,
        head_dim=64,
        max_position_embeddings=2048,
    )


def lowered(case: Case, scratch: Path) -> tuple[Plan, ModelConfig, Path]:
    """Return a plan, its shape and the artefact of random weights."""
    shape = shape_of(case)
    tensors = RandomTensors(shape, std=0.02, seed=0)
    with atomic_folder(scratch / "source") as inside:
        write_checkpoint(
            inside, shape, tensors, stage="init", settings={}, parent=None, tokenizer=None
        )
    config = ExportConfig(
        format=(case.format,),  # type: ignore[arg-type]
        precision=case.precision,  # type: ignore[arg-type]
        batch=(case.batch,),
        context=case.context,
        kv=case.kv,  # type: ignore[arg-type]
    )
    out = scratch / "artefact"
    out.mkdir()
    return lower(Checkpoint.open(scratch / "source"), config, out), shape, out


def lower(checkpoint: Checkpoint, config: ExportConfig, out: Path) -> Plan:
    """Write the artefact of one plan to a folder, unverified as weights are random; return it."""
    shape = checkpoint.config
    [plan] = plans(config, shape)
    kv_scales = None
    if plan.kv_dtype == "int8":
        heads = (shape.num_hidden_layers, shape.num_key_value_heads, shape.head_dim)
        scales = torch.full(heads, 0.02)
        kv_scales = KVScales(scales, scales)
    weights = Weights(shape, checkpoint.state_dict(), scheme_of(plan), kv_scales=kv_scales)
    files = lowerer_of(plan, checkpoint)(out, weights, plan, lambda *_: None)
    model = model_file(plan, files, "", shape)
    write_companions(out, checkpoint, shape, [plan])
    write_manifest(out, checkpoint, shape, [model], merge={"gqa_groups": None})
    return plan


def decode(folder: Path, batch: int) -> dict[str, int]:
    """Load and decode in this process; return its peaks in bytes."""
    import numpy as np

    from edgetiny.runtimes import open_runtime

    peak, done = 0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, anonymous_rss_bytes() or 0)

    thread = threading.Thread(target=sample)
    before = anonymous_rss_bytes() or 0
    thread.start()
    runtime = open_runtime(folder, max_batch=batch, threads=2)
    runtime.prepare(batch)
    loaded = peak
    ids = np.ones((batch, 2), np.int64)
    token = runtime.prefill(ids, np.full(batch, 2)).argmax(axis=-1)[:, None]
    n_steps = _STEPS
    if runtime.engine.name == "onnxruntime":
        for array in runtime._cache.values():  # type: ignore[attr-defined]
            array.fill(0)
    else:
        n_steps = runtime.capabilities.max_context - ids.shape[1]
    for _ in range(n_steps):
        token = runtime.greedy_step(token)
    after = anonymous_rss_bytes() or 0
    done.set()
    thread.join()
    return {
        "started": before, "loaded": loaded, "anonymous": max(peak, after), "after": after,
        "resident": peak_rss_bytes(),
    }  # fmt: skip


def measure(case: Case) -> dict[str, Any]:
    """Return a case's row."""
    with tempfile.TemporaryDirectory(prefix="edgetiny-") as name:
        plan, shape, folder = lowered(case, Path(name))
        command = [sys.executable, __file__, "--worker", str(folder), str(case.batch)]
        child = subprocess.run(command, check=True, capture_output=True, text=True)
        files = (file for file in folder.iterdir() if file.name.startswith("model."))
        size = sum(file.stat().st_size for file in files)
        row: dict[str, Any] = vars(case) | {"kernel": plan.kernel} | json.loads(child.stdout)
        row |= {"size": size, "size_forecast": model_bytes(plan, shape, None)}
        row |= {"ram_forecast": ram_bytes(plan, shape)}
    print(json.dumps(row), flush=True)
    return row


def off(forecast: int, measured: int) -> float:
    """Return a forecast's error in percent."""
    return 100 * (forecast / measured - 1)


def line_of(row: dict[str, Any]) -> dict[str, str]:
    """Return a row for people, in MiB."""
    size, ram = off(row["size_forecast"], row["size"]), off(row["ram_forecast"], row["anonymous"])
    mib = {key: f"{row[key] / 2**20:.0f}" for key in ("size", "anonymous", "ram_forecast", "after")}
    return {
        "shape": f"{row['layers']} x {row['width']}",
        "format": row["format"],
        "weights": row["precision"],
        "kernel": row["kernel"],
        "cache": row["kv"],
        "batch": str(row["batch"]),
        "context": str(row["context"]),
        "file": mib["size"],
        "forecast off": f"{size:+.2f}%",
        "peak": mib["anonymous"],
        "while decoding": mib["after"],
        "forecast": mib["ram_forecast"],
        "off": f"{ram:+.1f}%",
        "resident, files included": f"{row['resident'] / 2**20:.0f}",
    }


def missed(row: dict[str, Any]) -> bool:
    """Whether a forecast is further off than its bar."""
    size, ram = off(row["size_forecast"], row["size"]), off(row["ram_forecast"], row["anonymous"])
    return abs(size) > SIZE_BAR or abs(ram) > RAM_BAR


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the page."""
    sizes = [abs(off(row["size_forecast"], row["size"])) for row in rows]
    rams = [abs(off(row["ram_forecast"], row["anonymous"])) for row in rows]
    n_missed = sum(map(missed, rows))
    lines = [
        "# What the dry run forecasts",
        "",
        "Written by `bench/export_forecast.py`. Random weights, a vocabulary of 16,000, tied, heads"
        " of 64, an FFN of 8/3; the `edgetiny` layout. MiB. `peak` is the most anonymous"
        " memory of a fresh process that loads the file and decodes a whole batch over a full"
        " cache, what Python and its packages hold included; pages mapped from files (code, and"
        " weights where onnxruntime reads them as they lie) are only in `resident`. One run each,"
        f" {cpu_model()}, 2 threads.",
        "",
        f"Size: at most {max(sizes):.2f}% off (bar {SIZE_BAR:g}%). Memory: at most {max(rams):.1f}%"
        f" off (bar {RAM_BAR:g}%). {n_missed} of {len(rows)} rows miss a bar.",
        "",
        "What a process holds without weights (210 MB, 327 MB with ExecuTorch) and the bytes beside"
        " the weights in a graph of four bits for a batch were fitted to the first shape and looked"
        " at on the others; ExecuTorch's sizes were forecast anew after its second rotary table was"
        " counted (4 x 192, heads of 48, a context of 4096: 0.8% too small at int4, 0.2% at fp32);"
        " blocks (`weight_only`) take 35 MiB more than"
        " forecast in the largest shape, so a model far beyond these may miss."
        f" {len(CASES) - len(rows)} of {len(CASES)} cases were not run.",
        "",
        *markdown_table([line_of(row) for row in rows]),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every case, or be the process that is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="results, without suffix")
    parser.add_argument("--cases", choices=CASES, nargs="+", help="all if not given")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        print(json.dumps(decode(Path(options.worker[0]), int(options.worker[1]))))
        return
    found: dict[str, Any] = {}
    file = None if options.write is None else options.write.with_suffix(".json")
    if file is not None and file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
    for name in options.cases or CASES:
        found[name] = measure(CASES[name])
        if file is not None:
            file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    rows = [found[name] for name in CASES if name in found]
    page = markdown(rows)
    print(page)
    if options.write is not None:
        options.write.with_suffix(".md").write_text(page, encoding="utf-8")
    sys.exit(int(any(map(missed, rows))))


if __name__ == "__main__":
    main()
