import io
import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from edgetiny.checkpoint import Checkpoint
from edgetiny.cli import main
from edgetiny.config.tokenizer import TokenizerReportConfig
from edgetiny.errors import ConfigError, DataError
from edgetiny.tokenizer import Tokenizer
from edgetiny.tokenizer.report import accumulated, run

SCHEMA = Path(__file__).parents[2] / "docs" / "schemas" / "tokenizer_report.schema.json"
GOLDEN = Path(__file__).parents[1] / "golden" / "bench_result.json"


def _document(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    assert main(["tokenizer", "report", *map(str, words), "--json", "--quiet"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, json.loads(SCHEMA.read_text(encoding="utf-8")))
    return document


def test_the_report_agrees_with_compress(
    tmp_path: Path, tiny_tokenizer: Path, tiny_text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = ["--text", tiny_text]
    sizes = ["--vocab-size", 320, "--vocab-size", 400]
    document = _document(capsys, tiny_tokenizer, *text, *sizes)
    assert [row["vocab_size"] for row in document["sizes"]] == [320, 400]
    for row, group in zip(document["sizes"], document["groups"], strict=True):
        size, out = row["vocab_size"], tmp_path / str(row["vocab_size"])
        words = ["tokenizer", "compress", tiny_tokenizer, *text, "--vocab-size", size]
        assert main([*map(str, words), "--out", str(out), "--json", "--quiet"]) == 0
        compressed = json.loads(capsys.readouterr().out)
        assert row["coverage"] == compressed["coverage"]
        # The report cuts its sample into blocks, which costs a token here and there.
        assert row["token_growth"] == pytest.approx(compressed["token_growth"], rel=0.01)
        assert group["token_growth"] == row["token_growth"] == row["worst_growth"]
        assert group["bytes"] == compressed["bytes"]
    assert document["tokenizer"]["sha256"] == Tokenizer.open(tiny_tokenizer).sha256
    assert document["tokenizer"]["embedding_and_head_untied"] > row["embedding_and_head_untied"]
    assert document["tokenizer"]["bytes"] == tiny_text.stat().st_size


def test_the_curve_accumulates_the_most_frequent(
    tiny_tokenizer: Path, tiny_text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert accumulated(np.array([1, 0, 6, 3])).tolist() == [0.6, 0.9, 1.0, 1.0]
    document = _document(capsys, tiny_tokenizer, "--text", tiny_text)
    curve = document["coverage_curve"]
    rows = [point["rows"] for point in curve]
    assert rows == sorted(set(rows))
    for name in ("most_frequent", "as_compress_chooses"):
        shares = [point[name] for point in curve if name in point]
        assert shares == sorted(shares)
        assert shares[-1] == 1.0
    # No choice of so many rows covers more than the most frequent ones do.
    assert all(p.get("as_compress_chooses", 0) <= p["most_frequent"] + 1e-12 for p in curve)


def test_the_model_is_the_checkpoints_or_as_asked(
    tiny_checkpoint: Checkpoint,
    tiny_tokenizer: Path,
    tiny_text: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = ["--text", tiny_text, "--vocab-size", 384]
    [row] = _document(capsys, tiny_checkpoint.path, *text)["sizes"]
    config = tiny_checkpoint.config
    body = sum(
        tensor.numel()
        for name, tensor in tiny_checkpoint.state_dict().items()
        if name != "model.embed_tokens.weight"
    )
    table = 384 * config.hidden_size
    assert row["embedding_and_head_tied"] == pytest.approx(table / (table + body))
    assert row["embedding_and_head_untied"] == pytest.approx(2 * table / (2 * table + body))
    shape = ["--hidden-size", 64, "--intermediate-size", 128, "--num-hidden-layers", 2]
    document = _document(capsys, tiny_tokenizer, *text, *shape)
    assert document["model"] == "a design of width 64, FFN 128, with 2 layers"
    with pytest.raises(ConfigError, match="is a checkpoint and has a shape"):
        flags = {"source": tiny_checkpoint.path, "text": (tiny_text,), "hidden_size": 64}
        run(TokenizerReportConfig.load(flags=flags))


def test_speed_is_shown_in_bytes_of_text(
    tmp_path: Path, tiny_tokenizer: Path, tiny_text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [tiny_tokenizer, "--text", tiny_text, "--vocab-size", 320]
    [group] = _document(capsys, *words, "--tok-s", 10)["groups"]
    assert group["bytes_per_s_before"] == pytest.approx(10 / group["tokens_per_byte_before"])
    assert group["bytes_per_s_after"] == pytest.approx(10 / group["tokens_per_byte_after"])
    rows = json.loads(GOLDEN.read_text(encoding="utf-8"))["rows"]
    fastest = max(row["decode_tok_per_s_summed"]["median"] for row in rows)
    [group] = _document(capsys, *words, "--result", GOLDEN)["groups"]
    assert group["bytes_per_s_before"] == pytest.approx(fastest / group["tokens_per_byte_before"])
    with pytest.raises(ConfigError, match="give one"):
        TokenizerReportConfig(source=tiny_tokenizer, text=(tiny_text,), tok_s=1.0, result=GOLDEN)
    (tmp_path / "none.json").write_text('{"schema_version": 1, "rows": []}')
    flags = {"source": tiny_tokenizer, "text": (tiny_text,), "result": tmp_path / "none.json"}
    with pytest.raises(DataError, match="is no bench result"):
        run(TokenizerReportConfig.load(flags=flags))


def test_the_page_holds_both_figures_and_stands_alone(
    tmp_path: Path, tiny_tokenizer: Path, tiny_text: Path
) -> None:
    page = tmp_path / "report.html"
    words = ["tokenizer", "report", str(tiny_tokenizer), "--text", str(tiny_text)]
    assert main([*words, "--out", str(page), "--tok-s", "7"]) == 0
    content = page.read_text(encoding="utf-8")
    assert content.count("<svg") == 2
    assert "share of token occurrences" in content
    assert "share of the parameters" in content
    assert "bytes per s after" in content
    assert "http" not in content
    assert main([*words, "--out", str(page)]) == 2
    assert main([*words, "--out", str(page), "--overwrite"]) == 0


def test_counts_choose_and_a_pipe_is_enough(
    tmp_path: Path,
    tiny_tokenizer: Path,
    tiny_text: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = tmp_path / "counts.json"
    words = ["tokenizer", "count", tiny_tokenizer, "--text", tiny_text, "--out", counts, "--quiet"]
    assert main(list(map(str, words))) == 0
    capsys.readouterr()
    by_text = _document(capsys, tiny_tokenizer, "--text", tiny_text)
    by_counts = _document(capsys, tiny_tokenizer, "--text", tiny_text, "--counts", counts)
    assert by_counts["sizes"] == by_text["sizes"]
    content = tiny_text.read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    piped = _document(capsys, tiny_tokenizer, "--text", "-")
    assert [row["coverage"] for row in piped["sizes"]] == [
        row["coverage"] for row in by_text["sizes"]
    ]
