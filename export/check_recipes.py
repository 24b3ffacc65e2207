"""Load every table of every recipe in export/recipes; exit 1 if one would be refused.

    python export/check_recipes.py [--run [NAME ...]]

With --run each recipe (or those named) also exports a small random model, calibrated on Python's
own docstrings where it asks for text. That verifies it, and it is measured shortly where the recipe
says how. Recipes whose packages are missing are left out.
"""

import sys
import tempfile
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path

from edgetiny.config.base import Config
from edgetiny.config.export import ExportConfig
from edgetiny.config.run import BenchConfig
from edgetiny.config.stages import STAGES
from edgetiny.console import QUIET
from edgetiny.errors import ConfigError, EdgetinyError
from edgetiny.files import atomic_folder

RECIPES = Path(__file__).with_name("recipes")
VOCABULARY = 2048
PATHS_OF_THE_USER = {
    "source",
    "checkpoint",
    "artefact",
    "against",
    "data",
    "text",
    "tokenizer",
    "out",
}


def given_by_flags(config: type[Config], table: dict[str, object]) -> dict[str, object]:
    """Return stand-ins for the required paths that a recipe leaves to the command line."""
    return {
        spec.name: [spec.name] if spec.name == "text" else spec.name
        for spec in fields(config)
        if spec.default is MISSING and spec.name not in table and spec.name in PATHS_OF_THE_USER
    }


def check(path: Path) -> list[str]:
    """Return the names of the tables that load. Raises ConfigError at the first that does not."""
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    if not tables:
        raise ConfigError(f"{path} has no table")
    for stage, table in tables.items():
        if stage not in STAGES:
            raise ConfigError(f"{path}: unknown table [{stage}]")
        STAGES[stage].load(path, given_by_flags(STAGES[stage], table))
    return list(tables)


def small_model(folder: Path, text: Path) -> Path:
    """Write a random model of half a million parameters and a tokenizer for it; return it."""
    from edgetiny.checkpoint import ModelConfig, write_checkpoint
    from edgetiny.config.tokenizer import TokenizerTrainConfig
    from edgetiny.init import RandomTensors
    from edgetiny.tokenizer.train import run as train_tokenizer

    tokenizer = folder.with_name("tokenizer")
    train_tokenizer(TokenizerTrainConfig(text=(text,), out=tokenizer, vocab_size=VOCABULARY))
    shape = ModelConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
        bos_token_id=1,
        eos_token_ids=(2,),
    )
    tensors = RandomTensors(shape, std=0.1, seed=0)
    with atomic_folder(folder) as out:
        write_checkpoint(
            out, shape, tensors, stage="init", settings={}, parent=None, tokenizer=tokenizer
        )
    return folder


def run(path: Path, source: Path, text: Path) -> str:
    """Export, verify and measure what a recipe describes; return what came of it."""
    # Loading recipes alone needs no torch.
    from edgetiny.bench import stage as bench
    from edgetiny.export import stage as export

    out = source.with_name(f"{path.stem}-unverified")
    flags = {"source": source, "out": out, "context": 64}
    asked = ExportConfig.load(path, flags)
    if asked.kv == "int8" or asked.method == "gptq":
        flags["calibration_text"] = text
    try:
        artefact = export.run(ExportConfig.load(path, flags)).artefact
    except ModuleNotFoundError as error:
        return f"left out: {error.name} is not installed"
    sizes = f"{artefact.size_bytes:,} bytes, verified: {artefact.models[0].verified}"
    if "bench" not in tomllib.loads(path.read_text(encoding="utf-8")):
        return sizes
    flags = {"source": out, "prompt_tokens": 2, "new_tokens": 30, "repeats": 1, "threads": 1}
    result = bench.run(BenchConfig.load(path, flags))
    speeds = [f"{row['tok_per_s_summed']['median']:.0f}" for row in result.document()["rows"]]
    return f"{sizes}, {' and '.join(speeds)} tok/s on one thread"


def main() -> int:
    """Check all recipes, or those named, one line each."""
    words = sys.argv[1:]
    paths = sorted(RECIPES.glob("*.toml"))
    failed = not paths
    with tempfile.TemporaryDirectory(prefix="edgetiny-") as name:
        text = Path(name) / "text.jsonl"
        source = None
        if "--run" in words:
            from edgetiny.demo.embedded import write_embedded_text

            write_embedded_text(text, QUIET, 500_000)
            source = small_model(Path(name) / "source", text)
        named = [word for word in words if word != "--run"]
        for path in paths:
            if named and path.stem not in named:
                continue
            failed |= not check_one(path, source, text)
    return int(failed)


def check_one(path: Path, source: Path | None, text: Path) -> bool:
    """Check a recipe, and run it if there is a model; print one line and return whether it did."""
    try:
        tables = ", ".join(check(path))
        done = "" if source is None else f"; {run(path, source, text)}"
    except (EdgetinyError, tomllib.TOMLDecodeError) as error:
        print(f"{path.name}: {error}", file=sys.stderr)
        return False
    print(f"{path.name}: {tables}{done}", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
