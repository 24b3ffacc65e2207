"""`edgetiny compare`: two result files row by row, as ratios with intervals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from edgetiny.bench.interval import Interval, ratio_of_samples, reached_by
from edgetiny.bench.result import read_result
from edgetiny.config.compare import CompareConfig
from edgetiny.console import QUIET, Reporter
from edgetiny.errors import DataError
from edgetiny.files import atomic_file, refuse_existing
from edgetiny.markdown import markdown_table

Row = Mapping[str, Any]
Key = tuple[tuple[str, Any], ...]

# What was measured. Rows that differ in any of these say nothing about each other.
_SHAPE = (
    *("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "vocab_size", "tie_word_embeddings"),
)
_SAME = (
    *("runtime", "device", "precision", "kv_dtype"),
    *("n_batch", "n_prompt", "n_gen", "n_depth"),
)
_MACHINE = ("cpu_info", "n_threads")
_SAMPLES = ("samples_ns", "ttft_ms", "decode_tok_per_s_summed", "peak_rss_bytes", "valid", "doubts")


@dataclass(frozen=True, kw_only=True, slots=True)
class RowComparison:
    """Two rows of one kind, second over first; None where a file does not hold what is needed.

    A ratio without an interval is a number: that of one repeat on either side.
    decode_tok_per_s: more is better; ttft and peak_rss: less is better.
    reached: the confidence that the repeats give an interval; is_sure: whether it is what was
    asked for. Where it is less nothing is called faster or slower.
    """

    name: str
    decode_tok_per_s: Interval | float | None
    ttft: Interval | float | None
    peak_rss: float | None
    n_repeats: tuple[int, int]
    reached: float
    is_sure: bool

    @property
    def differs(self) -> bool:
        """Whether an interval leaves 1 out, at the confidence that was reached."""
        found = (self.decode_tok_per_s, self.ttft)
        return any(isinstance(each, Interval) and not each.is_tie for each in found)

    def cells(self) -> dict[str, Any]:
        """Return the row of a table."""
        return {
            "row": self.name,
            "decode_tok_per_s": self._cell(self.decode_tok_per_s, "faster", "slower"),
            "ttft": self._cell(self.ttft, "longer", "shorter"),
            "peak_rss": "-" if self.peak_rss is None else f"{self.peak_rss:.3f}",
            "repeats": f"{self.n_repeats[0]} and {self.n_repeats[1]}",
        }

    def _cell(self, found: Interval | float | None, more: str, less: str) -> str:
        if found is None:
            return "-"
        if isinstance(found, float):
            return f"{found:.3f}"
        if found.is_tie:  # more so with more confidence
            return f"{found.text} tie"
        if not self.is_sure:
            return f"{found.text} at {self.reached:.0%}"
        return f"{found.text} {more if found.ratio > 1 else less}"


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareResult:
    """All rows of two files: those that match, and those that stand alone."""

    first: str
    second: str
    confidence: float
    rows: list[RowComparison]
    only_first: list[str]
    only_second: list[str]
    notes: list[str]

    def summary(self) -> dict[str, Any]:
        """Return what the command line prints."""
        alone = [{"file": self.first, "row": name} for name in self.only_first]
        alone += [{"file": self.second, "row": name} for name in self.only_second]
        shown: dict[str, Any] = {
            "first": self.first,
            "second": self.second,
            "ratio": "second over first, the median over all pairs of repeats;"
            f" {self.confidence:.0%} interval of the rank sum test, a tie if it includes 1; one"
            " value has none",
        }
        shown |= {"note": "; ".join(self.notes)} if self.notes else {}
        shown["compared"] = [row.cells() for row in self.rows]
        return shown | ({"without_a_match": alone} if alone else {})

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [f"{self.second} over {self.first}; {self.confidence:.0%} intervals.", ""]
        lines += [*markdown_table([row.cells() for row in self.rows]), ""]
        lines += [f"Only in {self.first}: {name}." for name in self.only_first]
        lines += [f"Only in {self.second}: {name}." for name in self.only_second]
        return "\n".join([*lines, *self.notes]).rstrip() + "\n"


def run(config: CompareConfig, reporter: Reporter = QUIET) -> CompareResult:
    """Compare two result files and write the table to --markdown, if given.

    Raises DataError for a file that is no result or is newer, two machines without
    --across-machines, and files without a row in common.
    """
    if config.markdown is not None:
        refuse_existing(config.markdown, overwrite=config.overwrite)
    first, second = _by_key(config.first), _by_key(config.second)
    shared = [key for key in first if key in second]
    if not shared:
        raise DataError(
            f"no row of {config.first} was measured as one of {config.second} was: model shape,"
            " runtime, precision, device, batch and tokens have to be the same"
        )
    notes = _other_machines(config, [(first[key], second[key]) for key in shared])
    rows = [_compare(key, first[key], second[key], config.confidence) for key in shared]
    notes += _too_few(rows, config.confidence)
    notes += _doubtful(config.first, [row for key in shared for row in first[key]])
    notes += _doubtful(config.second, [row for key in shared for row in second[key]])
    result = CompareResult(
        first=str(config.first),
        second=str(config.second),
        confidence=config.confidence,
        rows=rows,
        only_first=[_name(key) for key in first if key not in second],
        only_second=[_name(key) for key in second if key not in first],
        notes=notes,
    )
    if config.markdown is not None:
        with atomic_file(config.markdown) as path:
            path.write_text(result.markdown(), encoding="utf-8")
    return result


def _by_key(path: Path) -> dict[Key, list[Row]]:
    """Return rows by what they measured; the same measured twice is more repeats of it.

    Raises DataError if two models of one kind would be taken for repeats of one.
    """
    found: dict[Key, list[Row]] = {}
    for row in read_result(path):
        try:
            key = tuple((name, row["model"][name]) for name in _SHAPE)
            key += tuple((name, row[name]) for name in _SAME)
            _ = [row[name] for name in (*_MACHINE, *_SAMPLES)]
        except KeyError as error:
            raise DataError(f"a row of {path} lacks {error}; measure it again") from error
        found.setdefault(key, []).append(row)
    for key, rows in found.items():
        models = {(row["model_filename"], row.get("model_sha256")): row for row in rows}
        if len(models) > 1:
            names = " and ".join(row["model_filename"] for row in models.values())
            raise DataError(
                f"{path} has {names}, both {_name(key)}: they are no repeats of one another;"
                " measure each into a file of its own"
            )
    return found


def _name(key: Key) -> str:
    facts = dict(key)
    depth = f" at {facts['n_depth']}" if facts["n_depth"] else ""
    return (
        f"{facts['num_hidden_layers']}x{facts['hidden_size']}, {facts['num_key_value_heads']} of"
        f" {facts['num_attention_heads']} heads, {facts['runtime']} {facts['precision']}"
        f" {facts['device']}, batch {facts['n_batch']}, {facts['n_prompt']}+{facts['n_gen']}{depth}"
    )


def _other_machines(
    config: CompareConfig, pairs: Sequence[tuple[Sequence[Row], Sequence[Row]]]
) -> list[str]:
    """Return a note if the machines differ and that was allowed. Raises DataError if it was not."""
    machines = [
        {
            (row.get("gpu_info") or row["cpu_info"], row["n_threads"])
            for pair in pairs
            for row in pair[side]
        }
        for side in (0, 1)
    ]
    if machines[0] == machines[1] and len(machines[0]) == 1:
        return []
    first, second = (
        " or ".join(f"{chip} with {threads} threads" for chip, threads in sorted(found))
        for found in machines
    )
    where = f"{config.first} is of {first}, {config.second} of {second}"
    if not config.across_machines:
        raise DataError(
            f"{where}: their speeds compare machines, not programs; give --across-machines if that"
            " is what you want"
        )
    return [f"{where}: the ratios compare machines too"]


def _doubtful(path: Path, rows: Sequence[Row]) -> list[str]:
    """Return a note if compared rows are not valid: their speeds may be the company's."""
    bad = [row for row in rows if not row["valid"]]
    if not bad:
        return []
    why = "; ".join(dict.fromkeys(doubt for row in bad for doubt in row["doubts"]))
    return [f"{len(bad)} of {len(rows)} rows of {path} are not valid ({why}): measure them again"]


def _too_few(rows: Sequence[RowComparison], confidence: float) -> list[str]:
    """Return a note if more repeats may tell a difference with the confidence: how many."""
    few = [row for row in rows if not row.is_sure and row.differs]
    if not few:
        return []
    enough = next(n for n in count(2) if reached_by(n, n) >= confidence)
    return [
        f"{len(few)} of {len(rows)} rows differ, by too few repeats for {confidence:.0%}: measure"
        f" both sides with --repeats {enough} or more"
    ]


def _compare(
    key: Key, first: Sequence[Row], second: Sequence[Row], confidence: float
) -> RowComparison:
    peaks = [max(row["peak_rss_bytes"] or 0 for row in rows) for rows in (first, second)]
    n_repeats = (_n_repeats(first), _n_repeats(second))
    reached = reached_by(*n_repeats)
    return RowComparison(
        name=_name(key),
        decode_tok_per_s=_interval(decode_rates, first, second, confidence),
        ttft=_interval(ttfts, first, second, confidence),
        peak_rss=peaks[1] / peaks[0] if all(peaks) else None,
        n_repeats=n_repeats,
        reached=reached,
        is_sure=reached >= confidence,
    )


def _n_repeats(rows: Sequence[Row]) -> int:
    return sum(len(row["samples_ns"]) for row in rows)


def _interval(
    values: Callable[[Row], list[float] | None],
    first: Sequence[Row],
    second: Sequence[Row],
    confidence: float,
) -> Interval | float | None:
    samples: list[list[float]] = []
    for rows in (first, second):
        known = [each for each in map(values, rows) if each is not None]
        if len(known) < len(rows):
            return None
        samples.append([value for each in known for value in each])
    found, _ = ratio_of_samples(samples[0], samples[1], confidence)
    # One sample shows no spread.
    return found if min(map(len, samples)) > 1 else found.ratio


def ttfts(row: Row) -> list[float] | None:
    """Return the time to the first token of each repeat in ms; None if the row has no samples."""
    if "samples_ttft_ns" in row:
        return [sample / 1e6 for sample in row["samples_ttft_ns"]]
    return _from_spread(row["ttft_ms"], len(row["samples_ns"]))


def decode_rates(row: Row) -> list[float] | None:
    """Return the decode tokens a second of each repeat, summed over the batch; None if unknown."""
    if "samples_ttft_ns" in row:
        n_tokens = row["n_batch"] * (row["n_gen"] - 1)
        pairs = zip(row["samples_ns"], row["samples_ttft_ns"], strict=True)
        return [1e9 * n_tokens / (total - ttft) for total, ttft in pairs]
    return _from_spread(row["decode_tok_per_s_summed"], len(row["samples_ns"]))


def _from_spread(found: Mapping[str, float], n_samples: int) -> list[float] | None:
    """Return up to three samples from their median, p10 and p90, which hold all of them.

    Of three sorted values p10 lies a fifth of the way from the first to the second.
    """
    middle = found["median"]
    if n_samples == 1:
        return [middle]
    if n_samples > 3:
        return None
    if n_samples == 2:
        half = (found["p90"] - found["p10"]) / 0.8 / 2
        return [middle - half, middle + half]
    low = (found["p10"] - 0.2 * middle) / 0.8
    return [low, middle, (found["p90"] - 0.2 * middle) / 0.8]
