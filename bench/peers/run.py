"""Ours beside the engines that others made, in one command; see docs/peers.md.

    python bench/peers/run.py --work DIR --ours b20=export/recipes/server_cpu_batch20.toml \
        --write docs/results/peers

A killed run goes on where it was when it is called again with the same --work.
"""

import signal
import sys
from pathlib import Path

# This folder's files are a package; as loose modules they would hide others of the same name.
sys.path[0] = str(Path(__file__).resolve().parents[1])
sys.path.insert(1, str(Path(__file__).resolve().parents[2]))

if __name__ == "__main__":
    from peers.command import main

    # As Ctrl-C: the engine that runs now ends with this process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
