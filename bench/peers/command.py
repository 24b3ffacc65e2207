"""The steps of the command: environments and conversions, screening, rounds, the page."""

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgetiny.measure import cores, read_bandwidth
from peers.conversion import Converted
from peers.environments import llama_build, llama_tree, make_environment, make_llama
from peers.measure import Cell, Measurement, Protocol, cells_of, of_cell
from peers.models import make_checkpoint, make_padded
from peers.options import read_options
from peers.report import write_report
from peers.settings import Setting, ours_setting, peer_settings
from peers.store import Store

PASSES = 3
_OURS = "edgetiny"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the steps that were asked for, and write the page if it has a place."""
    options = read_options(arguments)
    options.work = options.work.resolve()
    threads = options.threads or cores()
    cells = cells_of(options.models, options.batch, options.bits)
    settings = chosen_settings(options, cells)
    converted = Converted(options.work, threads, options.convert_limit)
    measurement = Measurement(
        Store(options.work / "runs.jsonl"),
        Protocol(
            new_tokens=options.new_tokens,
            screen_tokens=options.screen_tokens,
            rounds=options.rounds,
            pass_runs=options.pass_runs,
            keep_share=options.keep_share,
            keep_most=options.keep_most,
            threads=threads,
            limit_s=options.limit,
            retry=options.retry,
        ),
        environments(options, settings, prepare="prepare" in options.step),
        converted,
        say,
    )
    if "prepare" in options.step:
        prepare(options, cells, settings, measurement.pythons, converted)
    steps = {
        "screen": lambda: measurement.screen(cells, settings),
        "rounds": lambda: measurement.rounds(cells, settings),
        "stability": lambda: measurement.stability(cells, settings, PASSES),
    }
    for step in (each for each in steps if each in options.step):
        note_machine(measurement.store, f"before {step}", threads)
        steps[step]()
        note_machine(measurement.store, f"after {step}", threads)
    if options.write is not None:
        write_report(options.write, cells, settings, measurement, converted, options.work)
        say(f"wrote {options.write}.md and {options.write}.json")
    return 0


def say(line: str) -> None:
    """Print a line with the time, at once."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stderr.flush()


def chosen_settings(options: argparse.Namespace, cells: Sequence[Cell]) -> list[Setting]:
    """Return the rows of ours and the peers that any cell takes."""
    tree = llama_tree(options.work)
    peers = peer_settings(tree, options.llama_build or llama_build(options.work))
    if options.engines is not None:
        peers = [
            each
            for each in peers
            if any(part.lower() in each.name.lower() for part in options.engines)
        ]
    found = [*map(ours_setting, options.ours), *peers]
    return [each for each in found if any(of_cell(cell, [each]) for cell in cells)]


def environments(
    options: argparse.Namespace, settings: Sequence[Setting], *, prepare: bool
) -> dict[str, Path]:
    """Return each environment's python: the one given, else its own, made if that is a step.

    An environment that cannot be made fails its own rows and no others.
    """
    given = dict(pair.split("=", 1) for pair in options.python)
    pythons = {name: Path(path) for name, path in given.items()}
    pythons[_OURS] = Path(sys.executable)
    for name in dict.fromkeys(each.environment for each in settings):
        if name in pythons:
            continue
        pythons[name] = options.work / "venvs" / name / "bin/python"
        if prepare:
            try:
                make_environment(name, options.work, say)
            except subprocess.CalledProcessError as error:
                say(f"  the environment of {name} failed: {error}; see logs/venv-{name}.log")
    return pythons


def prepare(
    options: argparse.Namespace,
    cells: Sequence[Cell],
    settings: Sequence[Setting],
    pythons: Mapping[str, Path],
    converted: Converted,
) -> None:
    """Write the models and convert them for every setting that a cell takes."""
    if any(each.engine == "llama_cpp" for each in settings):
        try:
            make_llama(options.work, options.llama_build, say)
        except subprocess.CalledProcessError as error:
            say(f"  building llama.cpp failed: {error}; see logs/llama.log")
    for model in dict.fromkeys(cell.model for cell in cells):
        plain = make_checkpoint(model, options.work).path
        for setting in settings:
            checkpoint = make_padded(model, options.work) if setting.padded else plain
            converted.prepare(
                model,
                checkpoint,
                setting,
                pythons[setting.environment],
                retry=options.retry,
                say=say,
            )


def note_machine(store: Store, when: str, threads: int) -> None:
    """Keep how fast memory is read now, so that a slow hour shows."""
    measured = read_bandwidth(threads)
    say(f"{when}: memory is read at {measured.bytes_per_s / 1e9:.1f} GB/s")
    store.add(
        {
            "phase": "machine",
            "when": when,
            "started": time.time(),
            "bytes_per_s": measured.bytes_per_s,
            "median_bytes_per_s": measured.median_bytes_per_s,
        }
    )
