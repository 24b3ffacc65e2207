"""The same greedy text in every program that loads what `edgetiny export` writes.

    python bench/interop/run.py --checkpoint DIR --out DIR --write docs/results/interop

The checkpoint, a copy with fewer key/value heads, and copies of both whose head is a tensor of its
own are exported at fp32, int8 and int4 in every format; every loader continues the same prompts.
A loader that is not installed is a row that says so; llama.cpp is the module `llama_cpp`.
Precisions can be measured by several calls at once (`--precision`), whose JSON `--join` makes one.
`--out` is a new folder in which everything stays: nothing of an earlier run is used again.
Exits 1 if a text is not explained.
"""

import sys
from pathlib import Path

# This folder's files are a package; as loose modules they would hide others of the same name.
sys.path[0] = str(Path(__file__).resolve().parents[1])
sys.path.insert(1, str(Path(__file__).resolve().parents[2]))

if __name__ == "__main__":
    from edgetiny.errors import EdgetinyError
    from interop.command import main

    try:
        sys.exit(main(__doc__))
    except EdgetinyError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
