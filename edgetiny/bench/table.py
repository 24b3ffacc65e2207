"""Rows of a result as one table for a person: measurements go down, rows go across."""

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def columns(rows: Sequence[Row]) -> dict[str, Any]:
    """Return what `console.show` prints: facts that all rows share, then one column a row."""
    first = rows[0]
    model = first["model"]
    shared = {
        "model": f"{first['model_filename']}: {model['num_hidden_layers']} layers x"
        f" {model['hidden_size']}, {first['model_n_params'] / 1e6:.1f}M parameters,"
        f" {first['model_size'] / 1e6:.0f} MB",
        "runs_in": f"{first['runtime']}, {first['precision']} weights, {first['kv_dtype']} cache",
        "device": f"{first['device']}: {first['cpu_info']}, {first['n_threads']} threads",
        "protocol": f"{first['n_gen']} new tokens after {first['n_prompt']}, greedy, no stop at"
        f" EOS; median of {first['protocol']['repeats']} runs (10% to 90%)",
        "commit": first["build_commit"],
    }
    names = [f"batch {row['n_batch']}" for row in rows]
    lines = [_line(label, names, [cell(row) for row in rows]) for label, cell in _LINES]
    kept = [line for line in lines if any(line[name] != "-" for name in names)]
    doubts = {
        f"batch {row['n_batch']} is not valid": "; ".join(row["doubts"])
        for row in rows
        if not row["valid"]
    }
    return shared | {"results": kept} | ({"doubts": doubts} if doubts else {})


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
    ("load, ms", _load),
    ("warm-up", _warm_up),
    ("valid", lambda row: "yes" if row["valid"] else "no"),
)
