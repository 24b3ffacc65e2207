"""Which documents are held out: whole works, so that no work is on both sides."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from edgetiny.text import Document, work_of

_HASH_RANGE = 1 << 64
# Of more works than this a share by hash alone is close enough to the share of the bytes.
_WORKS_REMEMBERED = 4096


@dataclass(slots=True)
class _Group:
    """What a first reading finds out about a group of documents."""

    bytes: int = 0
    works: dict[int, int] = field(default_factory=dict)
    """Bytes by hash of work, of the first works only."""
    held_out: frozenset[int] | None = None
    """Hashes of the works that are held out, once chosen."""


class Holdout:
    """A split into training and held-out documents; read the documents first with `survey`.

    Of the works no longer than the given fraction of the group's bytes, those first in the order
    of their hashes with the seed are held out, until another would lead away from the fraction:
    so the share is what was asked for, and often of several works rather than of one long one. If
    all are longer, the shortest is held out. Of a group with a great many works, those whose hash
    falls into the fraction are. A group that is a single work has its tail held out instead. A
    document without a source is a work itself.
    """

    def __init__(self, fraction: float, seed: int) -> None:
        self.fraction = fraction
        self.seed = seed
        self._groups: dict[str, _Group] = {}

    def survey(self, documents: Iterable[Document]) -> None:
        """Take note of the works of all documents and of their sizes."""
        for document in documents:
            group = self._groups.setdefault(document.group, _Group())
            work, n_bytes = self._hash(document), len(document.text.encode("utf-8"))
            group.bytes += n_bytes
            group.held_out = None
            if work in group.works or len(group.works) < _WORKS_REMEMBERED:
                group.works[work] = group.works.get(work, 0) + n_bytes

    def rules(self) -> dict[str, str]:
        """Return how each group is split: `works`, `tail` (a single work) or `none`."""
        return {name: self._rule(group) for name, group in self._groups.items()}

    def split(self, documents: Iterable[Document]) -> Iterator[tuple[Document, bool]]:
        """Yield each document with whether it is held out; the same documents as surveyed.

        The document in which the tail of a single work begins is cut in two, at a line end if
        there is one.
        """
        done = dict.fromkeys(self._groups, 0)
        for document in documents:
            group = self._groups[document.group]
            if self._rule(group) == "tail":
                yield from self._split_tail(document, done[document.group])
                done[document.group] += len(document.text.encode("utf-8"))
            else:
                yield document, self._is_held_out(group, self._hash(document))

    def _hash(self, document: Document) -> int:
        is_work = document.source is None
        work = document.text if is_work else work_of(document.source or "")
        key = f"{self.seed} {'text' if is_work else 'work'} {work}".encode()
        return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")

    def _is_held_out(self, group: _Group, work: int) -> bool:
        if len(group.works) >= _WORKS_REMEMBERED:
            return work < self.fraction * _HASH_RANGE
        if group.held_out is None:
            group.held_out = self._chosen(group)
        return work in group.held_out

    def _rule(self, group: _Group) -> str:
        if self.fraction == 0:
            return "none"
        return "works" if len(group.works) > 1 else "tail"

    def _chosen(self, group: _Group) -> frozenset[int]:
        """Return the works that are held out: at least one, but not all of several."""
        if self.fraction == 0:
            return frozenset()
        budget = self.fraction * group.bytes
        left = budget
        chosen: set[int] = set()
        for work, n_bytes in sorted(group.works.items()):
            if n_bytes > budget:
                continue
            if n_bytes > 2 * left or len(chosen) == len(group.works) - 1:
                break
            chosen.add(work)
            left -= n_bytes
        shortest = min(group.works, key=lambda work: (group.works[work], work))
        return frozenset(chosen or {shortest})

    def _split_tail(self, document: Document, done: int) -> Iterator[tuple[Document, bool]]:
        n_bytes = len(document.text.encode("utf-8"))
        boundary = self._groups[document.group].bytes * (1 - self.fraction) - done
        if boundary <= 0 or boundary >= n_bytes:
            yield document, boundary <= 0
            return
        cut = cut_near(document.text, boundary / n_bytes)
        head, tail = document.text[:cut], document.text[cut:]
        for text, is_held_out in ((head, False), (tail, True)):
            if text:
                yield replace(document, text=text), is_held_out


def cut_near(text: str, share: float) -> int:
    """Return where to cut a text in two so that the first part is about `share` of its bytes.

    After a line end if one lies near, else after a space, else between any two characters; the
    length of the text if nothing but blanks would follow.
    """
    head = text.encode("utf-8")[: int(share * len(text.encode("utf-8")))]
    aim = max(1, len(head.decode("utf-8", errors="ignore")))
    near = max(1, min(aim, len(text) - aim) // 2)
    for mark in ("\n", " "):
        after = text.find(mark, aim, aim + near) + 1
        cut = after or text.rfind(mark, max(0, aim - near), aim) + 1
        if cut and text[cut:].strip():
            return cut
    return aim if text[aim:].strip() else len(text)
