"""How many tokens the same text takes before and after, and how much of it is spelled in bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgetiny.console import Reporter
from edgetiny.tokenizer.counts import TokenCounts
from edgetiny.tokenizer.tokenizer import Tokenizer

# Where more of the tokens are bytes or unknown, the tokenizer was not made for the script.
BARELY_COVERED = 0.1


@dataclass(frozen=True, slots=True)
class Growth:
    """Tokens of one text, or of one group of it, before and after."""

    bytes: int
    before: int
    after: int

    @property
    def share(self) -> float:
        """Tokens more, as a share of those before."""
        return self.after / self.before - 1

    def summary(self) -> dict[str, Any]:
        """Return the measures, for `console.show`."""
        return {
            "bytes": self.bytes,
            "tokens_before": self.before,
            "tokens_after": self.after,
            "tokens_per_byte_before": self.before / self.bytes,
            "tokens_per_byte_after": self.after / self.bytes,
            "token_growth": self.share,
        }


def growth_by_group(before: TokenCounts, after: TokenCounts) -> dict[str, Growth]:
    """Return the growth of each group; both counts are of the same text."""
    assert before.groups.keys() == after.groups.keys()
    return {
        name: Growth(group.bytes, group.total, after.groups[name].total)
        for name, group in before.groups.items()
    }


def growth_of_all(groups: Mapping[str, Growth]) -> Growth:
    """Return the growth of the groups together."""
    parts = groups.values()
    return Growth(
        sum(part.bytes for part in parts),
        sum(part.before for part in parts),
        sum(part.after for part in parts),
    )


def fallback_share(tokenizer: Tokenizer, counts: TokenCounts) -> dict[str, float]:
    """Return by group which share of the tokens are parts of characters, or unknown."""
    fallback = [
        index for index in range(tokenizer.vocab_size) if not _is_text(tokenizer.token_bytes(index))
    ]
    return {
        name: int(group.by_id[fallback].sum()) / group.total
        for name, group in counts.groups.items()
    }


def warn_of_uncovered_scripts(
    tokenizer: Tokenizer, counts: TokenCounts, reporter: Reporter
) -> list[str]:
    """Say in one line which groups the tokenizer barely covers; return their names."""
    shares = fallback_share(tokenizer, counts)
    barely = [name for name, share in shares.items() if share > BARELY_COVERED]
    if barely:
        figures = ", ".join(f"{name} {shares[name]:.0%}" for name in barely)
        reporter.say(
            f"warning: the tokenizer barely covers this text; parts of characters or unknown are"
            f" {figures} of the tokens; one learnt from it (compress --retrain) may serve it better"
        )
    return barely


def _is_text(content: bytes) -> bool:
    """Whether bytes are whole characters, at least one."""
    try:
        return bool(content.decode("utf-8"))
    except UnicodeDecodeError:
        return False


def growth_rows(groups: Mapping[str, Growth], names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return a mapping per group, of all groups or the named ones, for `console.show`."""
    return [{"group": name} | groups[name].summary() for name in names or groups]
