"""The flags of the command."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from peers.models import SHAPES
from peers.settings import BATCHES, BITS

STEPS = ("prepare", "screen", "rounds", "stability", "page")


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the settings of one call; without --step it prepares, screens and runs the rounds."""
    parser = argparse.ArgumentParser(
        prog="peers", description="Ours beside the engines that others made."
    )
    add = parser.add_argument
    add("--work", type=Path, required=True, help="folder for environments, models and runs")
    add("--ours", action="append", default=[], metavar="NAME=RECIPE", help="a row of ours")
    add("--models", type=_list, default=list(SHAPES), help="of A,G,B (default: all)")
    add("--batch", type=int, action="append", help="repeat for more (default: 1 and 20)")
    add("--bits", type=int, action="append", choices=BITS, help="repeat for more (default: 8, 4)")
    add("--engines", type=_list, help="parts of the names of peers to run (default: all)")
    add("--rounds", type=int, default=5)
    add("--pass-runs", type=int, default=9, help="of a row of ours in a pass of --stability")
    add("--new-tokens", type=int, default=510)
    add("--screen-tokens", type=int, default=254)
    add("--keep-share", type=float, default=0.7, help="of the best peer, to be in the rounds")
    add("--keep-most", type=int, default=3, help="peers of a cell in the rounds")
    add("--threads", type=int, default=0, help="0: one per core")
    add("--limit", type=float, default=180, help="seconds that one run may take")
    add("--convert-limit", type=float, default=3600, help="seconds that one conversion may take")
    add("--python", action="append", default=[], metavar="ENVIRONMENT=PATH", help="made before")
    add("--llama-build", type=Path, help="a build tree of llama.cpp made before")
    add("--retry", action="store_true", help="try again what failed before")
    add("--step", action="append", choices=STEPS, help="only this (page: write); repeat for more")
    add("--stability", action="store_true", help="as --step prepare --step stability")
    add("--write", type=Path, help="page without its suffix: .md and .json are written")
    options = parser.parse_args(arguments)
    unknown = set(options.models) - SHAPES.keys()
    if unknown:
        parser.error(f"--models knows {', '.join(SHAPES)}, not {', '.join(sorted(unknown))}")
    if options.step is None:
        options.step = ["prepare", "stability"] if options.stability else list(STEPS[:3])
    options.batch = options.batch or list(BATCHES)
    options.bits = options.bits or [8, 4]
    return options


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
