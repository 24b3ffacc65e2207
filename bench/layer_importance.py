"""What the layers of a trained teacher are worth, and what each way of choosing them keeps.

    python bench/layer_importance.py --teacher DIR --data SHARDS --write docs/results/NAME

Two tables. Held-out loss with every run of one, two and three neighbours skipped: the paper's
Figure 5, by loss instead of by task. And held-out loss with the layers that each of `inherit`'s
methods keeps, chosen on training text, at every depth below the teacher's: nothing is trained.
"""

import argparse
import platform
import statistics
from pathlib import Path
from typing import Any, get_args

import torch

from edgetiny.checkpoint import Checkpoint
from edgetiny.config.model import ImportanceConfig, LayersMethod
from edgetiny.console import Reporter
from edgetiny.data import Shards
from edgetiny.device import cpu_model
from edgetiny.evaluate.window import trained_length
from edgetiny.files import write_json
from edgetiny.importance.report import layer_chart
from edgetiny.importance.skips import skip_losses
from edgetiny.importance.stage import run as importance
from edgetiny.importance.text import text_windows
from edgetiny.inherit.layers import choose_layers, kept_layers
from edgetiny.page import svg_file
from edgetiny.svg import Series, line_chart

METHODS = [method for method in get_args(LayersMethod) if method != "learned"]
DRAWS = 5


def main() -> None:
    """Measure both tables and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=65_536, help="held out, of each measurement")
    parser.add_argument("--calibration-tokens", type=int, default=16_384, help="that choose")
    parser.add_argument("--write", type=Path, help="results, without suffix")
    options = parser.parse_args()
    reporter = Reporter()
    teacher, shards = Checkpoint.open(options.teacher), Shards.open(options.data)
    skipped = importance(
        ImportanceConfig(
            source=options.teacher,
            data=options.data,
            layers=True,
            calibration_tokens=options.tokens,
        ),
        reporter,
    )
    document = {
        "machine": f"{cpu_model()}, {torch.get_num_threads()} thread(s), torch {torch.__version__},"
        f" Python {platform.python_version()}",
        "teacher": teacher.summary()["shape"],
        "held_out_tokens": options.tokens,
        "calibration_tokens": options.calibration_tokens,
        "loss": skipped.loss,
        "layers": skipped.layers,
        "kept": kept_losses(teacher, shards, options, reporter),
    }
    text = page(document)
    reporter.say(text)
    if options.write is not None:
        options.write.with_suffix(".md").write_text(
            text + charts(document, options.write), encoding="utf-8"
        )
        write_json(options.write.with_suffix(".json"), document)


def kept_losses(
    teacher: Checkpoint, shards: Shards, options: argparse.Namespace, reporter: Reporter
) -> list[dict[str, Any]]:
    """Return per depth the held-out loss of the layers that each method keeps.

    `random` is the mean of `DRAWS` draws; `best_random` and `worst_random` are their range.
    """
    length, tensors = trained_length(teacher), teacher.state_dict()
    chooses = text_windows(shards.train, options.calibration_tokens, length)
    scores = text_windows(shards.valid, options.tokens, length)
    config = teacher.config

    def loss(method: LayersMethod, n_kept: int, seed: int = 0) -> float:
        dropped = choose_layers(method, config, tensors, chooses, n_kept, seed=seed)
        kept = kept_layers(config.num_hidden_layers, dropped)
        return skip_losses(config, tensors, kept, scores, lengths=()).whole

    rows = []
    depths = range(config.num_hidden_layers - 1, 0, -1)
    with reporter.task("depths", len(depths)) as task:
        for n_kept in depths:
            row: dict[str, Any] = {"kept": n_kept}
            row |= {each: loss(each, n_kept) for each in METHODS if each != "random"}
            drawn = [loss("random", n_kept, seed) for seed in range(DRAWS)]
            row |= {"random": statistics.mean(drawn)}
            rows.append(row | {"best_random": min(drawn), "worst_random": max(drawn)})
            task.advance(1)
    return rows


def page(document: dict[str, Any]) -> str:
    """Return what was measured as Markdown."""
    names = [name for name in document["layers"][0] if name.startswith("loss_without_")]
    lines = [
        "# What the layers are worth",
        "",
        f"Written by `bench/layer_importance.py`: {document['machine']}.",
        "",
        f"- teacher: {document['teacher']}; held-out loss {document['loss']:.4f} nats per token",
        f"- {document['held_out_tokens']:,} held-out tokens a figure;"
        f" {document['calibration_tokens']:,} training tokens chose",
        "",
        "## Without neighbours",
        "",
        "Nats per token more than the whole model, by the first layer that is skipped.",
        "",
        "| first skipped | "
        + " | ".join(f"{name.split('_')[-1]} skipped" for name in names)
        + " | turn |",
        "|" + "---|" * (len(names) + 2),
    ]
    for row in document["layers"]:
        found = [row[name] for name in names]
        cells = ["" if n is None else f"{n - document['loss']:+.3f}" for n in found]
        lines.append(f"| {row['layer']} | {' | '.join(cells)} | {row['turn']:.3f} |")
    lines += [
        "",
        "Turn: 1 - cos(in, out).",
        "",
        "## What stays",
        "",
        f"Held-out loss with the layers each method keeps, nothing trained; random: the mean of"
        f" {DRAWS} draws, and their range.",
        "",
        "| layers kept | " + " | ".join(METHODS) + " |",
        "|" + "---|" * (len(METHODS) + 1),
    ]
    for row in document["kept"]:
        cells = [f"{row[method]:.3f}" for method in METHODS]
        spread = f" ({row['best_random']:.3f} to {row['worst_random']:.3f})"
        cells[METHODS.index("random")] += spread
        lines.append(f"| {row['kept']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def charts(document: dict[str, Any], write: Path) -> str:
    """Draw both tables beside the page and return the lines that show them."""
    kept = [
        Series(method, [(row["kept"], row[method]) for row in document["kept"]], has_marks=True)
        for method in METHODS
    ]
    drawn = {"skips": layer_chart(document["layers"])}
    drawn["kept"] = line_chart(kept, "layers kept", "loss, nats per token")
    lines = [""]
    for name, chart in drawn.items():
        path = write.with_name(f"{write.name}_{name}.svg")
        path.write_text(svg_file(chart), encoding="utf-8")
        lines.append(f"![{name}]({path.name})")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
