"""A bounded sample of a stream of text, spread evenly over all of it, for each of its groups."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from edgetiny.text import Document

SAMPLE_BYTES = 4 << 20
_BLOCK_CHARACTERS = 1 << 14


@dataclass(slots=True)
class _Group:
    """Every `stride`-th block of a group seen so far."""

    blocks: list[str] = field(default_factory=list)
    bytes: int = 0
    seen: int = 0
    stride: int = 1


class Sample:
    """Blocks of text from the documents that it is shown, at most so many bytes a group.

    Blocks are taken at equal distances. When they are too many, every second one goes and the
    distance doubles: at any time the sample is spread over all that was seen.
    """

    def __init__(self, limit_bytes: int = SAMPLE_BYTES) -> None:
        self._limit = limit_bytes
        self._groups: dict[str, _Group] = {}

    def add(self, document: Document) -> None:
        """See one document more."""
        group = self._groups.setdefault(document.group, _Group())
        for block in _blocks(document.text):
            if group.seen % group.stride == 0:
                group.blocks.append(block)
                group.bytes += len(block.encode("utf-8"))
                while group.bytes > self._limit and len(group.blocks) > 1:
                    group.blocks = group.blocks[::2]
                    group.stride *= 2
                    group.bytes = sum(len(kept.encode("utf-8")) for kept in group.blocks)
            group.seen += 1

    @property
    def groups(self) -> list[str]:
        """The names of the groups seen."""
        return list(self._groups)

    def texts(self, group: str) -> Sequence[str]:
        """Return the blocks of a group, in their order."""
        return self._groups[group].blocks

    def bytes(self, group: str) -> int:
        """Return the UTF-8 bytes of a group's blocks."""
        return self._groups[group].bytes


def _blocks(text: str) -> Iterator[str]:
    for start in range(0, len(text), _BLOCK_CHARACTERS):
        yield text[start : start + _BLOCK_CHARACTERS]
