"""Kill a training run at random moments and compare what it ends with, bit for bit.

    python bench/kill_resume.py [--kills 10]

The uninterrupted run and the killed one are the same command, `edgetiny train`, on text that every
Python carries. Half of the kills fall anywhere in a process's life, start-up included; half fall
after its first save, between steps, in a save or in a validation.
"""

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from io import TextIOWrapper
from pathlib import Path
from pydoc_data import topics
from typing import Any, cast

from edgetiny.config.data import DataBuildConfig
from edgetiny.config.model import InitConfig
from edgetiny.config.tokenizer import TokenizerTrainConfig
from edgetiny.data.build import run as build_data
from edgetiny.init import run as init
from edgetiny.tokenizer.train import run as train_tokenizer


def prepare(folder: Path) -> None:
    """Write tokenizer, shards and a random checkpoint."""
    text = folder / "topics.txt"
    text.write_text("\n".join(topics.topics.values()), encoding="utf-8")
    train_tokenizer(TokenizerTrainConfig(text=(text,), out=folder / "tokenizer", vocab_size=1024))
    build_data(
        DataBuildConfig(
            text=(text,),
            tokenizer=folder / "tokenizer",
            out=folder / "shards",
            valid_fraction=0.1,
        )
    )
    init(
        InitConfig(
            tokenizer=folder / "tokenizer",
            out=folder / "start",
            hidden_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    )


def command(folder: Path, out: Path, steps: int) -> list[str]:
    """Return the command of the run, in whose words a killed one is also resumed."""
    settings = {
        "--data": folder / "shards",
        "--out": out,
        "--steps": steps,
        "--batch-size": 2,
        "--gradient-accumulation": 2,
        "--sequence-length": 64,
        "--precision": "fp32",
        "--save-every": 5,
        "--eval-every": 25,
        "--eval-tokens": 4096,
    }
    words = [str(word) for pair in settings.items() for word in pair]
    start = [sys.executable, "-m", "edgetiny", "train", str(folder / "start")]
    return [*start, *words, "--quiet", "--resume"]


def state(out: Path) -> dict[str, Any]:
    """Return the saved state; step 0 if there is none yet."""
    path = out / "trainer_state.json"
    return json.loads(path.read_text()) if path.exists() else {"step": 0, "is_finished": False}


def live_and_die(words: list[str], out: Path, wait_for_save: bool, seconds: float) -> bool:
    """Let the run live for some time (after its first save), kill it; False if it had ended."""
    inode = out.stat().st_ino if out.exists() else None
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    while wait_for_save and process.poll() is None:
        if out.exists() and out.stat().st_ino != inode:
            break
        time.sleep(0.005)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def weights_sha256(out: Path) -> str:
    """Return the hash of the weights."""
    return hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()


def losses(out: Path) -> list[tuple[int, float]]:
    """Return step and loss of every step in the log."""
    records = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return [(record["step"], record["loss"]) for record in records if "loss" in record]


def compare(folder: Path, n_kills: int, steps: int, seed: int) -> bool:
    """Run whole and killed, and say whether weights and logs are equal."""
    whole, killed = folder / "whole", folder / "killed"
    started = time.monotonic()
    subprocess.run(command(folder, whole, steps), check=True, stdout=subprocess.DEVNULL)
    lifetime = time.monotonic() - started
    print(f"uninterrupted: {steps} steps, {lifetime:.1f} s, weights {weights_sha256(whole)[:16]}")
    rng, kills = random.Random(seed), 0
    while kills < n_kills and not state(killed)["is_finished"]:
        waits = kills % 2 == 1
        seconds = rng.uniform(0, lifetime / n_kills if waits else lifetime / 2)
        if live_and_die(command(folder, killed, steps), killed, waits, seconds):
            kills += 1
            where = "after its first save" if waits else "after its start"
            print(f"kill {kills}: {seconds:.2f} s {where}; saved: step {state(killed)['step']}")
    subprocess.run(command(folder, killed, steps), check=True, stdout=subprocess.DEVNULL)
    is_equal = weights_sha256(whole) == weights_sha256(killed) and losses(whole) == losses(killed)
    print(f"after {kills} kills: weights {weights_sha256(killed)[:16]}")
    print("equal bit for bit, weights and losses" if is_equal else "DIFFERENT")
    return is_equal and kills == n_kills


def main() -> None:
    """Exit with 1 if anything differs, or if the run ended before all kills."""
    cast(TextIOWrapper, sys.stdout).reconfigure(line_buffering=True)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        sys.exit(not compare(Path(name), options.kills, options.steps, options.seed))


if __name__ == "__main__":
    main()
