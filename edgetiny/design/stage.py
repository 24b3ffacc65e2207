"""`edgetiny design`: a family for a budget, a design that keeps a promise, or a published shape."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgetiny.checkpoint import Checkpoint, ModelConfig
from edgetiny.config.design import DesignConfig
from edgetiny.console import QUIET, Reporter
from edgetiny.cost import Precision, parameters
from edgetiny.design.candidate import DEFAULT_PRECISIONS, Candidate, Use, shape_row, use_row
from edgetiny.design.family import Rules, explained, family, nearest, objections, refusal
from edgetiny.design.file import Design, to_toml
from edgetiny.design.presets import preset
from edgetiny.design.promise import Limits, best_design
from edgetiny.design.recipe import commands, recipe, recipe_toml
from edgetiny.errors import ConfigError
from edgetiny.files import atomic_file, refuse_existing

_NEIGHBOURS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class DesignResult:
    """The chosen design, the candidates beside it and why it is the one.

    candidates: shapes and bytes; in_use: their memory, and speed on a device. steps: the commands
    that make a design inside a big model. text: what --out holds.
    """

    design: Design
    use: Use
    text: str
    candidates: list[dict[str, Any]]
    in_use: list[dict[str, Any]]
    precision: Precision | None = None
    rules: list[dict[str, Any]] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Return what the command line prints."""
        config, counts = self.design.config, parameters(self.design.config)
        payload: dict[str, Any] = {
            "design": self.design.name,
            "source": self.design.source,
            "shape": f"{config.num_hidden_layers} layers x {config.hidden_size},"
            f" FFN {config.intermediate_size}",
            "vocabulary": config.vocab_size,
            "tied": config.tie_word_embeddings,
            "parameters": counts.total,
            "pehf_percent": round(100 * counts.embedding_and_head_share, 2),
            "precision": self.precision,
            "use": self._use_in_words(),
            "candidates": self.candidates,
            "in_use": self.in_use,
            "rules": self.rules,
            "steps": [
                {"step": number, "command": command} for number, command in enumerate(self.steps, 1)
            ],
        }
        return {key: value for key, value in payload.items() if value not in (None, [])}

    def _use_in_words(self) -> str:
        use = self.use
        where = f"batch {use.batch}, context {use.context}, {use.kv_precision} cache"
        if use.device is None:
            return where
        return f"{use.device.name}, {where}; tok/s: {use.reach.in_words()}"


def run(config: DesignConfig, reporter: Reporter = QUIET) -> DesignResult:
    """Choose a design, write it if asked to, and return it with its candidates.

    Raises ConfigError in one line for a size that no rule-abiding shape has, or a promise that no
    design can keep: it says which limit binds. DeviceError for a description that is none.
    """
    if config.out is not None:
        refuse_existing(config.out, overwrite=config.overwrite)
    use = Use.of_settings(config)
    if config.source is not None:
        result = _inside(config, config.source, use, reporter)
    elif config.preset is not None:
        result = _published(config, preset(config.preset), use)
    else:
        result = _forward(config, use)
    if config.out is not None:
        with atomic_file(config.out) as path:
            path.write_text(result.text, encoding="utf-8")
        reporter.say(f"wrote {config.out}")
    return result


def _published(config: DesignConfig, design: Design, use: Use) -> DesignResult:
    precisions = config.precision or DEFAULT_PRECISIONS
    return DesignResult(
        design=design,
        use=use,
        text=to_toml(design),
        candidates=[shape_row(design.config, precisions, use)],
        in_use=[use_row(design.config, precisions, use)],
    )


def _forward(config: DesignConfig, use: Use) -> DesignResult:
    rules = Rules.of_settings(config)
    precisions = config.precision or DEFAULT_PRECISIONS
    tried: list[ModelConfig] = []
    for tied in [False, True] if rules.tied is None else [rules.tied]:
        shapes = family(rules, tied=tied)
        notes = {shape: objections(shape, rules) for shape in shapes}
        if not all(notes.values()) and shapes:
            break
        tried += shapes
    else:
        raise ConfigError(refusal(tried, rules, tied=tied))
    chosen = _keeping(config, rules, notes, precisions, use)
    rows = _neighbours(shapes, chosen)
    size = f"--params {config.params} --vocab {config.vocab}"
    design = Design(
        f"{config.params}-{chosen.num_hidden_layers}x{chosen.hidden_size}".lower(),
        f"edgetiny design {size}",
        chosen,
    )
    marks = {shape: {"chosen": "*" if shape == chosen else ""} for shape in rows}
    return DesignResult(
        design=design,
        use=use,
        text=to_toml(design),
        candidates=[
            marks[shape] | shape_row(shape, precisions, use) | {"but": ", ".join(notes[shape])}
            for shape in rows
        ],
        in_use=[marks[shape] | use_row(shape, precisions, use) for shape in rows],
        rules=explained(rules, chosen),
    )


def _keeping(
    config: DesignConfig,
    rules: Rules,
    notes: Mapping[ModelConfig, list[str]],
    precisions: Sequence[Precision],
    use: Use,
) -> ModelConfig:
    """Return the shape to take, and note the promises that others break.

    Promises are held against the smallest of the precisions.
    """
    limits = Limits.of_settings(config)
    fit = [shape for shape, objection in notes.items() if not objection]
    smallest = min(
        precisions,
        key=lambda precision: Candidate(config=fit[0], precision=precision, use=use).file_bytes,
    )
    for shape, objection in notes.items():
        candidate = Candidate(config=shape, precision=smallest, use=use)
        objection += [f"{what} in {smallest}" for what in limits.broken(candidate)]
    kept = [shape for shape in fit if not notes[shape]]
    if kept:
        return nearest(kept, rules)
    closest = nearest(fit, rules)
    raise ConfigError(
        f"no design of {config.params} keeps the promise: that of {closest.num_hidden_layers}"
        f" layers x {closest.hidden_size} has {', '.join(notes[closest])}; take fewer --params, or"
        " promise less"
    )


def _neighbours(shapes: Sequence[ModelConfig], chosen: ModelConfig) -> list[ModelConfig]:
    """Return the shapes around the chosen one, the deepest first, at most one of each depth."""
    if len(shapes) <= 2 * _NEIGHBOURS:
        return list(shapes)
    by_depth = {shape.num_hidden_layers: shape for shape in (*shapes, chosen)}
    ordered = [by_depth[depth] for depth in sorted(by_depth, reverse=True)]
    place = ordered.index(chosen)
    return ordered[max(0, place - _NEIGHBOURS) : place + _NEIGHBOURS + 1]


def _inside(config: DesignConfig, path: Path, use: Use, reporter: Reporter) -> DesignResult:
    source = Checkpoint.open(path).config
    if config.context > source.max_position_embeddings:
        raise ConfigError(
            f"--context {config.context} is more than the source's {source.max_position_embeddings}"
        )
    reporter.say(f"weighing what can be cut out of {path}")
    limits = Limits.of_settings(config)
    found = best_design(source, limits, use, config.precision, config.vocab)
    best = found[0]
    shape = best.config
    tables = recipe(config, source, shape, best.precision)
    steps = commands(tables, config.out or Path("RECIPE.toml"))
    command = config.command_line()
    marks = [{"chosen": "*" if each is best else "", "weights": each.precision} for each in found]
    return DesignResult(
        design=Design(f"student-{shape.num_hidden_layers}x{shape.hidden_size}", command, shape),
        use=use,
        text=recipe_toml(tables, f"{command}\n\nRun in this order:\n" + "\n".join(steps)),
        candidates=[
            mark | _plain(shape_row(each.config, (each.precision,), use), each)
            for mark, each in zip(marks, found, strict=True)
        ],
        in_use=[
            mark | _plain(use_row(each.config, (each.precision,), use), each)
            for mark, each in zip(marks, found, strict=True)
        ],
        precision=best.precision,
        steps=steps,
    )


def _plain(row: Mapping[str, Any], candidate: Candidate) -> dict[str, Any]:
    """Return a row whose columns do not name the precision: each row has one of its own."""
    return {key.removesuffix(f"_{candidate.precision}"): value for key, value in row.items()}
