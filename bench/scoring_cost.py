"""What it costs to score a teacher of a billion parameters: seconds and anonymous memory a method.

    python bench/scoring_cost.py --work DIR --write docs/results/scoring_cost
    python bench/scoring_cost.py --work DIR --case taylor --case inherit-l1 --write ...

The teacher has random weights: 16 layers x 2048, FFN 8192, 32 heads on 8 of keys and values,
32,000 rows, tied; bfloat16 in shards of 500 MB. The text is random ids. A case is a process of its
own: it scores all neurons by a method, or is a whole `edgetiny inherit`. Its anonymous memory
(RssAnon, what no file backs) is read every 50 ms. Cases that are in the JSON already stay, but for
those that are named again. Exits 1 if L1, L2 or activation take 3 GB or more.
"""

import argparse
import functools
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from phase_reporter import PhaseReporter
from phases import watch

_ROOT = Path(__file__).parents[1]
_BAR_BYTES = 3 * 10**9
_SHARD_BYTES = 500 * 10**6
_VOCABULARY = 32_000
_TOKENS = 16_384
"""What `edgetiny inherit` reads if not told otherwise."""
_FEW_TOKENS = 1_024
# Name of the case: method, tokens of text, how many layers are scored; None is the whole command.
CASES = {
    "l1": ("l1", _TOKENS, 16),
    "l2": ("l2", _TOKENS, 16),
    "activation": ("activation", _FEW_TOKENS, 16),
    "activation-2-layers": ("activation", _TOKENS, 2),
    "taylor": ("taylor", _FEW_TOKENS, 16),
    "inherit-l1": ("l1", _FEW_TOKENS, None),
    "inherit-activation": ("activation", _FEW_TOKENS, None),
}
_UNBOUND = ("taylor",)
# Cut to half the FFN and three quarters of width and heads; layers stay: they are not scored here.
_STUDENT = {"hidden_size": 1536, "intermediate_size": 4096, "num_attention_heads": 24}
_NOTES = """\
- `start` of `inherit-` holds the teacher's loss on held-out text, `between` the student's, the
  cut and the writing. The loss and activation read text through one layer in fp32 at a time
  (243 MB of this teacher), and hold the hidden states of all of it: 8 kB a token, 134 MB of the
  16,384 that are the default. `activation-2-layers` is that default, over the first two layers
  alone: memory is that of one layer and of the text whatever the depth, time is not.
- Taylor needs gradients: all weights in fp32 (4.2 GB here), what a window of 512 tokens leaves
  in every layer for the way back, and one gradient and its product at a time.
- Learned masks were not run. Training the weights along takes at least 16 bytes of each in fp32
  (itself, its gradient, two moments): 16.6 GB here. With `--mask-weight-learning-rate 0` it is
  at least 4 bytes, 4.2 GB. Copies of the weights times their gates and activations come on top.
- The whole command took 1191 MB by L1 while a checkpoint file was put together in memory before
  it was written; it is written a tensor at a time since.
"""


def make_teacher(work: Path) -> Path:
    """Write the teacher, if it is not there, and return where."""
    import torch
    from torch import Tensor

    from edgetiny.checkpoint import LazyTensors, ModelConfig, write, write_checkpoint
    from edgetiny.files import atomic_folder
    from edgetiny.init import RandomTensors

    out = work / "teacher"
    if out.exists():
        return out
    config = ModelConfig(
        vocab_size=_VOCABULARY,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
    )
    drawn = RandomTensors(config, std=0.02, seed=0)

    def halved(name: str) -> Tensor:
        return drawn[name].to(torch.bfloat16)

    tensors = LazyTensors({name: functools.partial(halved, name) for name in drawn})
    write.SHARD_BYTES = _SHARD_BYTES
    with atomic_folder(out) as folder:
        write_checkpoint(
            folder, config, tensors, stage="init", settings={}, parent=None, tokenizer=None
        )
    return out


def make_shards(work: Path) -> Path:
    """Write random ids as token shards, if they are not there, and return where."""
    import numpy as np

    out = work / "shards"
    if not out.exists():
        ids = np.random.default_rng(0).integers(0, _VOCABULARY, (2, 2 * _TOKENS))
        out.mkdir()
        for split, row in zip(("train", "val"), ids, strict=True):
            row.astype(np.uint16).tofile(out / f"{split}.bin")
    return out


def run_case(case: str, work: Path) -> None:
    """Score or inherit in this process; say which phase begins."""
    from edgetiny.checkpoint import Checkpoint
    from edgetiny.config.model import InheritConfig, ScoreMethod
    from edgetiny.data import Shards
    from edgetiny.evaluate.window import trained_length
    from edgetiny.importance.axes import take_layers
    from edgetiny.importance.neurons import score
    from edgetiny.importance.text import text_windows
    from edgetiny.inherit.stage import run

    method, n_tokens, n_layers = CASES[case]
    if n_layers is None:
        out = work / "student"
        shutil.rmtree(out, ignore_errors=True)
        config = InheritConfig(
            source=work / "teacher",
            data=work / "shards",
            out=out,
            method=cast(ScoreMethod, method),
            calibration_tokens=n_tokens,
            **_STUDENT,  # type: ignore[arg-type]
        )
        run(config, PhaseReporter())
        return
    teacher = Checkpoint.open(work / "teacher")
    windows = text_windows(Shards.open(work / "shards").train, n_tokens, trained_length(teacher))
    shape, tensors = take_layers(teacher.config, teacher.state_dict(), list(range(n_layers)))
    score(cast(ScoreMethod, method), shape, tensors, windows, reporter=PhaseReporter())


def measure(case: str, work: Path) -> dict[str, Any]:
    """Run a case as a process; return what it took."""
    command = [sys.executable, __file__, "--work", str(work), "--child", case]
    environment = os.environ | {"PYTHONPATH": f"{_ROOT}:{_ROOT / 'bench'}"}
    watched = watch(command, environment, work / f"scoring-{case}")
    return {
        "case": case,
        "tokens": CASES[case][1],
        "phases": watched.phases,
        "seconds": watched.seconds,
        "cpu_seconds": watched.cpu_seconds,
        "anonymous_bytes": watched.anonymous_bytes,
        "failed": watched.failed,
        "load": os.getloadavg()[0],
    }


def missed(row: Mapping[str, Any]) -> bool:
    """Whether a case failed, or took more memory than the bar allows it."""
    return bool(row["failed"]) or (
        row["case"] not in _UNBOUND and row["anonymous_bytes"] >= _BAR_BYTES
    )


def page(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page of all cases so far."""
    from edgetiny.device import cpu_model

    lines = ["| case | phase | tokens | seconds | anonymous memory, MB |", "|---|---|---|---|---|"]
    for row in found.values():
        whole = {name: row[name] for name in ("seconds", "anonymous_bytes")}
        name = f"whole, {row['cpu_seconds']:,.0f} s of CPU"
        phases = {"failed" if row["failed"] else name: whole}
        for phase, took in (row["phases"] | phases).items():
            lines.append(
                f"| {row['case']} | {phase} | {row['tokens']:,} | {took['seconds']:,.1f}"
                f" | {took['anonymous_bytes'] / 1e6:,.0f} |"
            )
    missing = [case for case in CASES if case not in found]
    n_missed = sum(map(missed, found.values()))
    notes = "\n".join(dict.fromkeys(row["note"] for row in found.values()))
    return f"""# What scoring a teacher costs

Made by `bench/scoring_cost.py` on {cpu_model()}, {os.cpu_count()} cores; one run each. Random
teacher of 1.04B: 16 layers x 2048, FFN 8192, 32 heads on 8 of keys and values, 32,000 rows, tied;
bfloat16, 2.1 GB in shards of 500 MB. Text is random ids. Anonymous memory is what no file backs
(RssAnon), of a fresh process, the highest of readings every 50 ms. `inherit-` is the whole command
for a student of 16 layers x 1536, FFN 4096, 24 heads: scores, the loss before and after, the cut
and the writing.

The bar: L1, L2 and activation under 3 GB. {n_missed} of {len(found)} cases miss it or failed. Not
run: {", ".join(missing) or "nothing"}.

{chr(10).join(lines)}

{notes}

{_NOTES}"""


def main() -> None:
    """Measure the cases that are named, or all; write them beside those that were."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="teacher and text are made here")
    parser.add_argument("--case", choices=CASES, action="append", help="all if not given")
    parser.add_argument("--write", type=Path, help="results without suffix: .json and .md")
    parser.add_argument("--note", default="The machine did other work", help="how it was measured")
    parser.add_argument("--child", choices=CASES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    work = args.work.resolve()
    if args.child is not None:
        run_case(args.child, work)
        return
    work.mkdir(parents=True, exist_ok=True)
    make_teacher(work)
    make_shards(work)
    found: dict[str, dict[str, Any]] = {}
    file = None if args.write is None else args.write.with_suffix(".json")
    if file is not None and file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
    for case in args.case or list(CASES):
        found[case] = measure(case, work) | {"note": args.note}
        print(json.dumps(found[case]), flush=True)
        if file is not None:
            found = {name: found[name] for name in CASES if name in found}
            file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            file.with_suffix(".md").write_text(page(found), encoding="utf-8")
    sys.exit(int(any(map(missed, found.values()))))


if __name__ == "__main__":
    main()
