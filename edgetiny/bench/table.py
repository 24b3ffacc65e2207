"""Rows of a result for a person: a column per row for few rows of one model, else a line each."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgetiny.bench.launch_cost import differing
from edgetiny.markdown import markdown_table

Row = Mapping[str, Any]

# More columns than a terminal shows.
_COLUMNS_AT_MOST = 4


def table(rows: Sequence[Row]) -> dict[str, Any]:
    """Return what `console.show` prints: facts that all rows share, the rows, and doubts."""
    is_one_model = len({str(row["model"]) + row["model_filename"] for row in rows}) == 1
    if is_one_model and len(rows) <= _COLUMNS_AT_MOST:
        return _columns(rows)
    return shared_facts(rows) | {"results": _narrow(rows)} | _doubts(rows)


def _columns(rows: Sequence[Row]) -> dict[str, Any]:
    """Return facts that all rows share, then one column a row."""
    first = rows[0]
    model = first["model"]
    shared = {
        "model": f"{first['model_filename']}: {model['num_hidden_layers']} layers x"
        f" {model['hidden_size']}, {first['model_n_params'] / 1e6:.1f}M parameters,"
        f" {first['model_size'] / 1e6:.0f} MB",
    } | shared_facts(rows)
    names = [_name(row, rows) for row in rows]
    cells = [_line(label, names, [cell(row) for row in rows]) for label, cell in _LINES]
    kept = [line for line in cells if any(line[name] != "-" for name in names)]
    return shared | {"results": kept} | _doubts(rows)


def shared_facts(rows: Sequence[Row]) -> dict[str, Any]:
    """Return what a table's head says: facts that all of its rows share."""
    facts: dict[str, Callable[[Row], str]] = {
        "runs_in": lambda row: (
            f"{row['runtime']}, {row['precision']} weights, {row['kv_dtype']} cache"
        ),
        "device": lambda row: (
            f"{row['device']}: {row.get('gpu_info', row['cpu_info'])}, {row['n_threads']} threads"
        ),
        "protocol": lambda row: (
            f"{row['n_gen']} new tokens after {row['n_prompt']}, greedy, no"
            f" stop at EOS; median of {row['protocol']['repeats']} runs (10% to 90%)"
        ),
        "commit": lambda row: row["build_commit"],
    }
    found = {name: {fact(row) for row in rows} for name, fact in facts.items()}
    return {name: values.pop() for name, values in found.items() if len(values) == 1}


def lines(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Return one line per row; columns that say nothing about any row are left out."""
    table = [{name: cell(row) for name, cell in _CELLS.items()} for row in rows]
    said = [
        name
        for name in _CELLS
        if any(line[name] != "-" for line in table)
        and (name not in _IN_THE_HEAD or len({line[name] for line in table}) > 1)
    ]
    return [{name: line[name] for name in said} for line in table]


def _narrow(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Return lines that a terminal has room for: what differs among rows, and the chief figures."""
    names = {name for name in _IDENTITY if len({_CELLS[name](row) for row in rows}) > 1}
    names |= {"model", *_CHIEF}
    return [
        {name: value for name, value in line.items() if name in names}
        | {"MBU": "in cache" if row["roofline"]["in_cache"] else f"{row['roofline']['mbu']:.0%}"}
        for line, row in zip(lines(rows), rows, strict=True)
    ]


def markdown(rows: Sequence[Row]) -> str:
    """Return facts and rows as Markdown."""
    head = [f"- {name.replace('_', ' ')}: {fact}" for name, fact in shared_facts(rows).items()]
    body = markdown_table(lines(rows))
    doubts = [f"- {name}: {doubt}" for name, doubt in _doubts(rows).get("doubts", {}).items()]
    return "\n".join([*head, "", *body, *([""] if doubts else []), *doubts]) + "\n"


def _doubts(rows: Sequence[Row]) -> dict[str, Any]:
    doubts = {
        f"{row['model_filename']}, {_name(row, rows)}, is not valid": "; ".join(row["doubts"])
        for row in rows
        if not row["valid"]
    }
    return {"doubts": doubts} if doubts else {}


def _name(row: Row, rows: Sequence[Row]) -> str:
    """Return what tells a row from the others: its batch, and what else differs among them."""
    parts = [
        str(row[key]) for key in ("runtime", "precision") if len({other[key] for other in rows}) > 1
    ]
    if len({other["n_depth"] for other in rows}) > 1:
        parts.append(f"context {row['n_depth']}")
    return ", ".join([" ".join([*parts, f"batch {row['n_batch']}"]), *differing(row, rows)])


def _line(label: str, names: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    return {"measure": label} | dict(zip(names, cells, strict=True))


def _with_spread(value: Mapping[str, float]) -> str:
    return f"{value['median']:.4g} ({value['p10']:.4g} to {value['p90']:.4g})"


def _steps(row: Row) -> str:
    return " / ".join(f"{value:.3g}" for value in row["step_ms"].values())


def _bound(row: Row) -> str:
    bound = row["roofline"]
    return f"{bound['predicted_step_ms']:.3g} ({bound['limited_by']})"


def _share(row: Row) -> str:
    bound = row["roofline"]
    where = ", in cache" if bound["in_cache"] else ""
    return f"{bound['mbu']:.1%} of {bound['read_bytes_per_s'] / 1e9:.1f} GB/s{where}"


def _text(row: Row) -> str:
    rate = row.get("text_bytes_per_s_summed")
    return "-" if rate is None else f"{rate:,.0f} ({row['bytes_per_token']:.2f} a token)"


def _memory(row: Row) -> str:
    peak, before = row["peak_rss_bytes"], row["rss_before_load_bytes"]
    own = "" if before is None else f" ({before / 1e6:.0f} before the model)"
    return f"{peak / 1e6:.0f}{own}"


def _warm_up(row: Row) -> str:
    protocol = row["protocol"]
    ending = "" if protocol["warmup_is_stable"] else ", unstable"
    return f"{protocol['warmup_runs']} runs{ending}"


def _range(row: Row) -> str:
    speed = row["tok_per_s_per_sequence"]
    return f"{speed['p10']:.4g} to {speed['p90']:.4g}"


def _temperature(row: Row) -> str:
    readings = [row["temperature_celsius"][when] for when in ("before", "after")]
    return "-" if None in readings else " to ".join(f"{each:.0f}" for each in readings)


def _frequency(row: Row) -> str:
    readings = [row.get("frequency_hz", {}).get(when) for when in ("before", "after")]
    return "-" if None in readings else " to ".join(f"{each / 1e9:.2f}" for each in readings)


def _energy(row: Row) -> str:
    return _with_spread(row["joules_per_token"]) if "joules_per_token" in row else "-"


def _sustained(row: Row) -> str:
    sustained = row.get("sustained")
    if sustained is None:
        return "-"
    return f"{sustained['change']:+.1%} over {sustained['minutes']:.3g} min"


def _device_memory(row: Row) -> str:
    return f"{row['peak_device_bytes'] / 1e6:.0f}" if "peak_device_bytes" in row else "-"


def _reference(row: Row) -> str:
    return f"{row['reference']['tok_per_s_per_sequence']:g}" if "reference" in row else "-"


def _load(row: Row) -> str:
    if row["load_ms"] is None:
        return "-"
    return f"{row['load_ms']:.0f}, {'cold' if row['load_is_cold'] else 'page cache warm'}"


_LINES = (
    ("tok/s per sequence", lambda row: _with_spread(row["tok_per_s_per_sequence"])),
    ("tok/s summed over the batch", lambda row: _with_spread(row["tok_per_s_summed"])),
    ("decode only, per sequence", lambda row: _with_spread(row["decode_tok_per_s_per_sequence"])),
    ("decode only, summed", lambda row: _with_spread(row["decode_tok_per_s_summed"])),
    ("prefill tok/s, summed", lambda row: _with_spread(row["prefill_tok_per_s_summed"])),
    ("bytes of text/s, summed", _text),
    ("time to first token, ms", lambda row: _with_spread(row["ttft_ms"])),
    ("step p50 / p90 / p99, ms", _steps),
    ("least step by roofline, ms", _bound),
    ("share of read bandwidth", _share),
    ("peak memory, MB", _memory),
    ("peak device memory, MB", _device_memory),
    ("joules per token", _energy),
    ("temperature, degrees C", _temperature),
    ("frequency, GHz", _frequency),
    ("sustained", _sustained),
    ("load, ms", _load),
    ("prepare, ms", lambda row: f"{row['prepare_ms']:.0f}" if "prepare_ms" in row else "-"),
    ("warm-up", _warm_up),
    ("valid", lambda row: "yes" if row["valid"] else "no"),
)

_CELLS: Mapping[str, Callable[[Row], str]] = {
    "model": lambda row: str(row["model_filename"]),
    "layers": lambda row: str(row["model"]["num_hidden_layers"]),
    "width": lambda row: str(row["model"]["hidden_size"]),
    "runtime": lambda row: str(row["runtime"]),
    "precision": lambda row: str(row["precision"]),
    "batch": lambda row: str(row["n_batch"]),
    "context": lambda row: str(row["n_depth"] or "-"),
    "device": lambda row: str(row["device"]),
    "threads": lambda row: str(row["n_threads"]),
    "tokens": lambda row: f"{row['n_prompt']}+{row['n_gen']}",
    "tok/s": lambda row: f"{row['tok_per_s_per_sequence']['median']:.4g}",
    "10%_to_90%": _range,
    "summed": lambda row: f"{row['tok_per_s_summed']['median']:.4g}",
    "reference": _reference,
    "ttft_ms": lambda row: f"{row['ttft_ms']['median']:.3g}",
    "step_ms": lambda row: f"{row['roofline']['measured_step_ms']:.3g}",
    "limit_ms": lambda row: f"{row['roofline']['predicted_step_ms']:.3g}",
    "limited_by": lambda row: str(row["roofline"]["limited_by"]),
    "MBU": lambda row: (
        f"{row['roofline']['mbu']:.1%}" + (" in cache" if row["roofline"]["in_cache"] else "")
    ),
    "memory_MB": lambda row: f"{row.get('peak_device_bytes', row['peak_rss_bytes']) / 1e6:.0f}",
    "J/token": lambda row: (
        f"{row['joules_per_token']['median']:.3g}" if "joules_per_token" in row else "-"
    ),
    "sustained": _sustained,
    "valid": lambda row: "yes" if row["valid"] else "no",
}

# Of the columns above, those that say which row it is, and those that a terminal shows always.
_IN_THE_HEAD = ("device", "threads", "tokens")  # `shared_facts`, unless rows differ in them
_IDENTITY = ("runtime", "precision", "batch", "context", *_IN_THE_HEAD)
_CHIEF = ("tok/s", "summed", "reference", "step_ms", "limit_ms", "MBU", "valid")
