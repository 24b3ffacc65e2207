"""Where two texts part, how far logits are apart, and whether the one explains the other."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interop.loaders import Logits

_BYTE = re.compile("^<0x([0-7][0-9A-F])>$")


def until_end(ids: Sequence[int], ends: Collection[int]) -> list[int]:
    """Return ids up to the first that ends a text, with it."""
    end = next((place for place, id in enumerate(ids) if id in ends), len(ids))
    return list(ids[: end + 1])


def first_difference(wanted: Sequence[Any], found: Sequence[Any]) -> int | None:
    """Return the first place where a text is another or ends; None if it is the same."""
    for place, (a, b) in enumerate(zip(wanted, found, strict=False)):
        if a != b:
            return place
    return None if len(wanted) == len(found) else min(len(wanted), len(found))


def first_unsaid(
    wanted: Sequence[int], text: str, folder: Path, ends: Collection[int]
) -> int | None:
    """Return the first of the wanted ids that a text does not hold; None if it holds just them.

    text: as ExecuTorch's LLM runner writes it, bytes above 127 by their names, since each is no
    character alone, and the id that ends it left out.
    """
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).id_to_piece(
        [id for id in wanted if id not in ends]
    )
    pieces = [_BYTE.sub(lambda found: chr(int(found[1], 16)), piece) for piece in pieces]
    texts = ["".join(pieces[:n]).replace("\u2581", " ").strip() for n in range(len(pieces) + 1)]
    if text == texts[-1]:
        return None
    return max(n for n, start in enumerate(texts) if text.startswith(start))


def compared(wanted: Logits, given: Logits) -> dict[str, float]:
    """Return error, divergence and agreement of logits (n, V), a constant of each row left out."""
    wanted, given = (x - x.mean(axis=1, keepdims=True) for x in (wanted, given))
    log_p, log_q = (x - np.logaddexp.reduce(x, axis=1, keepdims=True) for x in (wanted, given))
    return {
        "max_abs_error": float(np.abs(wanted - given).max()),
        "kl_nats": float((np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean()),
        "top1_agreement": float((wanted.argmax(1) == given.argmax(1)).mean()),
    }


def verdict(logits: Logits, at: int | None, error: float | None) -> dict[str, Any]:
    """Return where a text parts, and whether the largest logit error explains it.

    logits: (n, V) from which the wanted ids were chosen. error: None where nothing explains it.
    """
    if at is None or error is None or at >= len(logits):
        return {"first_difference": at, "gap": None, "explained": at is None}
    second, first = np.partition(logits[at], -2)[-2:]
    gap = float(first - second)
    return {"first_difference": at, "gap": gap, "explained": gap < 2 * error}


def worst(facts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the worst of each figure of `compared`."""
    return {
        "max_abs_error": max(each["max_abs_error"] for each in facts),
        "kl_nats": max(each["kl_nats"] for each in facts),
        "top1_agreement": min(each["top1_agreement"] for each in facts),
    }
