"""What a recipe costs in bits per byte, in the engine that ships: exported, verified, tabulated.

    python bench/engine_quality.py --checkpoint DIR --data SHARDS --out DIR \
        --write docs/results/engine_quality

Each recipe is exported by `edgetiny export` with the text of the shards' training part, and what
its verification scored of the held-out part is written down: 20,000 tokens a group through the
artefact's own runtime and through the checkpoint in fp32. Artefacts stay in `--out`, and one that
is there, of the same checkpoint and exported by the same recipe, is read and not made again.
`--write` names the results without suffix. Exits 1 if a bar is missed: int8 0.5%, int4 3%.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from edgetiny.artefact import Artefact, is_artefact
from edgetiny.checkpoint import Checkpoint
from edgetiny.config.export import ExportConfig
from edgetiny.console import Reporter
from edgetiny.device import cpu_model
from edgetiny.export.stage import run
from edgetiny.markdown import markdown_table

RECIPES = Path(__file__).parents[1] / "export" / "recipes"
NAMES = ("desktop_cpu_int8", "server_cpu_batch20", "desktop_cpu_int4", "server_cpu_int4")
BARS = {"int8": 0.5, "int4": 3.0}
"""Most that a precision may cost, in percent of any text's bits per byte."""


def measure(name: str, checkpoint: Checkpoint, options: argparse.Namespace) -> dict[str, Any]:
    """Return one recipe's row."""
    recipe = RECIPES / f"{name}.toml"
    digest = hashlib.sha256(recipe.read_bytes()).hexdigest()[:12]
    out = options.out / f"{name}-{digest}"
    if not is_artefact(out):
        flags = {"source": checkpoint.path, "data": options.data, "out": out}
        run(ExportConfig.load(recipe, flags), Reporter())
    artefact = Artefact.open(out)
    if artefact.manifest["source_sha256"] != checkpoint.sha256:
        raise SystemExit(f"{out} is of another checkpoint; remove it, or name another --out")
    [model], [section] = artefact.models, artefact.verification["models"]
    return {
        "recipe": f"{name} ({digest})",
        "precision": model.precision,
        "kernel": model.kernel,
        "block_size": model.block_size,
        "method": model.method,
        "kv_dtype": model.kv_dtype,
        "size_bytes": sum(artefact.manifest["files"][file]["bytes"] for file in model.files),
        "engine": section["engine"],
        "logits": section["logits"],
        "scores": section["scores"],
        "worst_percent": max(row["loss_change_percent"] for row in section["scores"]),
        "bar_percent": BARS[model.precision],
    }  # fmt: skip


def row_of(row: dict[str, Any]) -> dict[str, str]:
    """Return a row for people: a column for each text."""
    changes = {
        f"{score['text']}, %": f"{score['loss_change_percent']:+.3f}" for score in row["scores"]
    }
    return (
        {
            "recipe": row["recipe"],
            "weights": row["precision"]
            + ("" if row["block_size"] is None else f", blocks of {row['block_size']}"),
            "kernel": row["kernel"],
            "rounding": row["method"] or "nearest",
            "cache": row["kv_dtype"],
            "bytes": f"{row['size_bytes']:,}",
        }
        | changes
        | {
            "bar, %": f"{row['bar_percent']:g}",
            "KL, nats": f"{row['logits']['mean_kl_nats']:.1e}",
            "same likeliest token": f"{100 * row['logits']['top1_agreement']:.1f}%",
            "logit error": f"{row['logits']['relative_error']:.3f}",
        }
    )


def markdown(facts: dict[str, str], rows: list[dict[str, Any]]) -> str:
    """Return the page."""
    missed = [row["recipe"] for row in rows if row["worst_percent"] > row["bar_percent"]]
    lines = [
        "# What the recipes cost in their engine",
        "",
        "Written by `bench/engine_quality.py`. Change of bits per byte of each text against the"
        " checkpoint in fp32, from the verification of `edgetiny export`. The bar is of every text"
        " by itself.",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        "",
        *markdown_table([row_of(row) for row in rows]),
        "",
        f"Bars: {'all held' if not missed else 'MISSED by ' + ', '.join(missed)}.",
        "",
        "KL, equal tokens and logit error (root mean square over the spread of the logits) are of"
        " the probes of verification, not of the scored text. Of the dynamic kernel the windows"
        " that are scored together, four at a time, share one scale of activations.",
    ]
    return "\n".join(lines) + "\n"


def facts_of(checkpoint: Checkpoint, rows: list[dict[str, Any]]) -> dict[str, str]:
    """Return what the page says above the table."""
    first = rows[0]
    texts = ", ".join(
        f"{score['text']} {score['tokens']:,} ({score['checkpoint_bits_per_byte']:.4f} bits per"
        " byte in fp32)"
        for score in first["scores"]
    )
    engine = first["engine"]
    return {
        "model": str(checkpoint.summary()["shape"]),
        "texts and tokens": f"{texts}; windows of 256",
        "engine": f"{engine['name']} {engine['version']}, {engine['threads']} threads,"
        f" {cpu_model()}",
    }


def main() -> None:
    """Export what is not there, tabulate, and say whether the bars hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="shard folder")
    parser.add_argument("--out", type=Path, required=True, help="where artefacts stay")
    parser.add_argument("--recipe", nargs="+", default=NAMES, help="names of export/recipes")
    parser.add_argument("--write", type=Path, help="results, without suffix")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    checkpoint = Checkpoint.open(options.checkpoint)
    rows = [measure(name, checkpoint, options) for name in options.recipe]
    page = markdown(facts_of(checkpoint, rows), rows)
    print(page)
    if options.write is not None:
        options.write.with_suffix(".md").write_text(page, encoding="utf-8")
        text = json.dumps({"rows": rows}, indent=1) + "\n"
        options.write.with_suffix(".json").write_text(text, encoding="utf-8")
    sys.exit(int(any(row["worst_percent"] > row["bar_percent"] for row in rows)))


if __name__ == "__main__":
    main()
