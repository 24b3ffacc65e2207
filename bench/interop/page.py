"""The page: what was the same, what was not, and by how much."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from edgetiny.device import cpu_model
from edgetiny.markdown import markdown_table
from interop.compare import worst
from interop.loaders import N_NEW
from interop.models import HEAD_NOISE, PROMPTS

PACKAGES = ("torch", "onnxruntime", "onnxruntime-genai", "optimum", "transformers", "executorch")
Row = Mapping[str, Any]


def versions() -> dict[str, str]:
    """Return the version of each loader, or that it is not here."""
    found = {name: _version(name) for name in PACKAGES}
    try:
        import llama_cpp
    except ImportError:
        return found | {"llama-cpp-python": "not here"}
    return found | {"llama-cpp-python": llama_cpp.__version__}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not here"


def markdown(result: Mapping[str, Any]) -> str:
    """Return the page of what `run.py` wrote as JSON."""
    rows = result["rows"]
    ran = [row for row in rows if "absent" not in row]
    same = sum(row["first_difference"] is None for row in ran)
    bad = sum(not row["explained"] for row in ran)
    programs = ", ".join(f"{name} {found}" for name, found in result["versions"].items())
    return "\n".join(
        [
            "# One model in every program that loads it",
            "",
            "Written by `bench/interop/run.py`.",
            "",
            f"- checkpoint `{result['checkpoint'][:16]}`: {result['shape']}, tied; GQA is the mean"
            " of neighbours; untied has a head of its own, the table with noise of"
            f" {HEAD_NOISE:.0%} of its deviation",
            f"- {programs}; {cpu_model()}, Python {platform.python_version()}",
            f"- {len(PROMPTS)} prompts, each continued greedily by {N_NEW} tokens or to the end of"
            " the text. fp32: every loader has to give the checkpoint's text, or part from it where"
            " the checkpoint's first two tokens are less than twice the largest logit error of the"
            " file apart. Quantized: every loader of a file has to give the text of the file's"
            " first loader. All: a loader's logits have to keep the divergence that verification"
            " allows the precision",
            "- figures are the worst of the prompts, of that loader's own logits on the"
            " checkpoint's text against the checkpoint in fp32; the LLM runner shows none."
            " llama.cpp keeps keys and values in fp16; int4 is rounded to the nearest",
            "",
            f"{len(ran)} texts, {same} the same, {bad} not explained;"
            f" {len(rows) - len(ran)} not run.",
            "",
            "## The models' own texts",
            "",
            *markdown_table([model_line(each) for each in result["models"]]),
            "",
            "## Loaders",
            "",
            *markdown_table(
                [loader_line(group) for group in grouped(rows, "model", "precision", "loader")]
            ),
            "",
            "## Formats of one precision, against each other",
            "",
            "The worst of all models and prompts.",
            "",
            *markdown_table(
                [pair_line(group) for group in grouped(result["pairs"], "precision", "files")]
            ),
            "",
        ]
    )


def grouped(rows: Sequence[Row], *keys: str) -> list[list[Row]]:
    """Return rows that are equal in these keys together, in the order of the first of each."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str([row[key] for key in keys]), []).append(row)
    return list(groups.values())


def model_line(model: Row) -> dict[str, str]:
    """Return how long a model's texts are, and how many ids of each are different ones."""
    return {
        "model": model["model"],
        "KV heads": str(model["num_key_value_heads"]),
        "tokens of each text": ", ".join(str(each["tokens"]) for each in model["texts"]),
        "different ones": ", ".join(str(each["distinct"]) for each in model["texts"]),
    }


def loader_line(rows: Sequence[Row]) -> dict[str, str]:
    """Return one loader's texts of one model at one precision as a line."""
    first = rows[0]
    line = {"model": first["model"], "weights": first["precision"], "loader": first["loader"]}
    if "absent" in first:
        return line | {"texts": f"not here: {first['absent']}"} | dict.fromkeys(_FIGURES, "")
    same = sum(row["first_difference"] is None for row in rows)
    what = "the checkpoint's" if first["precision"] == "fp32" else "as the file's first loader"
    parts = [_part(row) for row in rows if row["first_difference"] is not None]
    others = [f"{row['prompt']}: ANOTHER MODEL'S LOGITS" for row in rows if row.get("diverges")]
    line["texts"] = "; ".join([f"{same} of {len(rows)} {what}", *parts, *others])
    if "kl_nats" not in first:
        return line | dict.fromkeys(_FIGURES, "")
    apart = max(row["from_first_loader"] for row in rows)
    return line | figures(rows) | {_APART: f"{apart:.1e}"}


def _part(row: Row) -> str:
    gap = "" if row["gap"] is None else f", top-2 gap {row['gap']:.1e}"
    word = "explained" if row["explained"] else "NOT EXPLAINED"
    return f"{row['prompt']} parts at {row['first_difference']}{gap}: {word}"


def pair_line(rows: Sequence[Row]) -> dict[str, str]:
    """Return how far two files are apart as a line."""
    return {"weights": rows[0]["precision"], "files": " and ".join(rows[0]["files"])} | figures(
        rows
    )


def figures(rows: Sequence[Row]) -> dict[str, str]:
    """Return the worst figures of rows, for people."""
    facts = worst(rows)
    return {
        "largest logit error": f"{facts['max_abs_error']:.1e}",
        "KL, nats": f"{facts['kl_nats']:.1e}",
        "same likeliest": f"{100 * facts['top1_agreement']:.0f}%",
    }


_APART = "largest, from the file's first loader"
_FIGURES = ("largest logit error", "KL, nats", "same likeliest", _APART)
