"""One model at one precision in every loader, as rows."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgetiny.artefact import Artefact
from edgetiny.export.parity import limits_of
from interop.compare import compared, first_difference, first_unsaid, until_end, verdict
from interop.loaders import LOADERS, Logits, Prompt

Row = dict[str, Any]


def measured(
    folders: Mapping[str, Path], prompt: Prompt, precision: str, ends: set[int]
) -> tuple[list[Row], list[Row]]:
    """Return a row per loader of one prompt, and one per pair of files.

    At fp32 every loader has to give the checkpoint's text; of a quantized file, the text of the
    file's first loader. Whatever its text, a loader whose logits diverge from the checkpoint's by
    more than verification allows the precision runs another model: nothing explains that.
    """
    limit = limits_of(precision, "fp16").kl_nats  # llama.cpp keeps its cache in fp16
    rows: list[Row] = []
    logits: dict[str, Logits] = {}
    texts: dict[str, list[int]] = {}
    promised = {file: promised_loaders(folder) for file, folder in folders.items()}
    for loader in LOADERS:
        folder = folders[loader.file]
        row: Row = {"precision": precision, "loader": loader.name, "file": loader.file}
        row |= {"prompt": prompt.name, "tokens": len(prompt.wanted)}
        if loader.package and loader.package not in promised[loader.file]:
            rows.append(row | {"absent": f"the manifest does not promise {loader.package}"})
            continue
        try:
            found = loader.greedy(folder, prompt)
        except ImportError as error:
            rows.append(row | {"absent": str(error)})
            continue
        if loader.logits is not None:
            given = loader.logits(folder, prompt)
            first = logits.setdefault(loader.file, given)
            row |= compared(prompt.logits, given)
            row["from_first_loader"] = float(np.abs(given - first).max())
            row["diverges"] = not row["kl_nats"] <= limit
        if not isinstance(found, str):
            found = until_end(found, ends)
            texts.setdefault(loader.file, prompt.wanted if precision == "fp32" else found)
        wanted = texts[loader.file]
        at = (
            first_unsaid(wanted, found, folder, ends)
            if isinstance(found, str)
            else first_difference(wanted, found)
        )
        most = compared(prompt.logits, logits[loader.file])["max_abs_error"]
        row |= verdict(prompt.logits, at, most if precision == "fp32" else None)
        row["explained"] &= not row.get("diverges", False)
        rows.append(row)
    return rows, pairs_of(logits, precision, prompt)


def promised_loaders(folder: Path) -> set[str]:
    """Return the programs that an artefact's manifest says load one of its files."""
    return {name for model in Artefact.open(folder).models for name in model.loaders}


def pairs_of(logits: Mapping[str, Logits], precision: str, prompt: Prompt) -> list[Row]:
    """Return how far each two files of one precision are apart."""
    return [
        {"precision": precision, "prompt": prompt.name, "files": [a, b]} | compared(x, y)
        for (a, x), (b, y) in itertools.combinations(logits.items(), 2)
    ]
