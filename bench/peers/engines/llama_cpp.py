"""llama.cpp: its converter and quantizer, and `llama-batched-bench`.

options: type (F16, Q8_0, Q4_0), source (llama.cpp's tree), build (with bin/), flags of the program.
It feeds random tokens instead of its own answers and takes no argmax, which favours it slightly.
`--pure` because a mixture would leave 4 bits; the converter writes a GGUF of the same type first.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peers.work import Timed, Work

MODEL = "model.gguf"


def prepare(checkpoint: Path, folder: Path, options: Mapping[str, Any]) -> None:
    """Convert to F16 and quantize."""
    plain = folder / (MODEL if options["type"] == "F16" else "f16.gguf")
    script = Path(options["source"]) / "convert_hf_to_gguf.py"
    command = [sys.executable, str(script), str(checkpoint)]
    subprocess.run([*command, "--outtype", "f16", "--outfile", str(plain)], check=True)
    if options["type"] != "F16":
        program = Path(options["build"]) / "bin/llama-quantize"
        command = [str(program), "--pure", str(plain), str(folder / MODEL), options["type"]]
        subprocess.run(command, check=True)
        plain.unlink()


def run(folder: Path, options: Mapping[str, Any], work: Work) -> Timed:
    """Run the program; its steps are one fewer than the tokens, since a prefill gives one too."""
    program = Path(options["build"]) / "bin/llama-batched-bench"
    n_prompt = work.prompt.shape[1]
    command = [str(program), "-m", str(folder / MODEL), "--output-format", "jsonl"]
    command += ["-t", str(work.threads), "-tb", str(work.threads)]
    command += ["-c", str(work.batch * work.context), "-npl", str(work.batch)]
    command += ["-npp", str(n_prompt), "-ntg", str(work.new_tokens - 1), *options["flags"]]
    environment = dict(os.environ) | {"LD_LIBRARY_PATH": str(program.parent)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return from_output(done.stdout)


def from_output(printed: str) -> Timed:
    """Return the times of the one row that the program printed."""
    rows = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    if len(rows) != 1:
        raise ValueError(f"llama-batched-bench printed {len(rows)} rows instead of one")
    return Timed(seconds=rows[0]["t"], first_token_seconds=rows[0]["t_pp"], first_ids=None)
