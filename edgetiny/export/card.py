"""The model card of an artefact: `README.md`, with the measured table and how to run each file."""

from collections.abc import Mapping
from typing import Any

from edgetiny.artefact import ModelFile
from edgetiny.checkpoint import ModelConfig
from edgetiny.export.verify import ModelVerification, Verification
from edgetiny.markdown import markdown_table

_RUN = {
    "onnx": "edgetiny generate . --runtime onnx --prompt '...'",
    "executorch": "edgetiny generate . --runtime executorch --prompt '...'",
    "gguf": "llama-cli -m {file} -p '...'   # llama.cpp",
}


def model_card(name: str, manifest: Mapping[str, Any], config: ModelConfig, v: Verification) -> str:
    """Return the card as Markdown. It holds no date and no path of the machine that exported."""
    lines = [
        f"# {name}",
        "",
        f"A decoder of {manifest['parameters']:,} parameters: {config.num_hidden_layers} layers of"
        f" {config.hidden_size}, {config.num_attention_heads} query and"
        f" {config.num_key_value_heads} key/value heads, a vocabulary of {config.vocab_size:,}."
        f" Exported by edgetiny {manifest['versions']['edgetiny']} from the checkpoint"
        f" `{manifest['source_sha256'][:16]}`.",
        "",
        "## Files",
        "",
        *markdown_table([_file_row(each.model, manifest["files"]) for each in v.models]),
        "",
        "## Measured",
        "",
        f"Each file against the checkpoint in fp32, on: {v.text}. Bits per byte are of the last of"
        " these texts, of all that were given if those are several. `verification.json` has every"
        " figure and limit.",
        "",
        *markdown_table([_measured_row(each) for each in v.models]),
        "",
        "## Run",
        "",
        "```",
        *dict.fromkeys(_RUN[each.model.format].format(file=each.model.name) for each in v.models),
        "```",
    ]
    return "\n".join(lines) + "\n"


def _file_row(model: ModelFile, files: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    size = sum(files[name]["bytes"] for name in model.files)
    return {
        "file": f"`{model.name}`",
        "format": f"{model.format} ({model.layout})",
        "precision": model.precision,
        "cache": model.kv_dtype,
        "batch": "any" if model.max_batch is None else str(model.batch),
        "context": str(model.context),
        "bytes": f"{size:,}",
    }


def _measured_row(each: ModelVerification) -> dict[str, str]:
    row = {"file": f"`{each.model.name}`", "engine": "not run: not verified"}
    names = ("KL, nats", "same likeliest token", "bits per byte", "checkpoint's")
    if each.parity is None or each.engine is None:
        return row | dict.fromkeys(names, "-")
    logits, scores = each.parity.logits, each.parity.scores[-1]
    figures = (
        f"{logits['mean_kl_nats']:.1e}",
        f"{100 * logits['top1_agreement']:.1f}%",
        f"{scores['bits_per_byte']:.4f}",
        f"{scores['checkpoint_bits_per_byte']:.4f}",
    )
    row["engine"] = f"{each.engine.name} {each.engine.version}, {each.engine.threads} threads"
    return row | dict(zip(names, figures, strict=True))
