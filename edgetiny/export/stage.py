"""`edgetiny export`: a checkpoint lowered, packaged and verified, or nothing at all."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgetiny.artefact import VERIFICATION, Artefact
from edgetiny.checkpoint import Checkpoint, ModelConfig
from edgetiny.config.export import ExportConfig
from edgetiny.console import QUIET, Reporter
from edgetiny.errors import ConfigError
from edgetiny.export.lower import Lowering, lower, node_counts, save
from edgetiny.export.package import write_companions, write_manifest
from edgetiny.export.verify import (
    Verification,
    ask_checkpoint,
    make_questions,
    source_tensors,
    verify,
)
from edgetiny.files import atomic_folder, read_json, refuse_existing, write_json

_DEMO = Path("demo-out/demo.json")
_DEMO_SCHEMA_VERSION = 1
_DEFAULT_CONTEXT = 1024


@dataclass(frozen=True, slots=True)
class ExportResult:
    """A verified artefact."""

    artefact: Artefact
    verification: Verification

    def summary(self) -> dict[str, Any]:
        """Return what the command line prints: files, graph, and how close it is."""
        manifest = self.artefact.manifest
        return {
            "artefact": str(self.artefact.path),
            "precision": manifest["precision"],
            "context": manifest["context"],
            "parameters": manifest["parameters"],
            "size_bytes": self.artefact.size_bytes,
            "loaders": ", ".join(manifest["loaders"]),
            "files": [
                {"file": name, "bytes": facts["bytes"]} for name, facts in manifest["files"].items()
            ],
            "nodes": {"total": sum(manifest["nodes"].values())} | manifest["nodes"],
        } | self.verification.figures()

    def verification_summary(self) -> dict[str, Any]:
        """Return what verification measured."""
        return self.verification.summary()


def run(config: ExportConfig, reporter: Reporter = QUIET) -> ExportResult:
    """Write the artefact and return it, opened.

    Raises CheckFailed, and leaves what stood at `out` before, if the artefact does not answer as
    the checkpoint does; ConfigError for settings that do not fit the model.
    """
    source = config.source if config.source is not None else default_source(reporter)
    checkpoint = Checkpoint.open(source)
    out = config.out or default_out(source, config)
    refuse_existing(out, overwrite=config.overwrite)
    shape, tensors = source_tensors(checkpoint, config.gqa_groups)
    _say_gqa(checkpoint, config.gqa_groups, reporter)
    context = context_of(config.context, shape)
    lowering = Lowering(precision=config.precision, block_size=config.block_size, context=context)
    asked = make_questions(checkpoint, shape, context, config.text)
    wanted = ask_checkpoint(checkpoint, shape, tensors, asked, reporter)
    with atomic_folder(out, overwrite=config.overwrite) as folder:
        with reporter.task("lowering", total=len(tensors)) as task:
            model = lower(shape, tensors, lowering, task.advance)
        save(model, folder)
        nodes = node_counts(model)
        del model
        write_companions(folder, checkpoint, shape, context)
        write_manifest(
            folder, checkpoint, shape, lowering, gqa_groups=config.gqa_groups, nodes=nodes
        )
        measured = verify(folder, checkpoint, asked, wanted, reporter)
        verification = replace(measured, artefact=out)
        verification.require()
        write_json(folder / VERIFICATION, verification.as_json())
    return ExportResult(Artefact.open(out), verification)


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
    name = str(source)
    folder = Path.cwd() if name.startswith("hf:") else source.resolve().parent
    stem = name.removeprefix("hf:") if name.startswith("hf:") else source.resolve().name
    gqa = f"-gqa{config.gqa_groups}" if config.gqa_groups is not None else ""
    return folder / f"{stem.split('/')[-1]}-{config.format}-{config.precision}{gqa}"


def context_of(asked: int | None, shape: ModelConfig) -> int:
    """Return the tokens that an artefact can hold: as asked, or what the model can up to 1024.

    Raises ConfigError if the model cannot.
    """
    longest = shape.max_position_embeddings
    if asked is not None and asked > longest:
        raise ConfigError(f"--context {asked} is beyond the model's {longest} positions")
    return asked or min(longest, _DEFAULT_CONTEXT)


def _say_gqa(checkpoint: Checkpoint, groups: int | None, reporter: Reporter) -> None:
    n_before = checkpoint.config.num_key_value_heads
    if groups == n_before:
        reporter.say(f"--gqa-groups {groups} changes nothing: the model has {n_before} KV heads")
    elif groups is not None:
        reporter.say(f"averaging {n_before} key/value heads into {groups}")
