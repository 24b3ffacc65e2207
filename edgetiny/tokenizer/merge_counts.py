"""`edgetiny tokenizer merge-counts`: counts from many machines, added up."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetiny.config.tokenizer import TokenizerMergeCountsConfig
from edgetiny.console import QUIET, Reporter
from edgetiny.errors import ConfigError, DataError
from edgetiny.files import refuse_existing
from edgetiny.tokenizer.counts import TokenCounts, add_up, read_counts, write_counts


@dataclass(frozen=True, kw_only=True, slots=True)
class CountsResult:
    """Counts, and the file that they were written to."""

    path: Path
    counts: TokenCounts

    def summary(self) -> dict[str, Any]:
        """Return the totals and a row per group."""
        return {
            "counts": str(self.path),
            "vocab_size": len(self.counts.by_id),
            "documents": self.counts.documents,
            "bytes": self.counts.bytes,
            "tokens": self.counts.total,
            "tokens_per_byte": self.counts.total / self.counts.bytes,
            "groups": self.counts.rows(),
        }


def run(config: TokenizerMergeCountsConfig, reporter: Reporter = QUIET) -> CountsResult:
    """Write the sum of counts files. Raises DataError if they are not of one tokenizer."""
    refuse_existing(config.out, overwrite=config.overwrite)
    if len(set(config.counts)) < len(config.counts):
        raise ConfigError("a counts file is named twice; its text would count double")
    files = [read_counts(path) for path in config.counts]
    first = files[0]
    for file in files[1:]:
        if file.tokenizer_sha256 != first.tokenizer_sha256:
            raise DataError(
                f"{first.path} and {file.path} are counts of different tokenizers (sha256"
                f" {first.tokenizer_sha256[:12]} and {file.tokenizer_sha256[:12]}); merge each"
                " tokenizer's own"
            )
        if len(file.counts.by_id) != len(first.counts.by_id):
            raise DataError(f"{file.path} is damaged: its vocab_size is not {first.path}'s")
    counts = add_up(file.counts for file in files)
    write_counts(config.out, counts, first.tokenizer_sha256)
    return CountsResult(path=config.out, counts=counts)
