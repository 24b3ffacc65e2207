"""Depth against width as it is deployed: the shapes of a suite exported, then measured one by one.

    python bench/depth_exported.py --suite bench/suites/depth_vs_width.toml --work DIR \
        --recipe export/recipes/server_cpu_batch20.toml --step export --step bench \
        --out docs/results/depth_exported.json

A suite measures designs in the runtimes that take a checkpoint; this takes the same designs
through `edgetiny export`, verification included. Weights are random, the tokenizer is one of
random words and smaller than the vocabulary. What lies in `--work` already is not made again.
"""

import argparse
import functools
import shutil
from dataclasses import replace
from pathlib import Path

from peers.models import CALIBRATION_TEXT, make_tokenizer
from torch import Tensor

from edgetiny.bench.stage import run as bench
from edgetiny.bench.suite import read_suite
from edgetiny.checkpoint import LazyTensors, write_checkpoint
from edgetiny.config.export import ExportConfig
from edgetiny.config.run import BenchConfig
from edgetiny.console import Reporter, show
from edgetiny.design import Design
from edgetiny.export.stage import run as export
from edgetiny.files import atomic_folder
from edgetiny.init import RandomTensors

CONTEXT = 1024
STD = 0.02


def make_checkpoint(design: Design, work: Path) -> Path:
    """Write a design with random weights in half precision; return the folder."""
    out = work / "checkpoints" / design.name
    config = replace(
        design.config, max_position_embeddings=CONTEXT, bos_token_id=1, eos_token_ids=(2,)
    )
    drawn = RandomTensors(config, std=STD, seed=0)

    def half(name: str) -> Tensor:
        return drawn[name].half()

    with atomic_folder(out, overwrite=True) as folder:
        write_checkpoint(
            folder,
            config,
            LazyTensors({name: functools.partial(half, name) for name in drawn}),
            stage="init",
            settings={"design": design.name, "std": STD, "seed": 0},
            parent=None,
            tokenizer=make_tokenizer(work),
        )
    return out


def make_artefact(design: Design, work: Path, recipe: Path, reporter: Reporter) -> None:
    """Export a design by the recipe, verified; its checkpoint of two bytes a weight goes again."""
    out = work / "artefacts" / design.name
    if out.exists():
        return
    checkpoint = make_checkpoint(design, work)
    flags = {
        "source": checkpoint,
        "out": out,
        "calibration_text": work / "models" / CALIBRATION_TEXT,
    }
    show(export(ExportConfig.load(recipe, flags), reporter).summary(), as_json=False)
    shutil.rmtree(checkpoint)


def main() -> None:
    """Read the command line, export what is missing, measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--suite", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="5 GB for Table 2 at int8")
    parser.add_argument("--step", choices=("export", "bench"), action="append", required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="result of edgetiny bench; goes on where it was")
    parser.add_argument("--report", type=Path, help="page of charts and tables")
    arguments = parser.parse_args()
    if "bench" in arguments.step and arguments.out is None:
        parser.error("--step bench needs --out")
    reporter = Reporter(quiet=False)
    designs = read_suite(arguments.suite).designs
    for design in designs if "export" in arguments.step else ():
        make_artefact(design, arguments.work, arguments.recipe, reporter)
    for design in designs if "bench" in arguments.step else ():
        flags = {
            "source": arguments.work / "artefacts" / design.name,
            "repeats": arguments.repeats,
            "out": arguments.out,
            "report": arguments.report,
            "resume": True,
        }
        result = bench(BenchConfig.load(arguments.recipe, flags), reporter)
        show(result.summary(), as_json=False)


if __name__ == "__main__":
    main()
