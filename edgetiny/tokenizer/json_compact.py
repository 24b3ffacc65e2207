"""A `tokenizer.json` with fewer pieces: all else as it stands, in new ids."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgetiny.tokenizer.json_file import JsonFile, flat, split_merge


def keep_tokens(file: JsonFile, kept: Sequence[int]) -> dict[str, Any]:
    """Return the file with the tokens of the given ids, in that order.

    A merge stays if its parts and their join all stay. kept: every added token must be in it.
    """
    new = {old: index for index, old in enumerate(kept)}
    vocab = {piece: new[old] for piece, old in file.vocab.items() if old in new}
    merges = [merge for merge in file.model["merges"] if _is_kept(merge, vocab)]
    added = [token | {"id": new[old]} for old, token in file.added.items()]
    vocab |= _misnumbered(vocab, added)
    model = {
        "vocab": dict(sorted(vocab.items(), key=lambda item: item[1])),
        "merges": merges,
    }
    changed: dict[str, Any] = {
        "added_tokens": sorted(added, key=lambda token: int(token["id"])),
        "model": file.model | model,
    }
    if file.payload.get("post_processor") is not None:
        changed["post_processor"] = _renumbered(file.payload["post_processor"], new)
    if file.payload.get("padding") is not None:
        padding = file.payload["padding"]
        changed["padding"] = padding | {"pad_id": new[padding["pad_id"]]}
    return file.payload | changed


def post_processor_ids(payload: Mapping[str, Any]) -> set[int]:
    """Return the ids that are put around a text or pad it."""
    found = {index for step in flat(payload.get("post_processor")) for index in _named_ids(step)}
    if payload.get("padding") is not None:
        found.add(payload["padding"]["pad_id"])
    return found


def _is_kept(merge: str | list[str], vocab: Mapping[str, int]) -> bool:
    left, right = split_merge(merge)
    return left in vocab and right in vocab and left + right in vocab


def _misnumbered(vocab: Mapping[str, int], added: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the added tokens that the library would give other ids.

    It numbers those that the model does not hold from the size of the model's vocabulary on; so
    in a vocabulary with gaps they must be put into the model.
    """
    outside = {token["content"]: token["id"] for token in added if token["content"] not in vocab}
    is_next = list(outside.values()) == list(range(len(vocab), len(vocab) + len(outside)))
    return {} if is_next else outside


def _named_ids(step: Mapping[str, Any]) -> Iterator[int]:
    for token in (step.get("special_tokens") or {}).values():
        yield from token["ids"]
    for key in ("sep", "cls"):
        if key in step:
            yield step[key][1]


def _renumbered(step: Mapping[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
    """Return a post-processor with the new ids of the tokens that it puts around a text."""
    changed: dict[str, Any] = dict(step)
    if step["type"] == "Sequence":
        changed["processors"] = [_renumbered(part, new) for part in step["processors"]]
    if step.get("special_tokens"):
        changed["special_tokens"] = {
            name: token | {"ids": [new[index] for index in token["ids"]]}
            for name, token in step["special_tokens"].items()
        }
    for key in ("sep", "cls"):
        if key in step:
            changed[key] = [step[key][0], new[step[key][1]]]
    return changed
