"""`edgetiny export`: a checkpoint lowered, packaged and verified, or nothing at all."""

import functools
import importlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgetiny.artefact import CARD, VERIFICATION, Artefact, ModelFile, read_manifest
from edgetiny.checkpoint import Checkpoint
from edgetiny.config.export import ExportConfig
from edgetiny.console import QUIET, Reporter
from edgetiny.errors import ConfigError
from edgetiny.export.calibration import make_weights, read_calibration, say_rounding
from edgetiny.export.card import model_card
from edgetiny.export.dry_run import DryRunResult, dry_run
from edgetiny.export.merge import merge_of, merged_shape, reads_text, source_of
from edgetiny.export.package import (
    model_file,
    open_tokenizer,
    write_companions,
    write_manifest,
)
from edgetiny.export.plan import Lowered, Plan, folder_of, is_proven, plans
from edgetiny.export.probe import Answers, Questions
from edgetiny.export.tune import Tuning, require_choice, tune_all
from edgetiny.export.verify import (
    Verification,
    ask_checkpoint,
    make_questions,
    score_unmerged,
    verify,
)
from edgetiny.files import atomic_folder, read_json, refuse_existing, write_json
from edgetiny.gqa import Merge
from edgetiny.tokenizer import checkpoint_tokenizer, has_tokenizer

_DEMO = Path("demo-out/demo.json")
_DEMO_SCHEMA_VERSION = 1

Lower = Callable[..., Lowered]
# By format: a lowerer's package may be missing, so it is imported when it is needed.
_LOWERERS = {
    "onnx": ("edgetiny.export.lower", "lower_onnx"),
    "executorch": ("edgetiny.export.executorch_lower", "lower_executorch"),
    "gguf": ("edgetiny.export.gguf_write", "lower_gguf"),
}


@dataclass(frozen=True, slots=True)
class ExportResult:
    """A verified artefact."""

    artefact: Artefact
    verification: Verification
    gqa: Sequence[Mapping[str, Any]] = ()
    """Bits per byte of each text before and after key/value heads were merged, if they were."""
    tunings: Sequence[Tuning] = ()
    """What --tune measured."""

    def summary(self) -> dict[str, Any]:
        """Return what the command line prints: files, graphs, and how close they are."""
        manifest = self.artefact.manifest
        return (
            {
                "artefact": str(self.artefact.path),
                "parameters": manifest["parameters"],
                "size_bytes": self.artefact.size_bytes,
                "files": [
                    {"file": name, "bytes": facts["bytes"]}
                    for name, facts in manifest["files"].items()
                ],
            }
            | {f"{each.name}": _model_row(each) for each in self.artefact.models}
            | ({"fewer_kv_heads": list(self.gqa)} if self.gqa else {})
            | {f"kernels of {each.plan}": each.as_json()["trials"] for each in self.tunings}
            | self.verification.figures()
        )

    def verification_summary(self) -> dict[str, Any]:
        """Return what verification measured."""
        return self.verification.summary()


def run(config: ExportConfig, reporter: Reporter = QUIET) -> ExportResult | DryRunResult:
    """Do what the settings ask for: an export, or a forecast of it. Raises as `export` does."""
    source = config.source if config.source is not None else default_source(reporter)
    checkpoint = Checkpoint.open(source)
    if has_tokenizer(checkpoint.path):
        checkpoint_tokenizer(checkpoint.path, checkpoint.config.vocab_size)
    if config.dry_run:
        return dry_run(config, checkpoint, merged_shape(checkpoint, merge_of(config)))
    out = config.out or default_out(source, config)
    # Again, as what was not given is known now: it is not written over what is read either.
    return export(replace(config, source=source, out=out), checkpoint, out, reporter)


def export(
    config: ExportConfig, checkpoint: Checkpoint, out: Path, reporter: Reporter = QUIET
) -> ExportResult:
    """Write the artefact and return it, opened.

    Raises CheckFailed, and leaves what stood at `out` before, if a model does not answer as the
    checkpoint does; ConfigError for settings that do not fit the model.
    """
    refuse_existing(out, overwrite=config.overwrite)
    merge = merge_of(config)
    made = plans(config, merged_shape(checkpoint, merge))
    if config.tune:
        require_choice(made, config)
    _require_name(out, made)
    for plan in made:
        lowerer_of(plan, checkpoint)  # what is not installed is missed now
    by_text = reads_text(checkpoint, merge)
    windows = read_calibration(config, made, checkpoint, merges_by_text=by_text)
    _say_merge(checkpoint, merge, reporter)
    say_rounding(made, config, reporter)
    source = source_of(checkpoint, merge, config, reporter)
    shape, tensors = source.shape, source.tensors
    asked = make_questions(checkpoint, shape, made, config.text, config.data, config.batch)
    tunings: list[Tuning] = []
    if config.tune:
        made, tunings = tune_all(made, config, shape, tensors, reporter)
    wanted = ask_checkpoint(checkpoint, shape, tensors, asked, reporter)
    gqa = [] if shape == checkpoint.config else _gqa_cost(checkpoint, asked, wanted, reporter)
    with atomic_folder(out, overwrite=config.overwrite) as folder:
        models = []
        for plan in made:
            inside = folder_of(plan, made)
            (folder / inside).mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="edgetiny-") as scratch:
                weights = make_weights(shape, tensors, plan, windows, Path(scratch), reporter)
                with reporter.task(f"lowering to {plan.name}", total=len(tensors)) as task:
                    lower = lowerer_of(plan, checkpoint)
                    lowered = lower(folder / inside, weights, plan, task.advance)
            models.append(model_file(plan, lowered, inside, shape))
        write_companions(folder, checkpoint, shape, made)
        write_manifest(folder, checkpoint, shape, models, merge=source.facts())
        measured = verify(folder, models, checkpoint, asked, wanted, reporter)
        verification = replace(measured, artefact=out)
        verification.require()
        write_json(folder / VERIFICATION, verification.as_json() | _as_json(tunings))
        manifest = read_manifest(folder)
        card = model_card(out.name, manifest, shape, verification)
        (folder / CARD).write_text(card, encoding="utf-8")
    return ExportResult(Artefact.open(out), verification, gqa, tunings)


def lowerer_of(plan: Plan, checkpoint: Checkpoint) -> Lower:
    """Return the function that makes such a file.

    Raises ModuleNotFoundError, naming the package, if what it needs is not installed.
    """
    module, function = _LOWERERS[plan.format]
    if plan.format == "onnx" and is_proven(plan):
        importlib.import_module("onnxruntime")  # the verification's
    lower: Lower = getattr(importlib.import_module(module), function)
    if plan.format == "gguf":
        # The only format whose file holds the tokenizer.
        return functools.partial(lower, tokenizer=open_tokenizer(checkpoint.path))
    return lower


def _gqa_cost(
    checkpoint: Checkpoint, asked: Questions, wanted: Answers, reporter: Reporter
) -> list[dict[str, Any]]:
    """Say and return what merging key/value heads did to each text, in bits per byte (fp32)."""
    if open_tokenizer(checkpoint.path) is None:
        return []
    pairs = list(zip(score_unmerged(checkpoint, asked), wanted.scores, strict=True))
    for before, after in pairs:
        bits = f"{before.bits_per_byte:.4f} before merging heads, {after.bits_per_byte:.4f} after"
        reporter.say(f"bits per byte of {before.group}: {bits}")
    return [
        {
            "text": before.group,
            "bits_per_byte_before": before.bits_per_byte,
            "bits_per_byte_after": after.bits_per_byte,
        }
        for before, after in pairs
    ]


def _as_json(tunings: Sequence[Tuning]) -> dict[str, Any]:
    return {"tuning": [each.as_json() for each in tunings]} if tunings else {}


def _require_name(out: Path, made: Sequence[Plan]) -> None:
    """Raise ConfigError if a folder with what was never run does not say so in its name."""
    if all(is_proven(plan) for plan in made):
        return
    if "unverified" not in out.name:
        raise ConfigError(
            f"{out} would hold a file that was never run; say so in its name:"
            f" --out {out}-unverified"
        )


def _model_row(model: ModelFile) -> dict[str, Any]:
    return {
        "precision": model.precision,
        "layout": model.layout,
        "kernel": model.kernel,
        "method": model.method,
        "kv_dtype": model.kv_dtype,
        "batch": model.batch,
        "context": model.context,
        "verified": model.verified,
        "loaders": ", ".join(model.loaders),
        "nodes": sum(model.nodes.values()),
    } | dict(model.nodes)


def default_source(reporter: Reporter) -> Path:
    """Return the checkpoint folder one stands in, else the newest demo's; say which.

    Raises ConfigError if there is neither.
    """
    if Path("config.json").is_file() and any(Path().glob("*.safetensors")):
        reporter.say(f"exporting the checkpoint in this folder, {Path.cwd()}")
        return Path.cwd()
    checkpoint = newest_demo_checkpoint()
    reporter.say(f"exporting the newest demo output, {checkpoint}")
    return checkpoint


def newest_demo_checkpoint() -> Path:
    """Return the student that the last `edgetiny demo` here trained."""
    if not _DEMO.is_file():
        raise ConfigError(
            "there is no checkpoint in this folder and no demo-out from `edgetiny demo`;"
            " name a checkpoint folder: edgetiny export CHECKPOINT"
        )
    demo = read_json(_DEMO, schema_version=_DEMO_SCHEMA_VERSION, error=ConfigError)
    if demo.get("export_from") is None:
        raise ConfigError(
            f"the demo in {_DEMO.parent} did not end; run `edgetiny demo --overwrite`,"
            " or name a checkpoint folder: edgetiny export CHECKPOINT"
        )
    return _DEMO.parent / str(demo["export_from"])


def default_out(source: Path, config: ExportConfig) -> Path:
    """Return the sibling that is named after the checkpoint and what was done to it."""
    given = str(source)
    folder = Path.cwd() if given.startswith("hf:") else source.resolve().parent
    stem = given.removeprefix("hf:") if given.startswith("hf:") else source.resolve().name
    gqa = f"-gqa{config.gqa_groups}" if config.gqa_groups is not None else ""
    formats = "-".join(dict.fromkeys(config.format))
    unverified = "-unverified" if config.allow_unverified and config.target != "cpu" else ""
    name = f"{stem.split('/')[-1]}-{formats}-{config.precision}{gqa}{unverified}"
    return folder / name


def _say_merge(checkpoint: Checkpoint, merge: Merge | None, reporter: Reporter) -> None:
    if merge is None:
        return
    n_before, groups = checkpoint.config.num_key_value_heads, merge.groups
    if groups == n_before:
        reporter.say(f"--gqa-groups {groups} changes nothing: the model has {n_before} KV heads")
    else:
        reporter.say(f"{n_before} key/value heads become {groups}: {merge.grouping}, {merge.pool}")
