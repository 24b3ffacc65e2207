"""What an export costs: seconds and anonymous memory of its phases, beside ExecuTorch's own.

    python bench/export_cost.py --work DIR --case onnx-1b --write docs/results/export_cost
    python bench/export_cost.py --work DIR --case executorch-A --case executorch-350m \
        --peer-python DIR/venvs/executorch/bin/python --write docs/results/export_cost

Random weights. Each export is a process of its own, with all that it starts; its anonymous memory
(RssAnon: what no file backs) is read every 50 ms. Cases that are in the JSON already stay, but for
those that are named again. Phases are what the stage reports: the reference is asked first and
freed, then weights are lowered, then the artefact is verified in its own runtime.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from peers.engines.executorch_llm import prepare as prepare_peer
from phases import say_phase, watch

if TYPE_CHECKING:
    # A peer's environment has no edgetiny.
    from edgetiny.config.export import Format, Precision

_ROOT = Path(__file__).parents[1]
_OURS = "edgetiny"
_LOWERING = "edgetiny, without the reference and the verification"
_PEER = "ExecuTorch's exporter"


class Case(NamedTuple):
    """What is exported, in blocks of how many weights, and by whom."""

    model: str
    format: "Format"
    precision: "Precision"
    block_size: int | None
    who: str


# Widths of 350m are no multiples of 128: ExecuTorch's exporter would leave these matrices in fp32.
CASES = {
    "onnx-A": Case("A", "onnx", "int8", None, _OURS),
    "onnx-1b": Case("1b", "onnx", "int8", None, _OURS),
    "onnx-1b-lowering": Case("1b", "onnx", "int8", None, _LOWERING),
    "executorch-A": Case("A", "executorch", "int4", 128, _OURS),
    "executorch-350m": Case("350m", "executorch", "int4", 64, _OURS),
    "executorch-A-lowering": Case("A", "executorch", "int4", 128, _LOWERING),
    "executorch-350m-lowering": Case("350m", "executorch", "int4", 64, _LOWERING),
    "executorch-1b-lowering": Case("1b", "executorch", "int4", 128, _LOWERING),
    "peer-A": Case("A-padded", "executorch", "int4", 128, _PEER),
    "peer-350m": Case("350m", "executorch", "int4", 64, _PEER),
}


def checkpoint_of(model: str, work: Path) -> Path:
    """Write a random checkpoint, if it is not there, and return where."""
    out = work / "models" / model
    if out.exists():
        return out
    if model in ("A", "A-padded"):
        from peers.models import make_checkpoint, make_padded

        return make_checkpoint("A", work).path if model == "A" else make_padded("A", work)
    from edgetiny.checkpoint import ModelConfig, write_checkpoint
    from edgetiny.design.presets import preset
    from edgetiny.files import atomic_folder
    from edgetiny.init import RandomTensors

    config = preset("mobilellm-350m").config
    if model == "1b":
        config = ModelConfig(
            vocab_size=32_000,
            hidden_size=2048,
            intermediate_size=5632,
            num_hidden_layers=22,
            num_attention_heads=32,
            num_key_value_heads=4,
            head_dim=64,
        )
    tensors = RandomTensors(config, std=0.02, seed=0)
    with atomic_folder(out, overwrite=False) as folder:
        settings = {"model": model, "std": 0.02, "seed": 0}
        write_checkpoint(
            folder, config, tensors, stage="init", settings=settings, parent=None, tokenizer=None
        )
    return out


def export(case: str, work: Path) -> None:
    """Export a case; say on standard output which phase begins."""
    model, format, precision, block_size, who = CASES[case]
    checkpoint = work / "models" / model
    out = work / "cost" / case
    if who == _PEER:
        out.mkdir(parents=True)
        say_phase("export")
        prepare_peer(
            checkpoint,
            out,
            {"qmode": "8da4w", "group_size": block_size, "embedding": "4,32", "batch": 1},
        )
        return
    from phase_reporter import PhaseReporter

    from edgetiny.config.export import ExportConfig
    from edgetiny.export.stage import run

    config = ExportConfig(
        source=checkpoint,
        out=out,
        format=(format,),
        precision=precision,
        block_size=block_size,
        context=1024,
    )
    if who == _OURS:
        run(config, PhaseReporter())
        return
    from edgetiny.checkpoint import Checkpoint
    from edgetiny.export.calibration import scheme_of
    from edgetiny.export.plan import plans
    from edgetiny.export.stage import lowerer_of
    from edgetiny.quantize import Weights

    opened = Checkpoint.open(checkpoint)
    (plan,) = plans(config, opened.config)
    out.mkdir(parents=True)
    weights = Weights(opened.config, opened.state_dict(), scheme_of(plan))
    with PhaseReporter().task("lowering") as task:
        lowerer_of(plan, opened)(out, weights, plan, task.advance)


def measure(case: str, work: Path, python: Path) -> dict[str, Any]:
    """Run a case as a process; return what each of its phases took."""
    shutil.rmtree(work / "cost" / case, ignore_errors=True)
    command = [str(python), __file__, "--work", str(work), "--child", case]
    environment = os.environ | {"PYTHONPATH": f"{_ROOT}:{_ROOT / 'bench'}"}
    watched = watch(command, environment, work / f"cost-{case}")
    files = (file for file in (work / "cost" / case).rglob("*") if file.is_file())
    return {
        "case": case,
        "phases": watched.phases,
        "seconds": watched.seconds,
        "anonymous_bytes": watched.anonymous_bytes,
        "fp16_bytes": 2 * n_weights(work / "models" / CASES[case][0]),
        "artefact_bytes": sum(file.stat().st_size for file in files),
        "cpu_seconds": watched.cpu_seconds,
        "failed": watched.failed,
        "load": os.getloadavg()[0],
    }


def n_weights(checkpoint: Path) -> int:
    """Return the parameters of a checkpoint, tied ones once."""
    from edgetiny.checkpoint import Checkpoint
    from edgetiny.cost import parameters

    return int(parameters(Checkpoint.open(checkpoint).config).total)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as Markdown: phases one below the other."""
    lines = [
        "| case | phase | seconds | CPU seconds | anonymous memory, MB | of the fp16 size |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row["failed"]:
            lines.append(f"| {row['case']} | failed: {row['failed'].splitlines()[-1]} | | | | |")
        whole = {key: row[key] for key in ("seconds", "anonymous_bytes", "cpu_seconds")}
        for name, phase in (row["phases"] | {"whole": whole}).items():
            memory = phase["anonymous_bytes"]
            cpu = f"{phase['cpu_seconds']:.1f}" if "cpu_seconds" in phase else ""
            lines.append(
                f"| {row['case']} | {name} | {phase['seconds']:.1f} | {cpu} | {memory / 1e6:,.0f}"
                f" | {memory / row['fp16_bytes']:.2f} |"
            )
    return "\n".join(lines) + "\n"


def page(found: Mapping[str, Any]) -> str:
    """Return the page of all cases so far."""
    from edgetiny.device import cpu_model

    missing = [case for case in CASES if case not in found]
    return f"""# What an export costs

Made by `bench/export_cost.py` on {cpu_model()}, {os.cpu_count()} cores; one run each, random
weights on disk in fp32. Anonymous memory is what no file backs (RssAnon), of the process and all
that it starts, the highest of readings every 50 ms.
A: 20 layers x 640, 111M weights. 350m: MobileLLM's shape, 32 x 960, 345M. 1b: 22 x 2048, FFN 5632,
32 heads, 4 of keys and values, 1.03B. Vocabularies 16,000 and 32,000, tied. ONNX is int8 in blocks
of 32 with an fp32 cache. ExecuTorch is int4 in groups of 128 (350m: 64, of which its widths are
multiples) with activations of eight bits, with embeddings of 4 bits in its own exporter.
The bar: the 1B model lowered to ONNX within 180 s and 2.5 times its fp16 size; ExecuTorch at A and
350m with less time and memory than its own exporter.

{table(list(found.values()))}
`asking` is the fp32 reference, with its model in memory; `verifying` runs the artefact. Cases named
`-lowering` leave both out. ExecuTorch's own exporter verifies nothing: compare it with these.
{"; ".join(dict.fromkeys(row["note"] for row in found.values()))}.
Not run: {", ".join(missing) or "nothing"}.
"""


def main() -> None:
    """Measure the cases that are named; write them beside those that were."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--work", type=Path, required=True, help="models and artefacts are made here"
    )
    parser.add_argument("--case", choices=CASES, action="append", default=[])
    parser.add_argument("--peer-python", type=Path, help="an interpreter with executorch")
    parser.add_argument("--write", type=Path, help="results without suffix: .json and .md")
    parser.add_argument("--note", default="The machine did other work", help="how it was measured")
    parser.add_argument("--child", choices=CASES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    work = args.work.resolve()
    if args.child is not None:
        export(args.child, work)
        return
    for case in args.case:
        model, *_, who = CASES[case]
        if who == _PEER and args.peer_python is None:
            parser.error(f"{case} takes --peer-python")
        checkpoint_of(model, work)
    found: dict[str, Any] = {}
    file = None if args.write is None else args.write.with_suffix(".json")
    if file is not None and file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
    for case in args.case:
        python = args.peer_python if CASES[case][-1] == _PEER else Path(sys.executable)
        found[case] = measure(case, work, python) | {"note": args.note}
        print(table([found[case]]), flush=True)
        if file is not None:
            file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if file is not None and found:
        file.with_suffix(".md").write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
