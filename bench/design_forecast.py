"""How far `edgetiny design` is from the models that it predicts: size, memory, tokens a second.

    python bench/design_forecast.py --work DIR --prepare
    python bench/design_forecast.py --work DIR --write docs/results/design_forecast

Each case goes through the public stages: this machine is described (`device`), a shape is chosen
and predicted for it (`design`), drawn (`init`), lowered as `export` would for that use (but not
verified: weights are random), and measured (`bench`: the paper's protocol, 2 + 510 tokens, a fresh
process). The peak of anonymous memory is that of one more fresh process, which decodes over a full
cache (`export_forecast.py`). `--prepare` makes the artefacts and stops, so that a measurement can
have the machine to itself. Cases that are in the JSON already stay, but for those that are named
again with `--case`. Exits 1 if a prediction is further off than its bar.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import export_forecast

from edgetiny.bench import stage as bench
from edgetiny.config.demo import DeviceConfig
from edgetiny.config.design import DesignConfig
from edgetiny.config.export import ExportConfig
from edgetiny.config.model import InitConfig
from edgetiny.config.run import BenchConfig
from edgetiny.config.tokenizer import TokenizerTrainConfig
from edgetiny.console import Reporter
from edgetiny.demo.embedded import write_embedded_text
from edgetiny.design import stage as design
from edgetiny.device import cpu_model, read_device
from edgetiny.device import run as describe
from edgetiny.files import atomic_folder
from edgetiny.init import stage as init
from edgetiny.markdown import markdown_table
from edgetiny.tokenizer.train import run as train_tokenizer

BARS = {"size": 3.0, "memory": 15.0, "speed": 25.0}
"""Percent that a prediction may be off."""
_CONTEXT = 512
_TEXT_BYTES = 4_000_000
_NOTES = """## What was mended, and what is not

- **Size and memory** were those of blocks of weights alone: without the graph, without the kernel
  that a batch gets (channels) and without the 210 MB of the process. Off by 19 to 90% in memory,
  up to 6% in size, before. `design` now asks the same functions as `export --dry-run`.
- **Speed of a batch** was 58 to 86% too high: products of 20 rows reach 0.3 of a large product's
  rate, attention reads the cache at 0.4 of the bandwidth (29 to 31 GB/s in the profiles of the
  three shapes of a batch here), one after the other, and rotates 0.9 us a head and sequence.
  These figures are of those three shapes, so their rows are a fit. Two shapes that they were not
  fitted to, with [earlier measurements](onnx_kernels.md) at batch 20: A with an fp32 cache 654
  tok/s predicted, 618 and 623 measured; with an int8 cache 1136, 1037 to 1102 measured; B 1796,
  1459 to 1485 (22% off).
- **The miss** is the smallest model. Weights and cache are 17 MB, the last-level cache holds 32:
  it reads at more than memory's rate, and is faster than predicted. The 30M model in four bits
  reads 32 MB a step and is not. Where between them the rule ends was not measured, so there is
  none.
- A round ten minutes earlier gave, for the batch of one, 622, 206, 356 and 262 tok/s from the
  second row on, and 1685, 838 and 3613 for batches: up to 11% from this one. In its first row
  memory was read at 34 GB/s beside the run, which then came to 357: a busy machine is beyond
  prediction.
"""


@dataclass(frozen=True)
class Case:
    """A model to predict: its size, rows and depth, and how it will be used."""

    params: str
    vocab: int
    layers: int
    precision: str
    batch: int


CASES = {
    # The three of the bar, then a batch, then shapes that nothing was fitted to.
    "10M-int8": Case("10M", 4_000, 8, "int8", 1),
    "30M-int4": Case("30M", 8_000, 12, "int4", 1),
    "100M-int8": Case("100M", 16_000, 20, "int8", 1),
    "30M-int8-batch20": Case("30M", 8_000, 12, "int8", 20),
    "100M-int4": Case("100M", 16_000, 10, "int4", 1),
    "60M-int8": Case("60M", 8_000, 24, "int8", 1),
    "60M-int8-batch20": Case("60M", 8_000, 24, "int8", 20),
    "10M-int4-batch20": Case("10M", 4_000, 8, "int4", 20),
}


def predict(case: Case, work: Path) -> tuple[design.DesignResult, dict[str, float]]:
    """Return a design for this machine, and what it says of size, memory and speed."""
    out = work / f"{case.params}-{case.layers}.toml"
    found = design.run(
        DesignConfig(
            params=case.params,
            vocab=case.vocab,
            num_hidden_layers=case.layers,
            device=work / "device.toml",
            precision=(case.precision,),  # type: ignore[arg-type]
            batch=case.batch,
            context=_CONTEXT,
            out=out,
            overwrite=True,
        )
    )
    [shape] = [row for row in found.candidates if row["chosen"]]
    [use] = [row for row in found.in_use if row["chosen"]]
    precision = case.precision
    return found, {
        "size": 1e6 * shape[f"mb_{precision}"],
        "memory": 1e6 * use[f"ram_mb_{precision}"],
        "speed": use[f"tok_s_{precision}"],
    }


def make(name: str, work: Path) -> Path:
    """Draw and export a case, if it is not there; return its artefact."""
    case = CASES[name]
    out = work / "artefacts" / name
    if not out.exists():
        predict(case, work)
        settings = InitConfig(
            tokenizer=_tokenizer(case.vocab, work),
            design=work / f"{case.params}-{case.layers}.toml",
            out=work / "models" / name,
            overwrite=True,
        )
        config = ExportConfig(
            precision=case.precision,  # type: ignore[arg-type]
            batch=(case.batch,),
            context=_CONTEXT,
        )
        checkpoint = init.run(settings)
        with atomic_folder(out) as folder:
            export_forecast.lower(checkpoint, config, folder)
    return out


def _tokenizer(vocab: int, work: Path) -> Path:
    """Return a tokenizer of the right size: no measurement reads a word."""
    out = work / f"tokenizer-{vocab}"
    if not out.exists():
        text = work / "text.jsonl"
        if not text.exists():
            write_embedded_text(text, Reporter(quiet=True), _TEXT_BYTES)
        train_tokenizer(TokenizerTrainConfig(text=(text,), out=out, vocab_size=vocab))
    return out


def measure(name: str, work: Path, device: Path) -> dict[str, Any]:
    """Return a case's row: what was predicted, and what a fresh process came to."""
    case, artefact = CASES[name], make(name, work)
    found, predicted = predict(case, work)
    child = subprocess.run(
        [sys.executable, export_forecast.__file__, "--worker", str(artefact), str(case.batch)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    [speed] = bench.run(BenchConfig(source=artefact, batch=(case.batch,))).rows
    size = sum((artefact / file).stat().st_size for file in ("model.onnx", "model.onnx.data"))
    shape = found.design.config
    described = read_device(device)
    return asdict(case) | {
        "parameters": speed["model_n_params"],
        "width": shape.hidden_size,
        "predicted": predicted,
        "measured": {
            "size": size,
            "memory": json.loads(child.stdout)["anonymous"],
            "speed": speed["tok_per_s_summed"]["median"],
        },
        "tok_per_s": speed["tok_per_s_summed"],
        "peak_rss_bytes": speed["peak_rss_bytes"],
        "read_bytes_per_s": speed["roofline"]["read_bytes_per_s"],
        "device_read_bytes_per_s": described.read_bandwidth_bytes_per_s,
        "device_int8_per_s": described.gemm_flops_per_s["int8"],
        "load": os.getloadavg()[0],
        "commit": bench.commit(),
    }


def off(row: dict[str, Any], what: str) -> float:
    """Return a prediction's error in percent."""
    predicted, measured = float(row["predicted"][what]), float(row["measured"][what])
    return 100 * (predicted / measured - 1)


def line_of(name: str, row: dict[str, Any]) -> dict[str, str]:
    """Return a row for people: MB, tokens a second summed over the batch."""
    line = {
        "case": name,
        "depth x width": f"{row['layers']} x {row['width']}",
        "parameters": f"{row['parameters'] / 1e6:.1f}M",
    }
    for what, unit, scale in (("size", "MB", 1e6), ("memory", "MB", 1e6), ("speed", "tok/s", 1.0)):
        mark = "" if abs(off(row, what)) <= BARS[what] else " **misses**"
        predicted, measured = (row[each][what] / scale for each in ("predicted", "measured"))
        line[f"{what}, {unit}"] = f"{predicted:,.4g} for {measured:,.4g}"
        line[f"{what} off"] = f"{off(row, what):+.1f}%{mark}"
    runs = row["tok_per_s"]
    line["tok/s, 10% to 90%"] = f"{runs['p10']:,.0f} to {runs['p90']:,.0f}"
    line["peak RSS, MB"] = f"{row['peak_rss_bytes'] / 1e6:,.0f}"
    line["GB/s beside it"] = f"{row['read_bytes_per_s'] / 1e9:.1f}"
    return line


def misses(found: dict[str, dict[str, Any]]) -> int:
    """Return how many predictions are further off than their bars."""
    return sum(abs(off(row, what)) > bar for row in found.values() for what, bar in BARS.items())


def main() -> None:
    """Measure the cases that are named, or all; write them beside those that were."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="models are made here")
    parser.add_argument("--case", choices=CASES, action="append", help="all if not given")
    parser.add_argument(
        "--prepare", action="store_true", help="make the artefacts, measure nothing"
    )
    parser.add_argument("--write", type=Path, help="results without suffix: .json and .md")
    args = parser.parse_args()
    work, names = args.work.resolve(), args.case or list(CASES)
    work.mkdir(parents=True, exist_ok=True)
    device = work / "device.toml"
    if not device.exists():
        describe(DeviceConfig(out=device))
    if args.prepare:
        for name in names:
            print(name, make(name, work), flush=True)
        return
    found: dict[str, dict[str, Any]] = {}
    file = None if args.write is None else args.write.with_suffix(".json")
    if file is not None and file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
    for name in names:
        found[name] = measure(name, work, device)
        print("\n".join(markdown_table([line_of(name, found[name])])), flush=True)
        if file is not None:
            found = {each: found[each] for each in CASES if each in found}
            file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            file.with_suffix(".md").write_text(page(found), encoding="utf-8")
    sys.exit(int(misses(found) > 0))


def page(found: dict[str, dict[str, Any]]) -> str:
    """Return the page of all cases so far."""
    n_missed, n_held = misses(found), len(BARS) * len(found)
    first = next(iter(found.values()))
    missing = [name for name in CASES if name not in found]
    rows = markdown_table([line_of(name, row) for name, row in found.items()])
    return f"""# What a design predicts

Made by `bench/design_forecast.py` on {cpu_model()}, 2 threads, onnxruntime, fp32 cache, 2 + 510
tokens, median of three runs in one fresh process each; random weights. The device was described
beforehand: {first["device_read_bytes_per_s"] / 1e9:.1f} GB/s, int8 products
{first["device_int8_per_s"] / 1e9:,.0f} GOP/s. Size is that of `model.onnx` and its data; memory the
peak of anonymous memory over a full cache of {_CONTEXT} tokens, Python and its packages included.
Peak RSS counts the code that is mapped from files too; nothing predicts that.

Bars: size {BARS["size"]:g}%, memory {BARS["memory"]:g}%, speed {BARS["speed"]:g}%. {n_missed} of
{n_held} predictions miss. Commit {first["commit"]}. Not run: {", ".join(missing) or "nothing"}.

{chr(10).join(rows)}

{_NOTES}"""


if __name__ == "__main__":
    main()
