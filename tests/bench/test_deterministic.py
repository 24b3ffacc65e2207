import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from edgetiny.bench.deterministic import (
    TINY,
    Figure,
    artefact_figures,
    compare_figures,
    count_instructions,
    parse_perf,
    write_tiny,
)
from edgetiny.bench.gate_sides import Side
from edgetiny.bench.gate_worker import count_ops, decode, serve
from edgetiny.checkpoint import Checkpoint
from edgetiny.config.compare import GateConfig
from edgetiny.errors import DeviceError
from edgetiny.runtimes import EagerRuntime, open_runtime

NODES, SIZE = "graph nodes, int8", "artefact bytes, int8"


def figure(value, *, tolerance=0.005, unit="bytes", **parts):
    return Figure(value=value, unit=unit, tolerance=tolerance, parts=parts)


def outcomes(base, head):
    return {each.name: each.outcome for each in compare_figures(base, head, {})}


@pytest.mark.parametrize(
    ("head", "outcome"),
    [
        (1_000_000, "same"),
        (1_004_999, "same"),
        (1_005_001, "regress"),
        (1_020_000, "regress"),
        (995_001, "same"),
        (990_000, "improve"),
    ],
)
def test_growth_beyond_the_tolerance_fails(head, outcome):
    [change] = compare_figures({"x": figure(1_000_000)}, {"x": figure(head)}, {})
    assert change.outcome == outcome
    assert change.share == pytest.approx(head / 1e6 - 1)


def test_a_count_has_no_tolerance_and_says_what_moved():
    base = figure(7, tolerance=0.0, unit="nodes", Add=4, Mul=3)
    head = figure(8, tolerance=0.0, unit="nodes", Add=6, Sub=2)
    [change] = compare_figures({"n": base}, {"n": head}, {})
    assert (change.outcome, change.note) == ("regress", "+2 Add, -3 Mul, +2 Sub")


def test_a_lost_figure_fails_and_a_new_one_passes():
    [lost, new] = compare_figures({"a": figure(1)}, {"b": figure(1)}, {"a": "export failed: why"})
    assert (lost.outcome, new.outcome) == ("regress", "new")
    assert "export failed: why" in lost.note
    assert lost.share is None


def test_a_lost_count_of_instructions_says_which_tool_is_missing(monkeypatch):
    monkeypatch.setenv("PATH", "")
    side = Side("head", Path("nowhere"), "a commit")
    figures, absent = count_instructions(side, GateConfig())
    assert figures == {}
    [change] = compare_figures({"instructions per step, perf": figure(9)}, figures, absent)
    assert (change.outcome, change.note.endswith(": perf is not installed")) == ("regress", True)


def test_a_figure_survives_its_file():
    found = figure(12, unit="nodes", tolerance=0.0, Add=12)
    assert Figure.from_json(found.as_json()) == found


def test_every_added_node_and_one_percent_of_bytes_is_found(tiny_artefact, tmp_path):
    onnx = pytest.importorskip("onnx")
    folder = shutil.copytree(tiny_artefact, tmp_path / "artefact")
    before = artefact_figures(folder, 0.005, {})
    assert set(outcomes(before, artefact_figures(folder, 0.005, {})).values()) == {"same"}
    model = folder / "model.onnx"
    graph = onnx.load(model, load_external_data=False)
    assert before[NODES].value == len(graph.graph.node)
    graph.graph.node.append(onnx.helper.make_node("Identity", ["logits"], ["extra"]))
    model.write_bytes(graph.SerializeToString())
    [change] = [
        each
        for each in compare_figures(before, artefact_figures(folder, 0.005, {}), {})
        if each.name == NODES
    ]
    assert (change.outcome, change.note) == ("regress", "+1 Identity")
    with (folder / "model.onnx.data").open("ab") as stream:
        stream.write(bytes(int(before[SIZE].value) // 100))
    assert outcomes(before, artefact_figures(folder, 0.005, {}))[SIZE] == "regress"


class _OneMore:
    """A runtime with one operator more in every step."""

    def __init__(self, runtime):
        self._runtime = runtime

    def __getattr__(self, name):
        return getattr(self._runtime, name)

    def step(self, tokens):
        torch.zeros(1) + 1
        return self._runtime.step(tokens)


def test_operators_of_a_step_are_counted_alike_every_time(make_checkpoint):
    runtime = EagerRuntime.load(make_checkpoint(), context=16, threads=1)
    counts = count_ops(runtime, 2, 3)
    assert counts == count_ops(runtime, 2, 3)
    deeper = EagerRuntime.load(make_checkpoint("deep", num_hidden_layers=3), context=16, threads=1)
    more = count_ops(deeper, 2, 3)
    assert more["aten.linear.default"] == counts["aten.linear.default"] + 7
    extra = sum(count_ops(_OneMore(runtime), 2, 3).values()) - sum(counts.values())
    assert extra == 2


def test_an_artefact_runs_no_torch_operators(tiny_artefact):
    assert count_ops(open_runtime(tiny_artefact, threads=1), 1, 2) == {}


def test_each_batch_is_decoded_by_its_own_plan(make_artefact, make_checkpoint):
    artefact = make_artefact(make_checkpoint(vocab_size=96), batch=(1, 2))
    opening = {"path": str(artefact), "context": 8, "threads": 1}
    decoding = {"do": "decode", "prompt_tokens": 2, "steps": 3}
    opened, answers = [], []

    def keep(runtime):
        opened.append(runtime)
        return runtime

    lines = [opening, *(decoding | {"batch": batch} for batch in (1, 2, 2))]
    serve(map(json.dumps, lines), answers.append, keep)
    assert [len(answer["step_ns"]) for answer in answers[1:]] == [3, 3, 3]

    tokens, lengths = np.array([[1, 2, 3], [4, 5, 6]]), np.array([3, 3])
    first, second = (runtime.prefill(tokens, lengths) for runtime in opened)
    expected = [
        open_runtime(artefact, context=8, threads=1, max_batch=batch).prefill(tokens, lengths)
        for batch in (1, 2)
    ]
    assert np.array_equal(first, expected[0])
    assert np.array_equal(second, expected[1])
    assert not np.array_equal(first, second)


def test_a_sample_has_a_time_for_each_step(make_checkpoint):
    runtime = EagerRuntime.load(make_checkpoint(), context=16, threads=1)
    times = decode(runtime, 2, 3, 8)
    assert len(times) == 8
    assert min(times) > 0


def test_the_tiny_checkpoint_is_the_same_every_time(tmp_path):
    hashes = set()
    for name in ("a", "b"):
        write_tiny(tmp_path / name)
        checkpoint = Checkpoint.open(tmp_path / name)
        assert checkpoint.config.num_hidden_layers == TINY.num_hidden_layers
        hashes.add(checkpoint.sha256)
    assert len(hashes) == 1


def test_what_perf_prints_is_a_count_or_a_reason():
    counted = "# started\n\n123456789,,instructions:u,1000,100.00,,\n"
    assert parse_perf(counted) == 123456789
    with pytest.raises(DeviceError, match="does not count instructions"):
        parse_perf("<not supported>,,instructions:u,0,100.00,,\n")
    with pytest.raises(DeviceError, match="no count"):
        parse_perf("")
