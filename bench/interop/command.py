"""Every model at every precision, one after the other; the page grows with them."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgetiny.checkpoint import Checkpoint
from edgetiny.errors import ConfigError
from edgetiny.files import refuse_existing
from interop.measure import measured
from interop.models import exported, models, prompts_of
from interop.page import markdown, versions


def main(description: str) -> int:
    """Measure and write; return 1 if a text is not explained."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--checkpoint", type=Path, help="tied, with a tokenizer")
    what.add_argument("--join", type=Path, nargs="+", help="JSON of calls at other precisions")
    parser.add_argument("--out", type=Path, help="new folder for what --checkpoint is made into")
    parser.add_argument("--precision", nargs="+", default=["fp32", "int8", "int4"])
    parser.add_argument("--write", type=Path, required=True, help="results, without suffix")
    options = parser.parse_args()
    if options.join:
        result = joined(options.join)
        write(result, options.write)
    elif options.out is None:
        parser.error("--checkpoint needs --out")
    else:
        refuse_existing(options.out, overwrite=False)
        options.out.mkdir(parents=True)
        result = measure(options)
    return int(any(not row.get("explained", True) for row in result["rows"]))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return what was measured, as it is written."""
    source = Checkpoint.open(options.checkpoint)
    result: dict[str, Any] = {
        "checkpoint": source.sha256,
        "shape": str(source.summary()["shape"]),
        "versions": versions(),
    }
    result |= {"models": [], "rows": [], "pairs": []}
    for name, checkpoint in models(source, options.out):
        prompts = prompts_of(checkpoint)
        texts = [
            {"prompt": each.name, "tokens": len(each.wanted), "distinct": len(set(each.wanted))}
            for each in prompts
        ]
        facts = {"model": name, "sha256": checkpoint.sha256, "texts": texts}
        result["models"].append(
            facts | {"num_key_value_heads": checkpoint.config.num_key_value_heads}
        )
        for precision in options.precision:
            print(f"{name} at {precision}", file=sys.stderr, flush=True)
            folders = exported(checkpoint, precision, options.out / f"files, {name}")
            for prompt in prompts:
                rows, pairs = measured(
                    folders, prompt, precision, set(checkpoint.config.eos_token_ids)
                )
                result["rows"] += [{"model": name} | row for row in rows]
                result["pairs"] += [{"model": name} | pair for pair in pairs]
            write(result, options.write)
    return result


def joined(paths: Sequence[Path]) -> dict[str, Any]:
    """Return several results as one.

    Raises ConfigError if they are not of the same models in the same loaders.
    """
    first, *others = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
    for path, other in zip(paths[1:], others, strict=True):
        for key in ("checkpoint", "models", "versions"):
            if other[key] != first[key]:
                raise ConfigError(f"{path} has other {key} than {paths[0]}; measure both again")
        first["rows"] += other["rows"]
        first["pairs"] += other["pairs"]
    result: dict[str, Any] = first
    return result


def write(result: dict[str, Any], path: Path) -> None:
    """Write JSON and page."""
    path.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(markdown(result), encoding="utf-8")
