"""`edgetiny verify`: an artefact in its own runtime against the checkpoint it was made from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgetiny.artefact import SCHEMA_VERSION, Artefact
from edgetiny.checkpoint import Checkpoint, ModelConfig
from edgetiny.checkpoint.folder import TOKENIZER_FILES
from edgetiny.config.export import VerifyConfig
from edgetiny.console import QUIET, Reporter
from edgetiny.cost import parameters
from edgetiny.errors import ArtefactError, CheckFailed, ConfigError
from edgetiny.export.package import open_tokenizer
from edgetiny.export.parity import Parity, compare, failures
from edgetiny.export.probe import Answers, Questions, ask, questions
from edgetiny.files import sha256_file
from edgetiny.gqa import to_gqa
from edgetiny.model import build_model
from edgetiny.runtimes import EagerRuntime, Engine, open_runtime

# Below this many parameters, handing work from thread to thread costs more than it saves.
_ONE_THREAD = 2_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What was measured of an artefact, and whether it is the checkpoint's model."""

    artefact: Path
    source_sha256: str
    engine: Engine
    text: str
    parity: Parity
    tokenizer_files: int

    @property
    def passed(self) -> bool:
        """Whether every check did."""
        return not failures(self.parity.checks)

    def require(self) -> None:
        """Raise CheckFailed, naming what failed, if anything did."""
        if not self.passed:
            raise CheckFailed(
                f"{self.artefact} does not answer as its checkpoint does:"
                f" {'; '.join(failures(self.parity.checks))}"
            )

    def as_json(self) -> dict[str, Any]:
        """Return what `verification.json` holds."""
        return {
            "schema_version": SCHEMA_VERSION,
            "passed": self.passed,
            "source_sha256": self.source_sha256,
            "engine": asdict(self.engine),
            "text": self.text,
            "logits": self.parity.logits,
            "probes": self.parity.probes,
            "greedy": self.parity.greedy,
            "scores": self.parity.scores,
            "tokenizer_files": self.tokenizer_files,
            "checks": [each.as_json() for each in self.parity.checks],
        }

    def summary(self) -> dict[str, Any]:
        """Return what the command line prints."""
        return {
            "artefact": str(self.artefact),
            "passed": self.passed,
            "engine": f"{self.engine.name} {self.engine.version}",
            "tokenizer_files_equal": self.tokenizer_files,
        } | self.figures()

    def figures(self) -> dict[str, Any]:
        """Return the tables of a report: logits, greedy texts, scores, checks."""
        return {
            "logits": self.parity.logits,
            "greedy_text": self.parity.greedy,
            "scores": self.parity.scores,
            "checks": [each.as_json() for each in self.parity.checks],
        }


def run(config: VerifyConfig, reporter: Reporter = QUIET) -> Verification:
    """Compare and return what was measured; nothing is written.

    Raises CheckFailed if the artefact is further from the checkpoint than its precision explains,
    ArtefactError if it is damaged or was made from a model of another shape.
    """
    artefact = Artefact.open(config.artefact)
    checkpoint = Checkpoint.open(config.against)
    shape, tensors = source_tensors(checkpoint, artefact.manifest["gqa_groups"])
    if shape != artefact.config:
        raise ArtefactError(
            f"{config.artefact} was exported from a model of another shape than {config.against};"
            " give the checkpoint that it was made from"
        )
    if checkpoint.sha256 != artefact.manifest["source_sha256"]:
        reporter.say(f"{config.artefact} was exported from another checkpoint of the same shape")
    asked = make_questions(checkpoint, shape, artefact.manifest["context"], config.text)
    wanted = ask_checkpoint(checkpoint, shape, tensors, asked, reporter)
    verification = verify(config.artefact, checkpoint, asked, wanted, reporter)
    verification.require()
    return verification


def verify(
    folder: Path, checkpoint: Checkpoint, asked: Questions, wanted: Answers, reporter: Reporter
) -> Verification:
    """Ask an artefact what the checkpoint was asked, and compare.

    Raises CheckFailed if the tokenizer is not the checkpoint's.
    """
    n_tokenizer_files = _check_tokenizer(folder, checkpoint.path)
    runtime = open_runtime(folder, threads=_threads(checkpoint.config))
    with reporter.task("verifying", total=asked.n_asked) as task:
        given = ask(runtime, asked, task)
    return Verification(
        artefact=folder,
        source_sha256=checkpoint.sha256,
        engine=runtime.engine,
        text=asked.text,
        parity=compare(asked, wanted, given, runtime.engine.precision),
        tokenizer_files=n_tokenizer_files,
    )


def source_tensors(
    checkpoint: Checkpoint, gqa_groups: int | None
) -> tuple[ModelConfig, Mapping[str, Tensor]]:
    """Return what is exported of a checkpoint: itself, or with fewer key/value heads."""
    if gqa_groups is None:
        return checkpoint.config, checkpoint.state_dict()
    return to_gqa(checkpoint, gqa_groups)


def make_questions(
    checkpoint: Checkpoint, shape: ModelConfig, context: int, text: Path | None
) -> Questions:
    """Return what to ask of the checkpoint and its artefact.

    Raises ConfigError if there is a text but no tokenizer to read it with.
    """
    tokenizer = open_tokenizer(checkpoint.path)
    if text is not None and tokenizer is None:
        raise ConfigError(f"--text {text} cannot be scored: {checkpoint.path} has no tokenizer")
    return questions(shape, context, tokenizer, [text] if text is not None else [])


def ask_checkpoint(
    checkpoint: Checkpoint,
    shape: ModelConfig,
    tensors: Mapping[str, Tensor],
    asked: Questions,
    reporter: Reporter,
) -> Answers:
    """Return the answers of the checkpoint in fp32; its model is freed before this returns."""
    n_threads = torch.get_num_threads()
    model = build_model(shape, tensors, dtype=torch.float32)
    runtime = EagerRuntime(model, checkpoint.path, threads=_threads(shape))
    try:
        with reporter.task("asking the checkpoint", total=asked.n_asked) as task:
            return ask(runtime, asked, task)
    finally:
        torch.set_num_threads(n_threads)


def _threads(shape: ModelConfig) -> int:
    """Return the threads to ask with; 0 means one per core."""
    return 1 if parameters(shape).total < _ONE_THREAD else 0


def _check_tokenizer(folder: Path, source: Path) -> int:
    """Return how many tokenizer files there are. Raises CheckFailed if one is not the source's."""
    names = [name for name in TOKENIZER_FILES if (source / name).is_file()]
    for name in names:
        copy = folder / name
        if not copy.is_file() or sha256_file(copy) != sha256_file(source / name):
            raise CheckFailed(f"{copy} is not the {name} of {source}; export the artefact again")
    return len(names)
