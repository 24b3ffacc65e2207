import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from edgetiny.artefact import models_of, read_manifest
from edgetiny.bench.cases import Plan, bench_device, check_cases, make_plan
from edgetiny.config.run import BenchConfig
from edgetiny.console import QUIET, Reporter
from edgetiny.errors import ConfigError, DeviceError

SUITES = Path(__file__).parents[2] / "bench/suites"


def plan(device="cpu", **settings) -> Plan:
    return make_plan(BenchConfig(**settings), device, 2, QUIET)


def facts(plan):
    return [
        (
            case.subject.runtime,
            case.subject.precision,
            case.protocol.depth,
            case.protocol.batch,
        )
        for case in plan.cases
    ]


def test_rows_are_the_product_of_what_is_asked_for(make_checkpoint):
    found = plan(
        source=make_checkpoint().path,
        runtime=("eager", "graph"),
        precision=("fp32", "bf16"),
        context=(0, 9),
        batch=(2, 1),
    )
    assert len(found.cases) == len(set(facts(found))) == 16
    assert facts(found)[:3] == [
        ("eager", "fp32", 0, 2),
        ("eager", "fp32", 0, 1),
        ("eager", "fp32", 9, 2),
    ]
    keys = {case.key(2) for case in found.cases}
    assert len(keys) == 16
    assert keys.isdisjoint(case.key(1) for case in found.cases)


def test_without_flags_it_is_the_papers_protocol(make_checkpoint):
    found = plan(source=make_checkpoint(max_position_embeddings=512).path)
    assert [(case.protocol.batch, case.protocol.context) for case in found.cases] == [
        (20, 512),
        (1, 512),
    ]
    assert {case.protocol.repeats for case in found.cases} == {3}


def test_a_flag_wins_over_the_suite_and_its_device():
    suite = SUITES / "depth_vs_width.toml"
    given = plan(suite=suite)
    assert set(facts(given)) == {("eager", "int8", 0, 20)}
    assert [case.reference_tok_per_s for case in given.cases] == [12.81, 17.71, 29.49, 36.79, 57.53]
    asked = plan(suite=suite, precision=("bf16",), batch=(1,), new_tokens=9)
    assert set(facts(asked)) == {("eager", "bf16", 0, 1)}
    assert {case.protocol.new_tokens for case in asked.cases} == {9}


def test_a_design_file_is_a_source(write, tiny_design):
    found = plan(source=write(tiny_design), precision=("fp32", "int8"), batch=(1,))
    assert [case.subject.name for case in found.cases] == ["one", "one"]
    assert [case.subject.precision for case in found.cases] == ["fp32", "int8"]


def test_memory_is_predicted_for_every_row_before_the_first():
    cases = plan(suite=SUITES / "depth_vs_width.toml", batch=(1, 100_000)).cases
    with pytest.raises(DeviceError, match=r"40x1280 at batch 100000 needs .* GB"):
        check_cases(cases, "cpu")


def test_fp16_on_a_cpu_and_a_device_that_is_not_there_are_refused(monkeypatch):
    with pytest.raises(ConfigError, match="many times slower"):
        plan(suite=SUITES / "ci.toml", precision=("fp16",))
    with pytest.raises(DeviceError, match="later release"):
        bench_device("android")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DeviceError, match="no CUDA device here"):
        bench_device("cuda")
    with pytest.raises(DeviceError, match="no CUDA device here"):
        plan(device="cuda", suite=SUITES / "ci.toml")


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match="not both"):
        BenchConfig(source=Path("a"), suite=Path("b"))
    with pytest.raises(ConfigError, match="--resume needs --out"):
        BenchConfig(resume=True)
    with pytest.raises(ConfigError, match="give one"):
        BenchConfig(resume=True, overwrite=True, out=Path("a"))


def test_repeats_are_part_of_what_identifies_a_row(make_checkpoint):
    [case] = plan(source=make_checkpoint().path, batch=(1,), new_tokens=4).cases
    other = replace(case, protocol=replace(case.protocol, repeats=9))
    assert case.key(1) != other.key(1)


def test_another_model_in_the_same_folder_is_another_row(make_checkpoint):
    path = make_checkpoint().path
    [case] = plan(source=path, batch=(1,), new_tokens=4).cases
    tensors = load_file(path / "model.safetensors")
    tensors["model.norm.weight"] *= 2
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    [other] = plan(source=path, batch=(1,), new_tokens=4).cases
    assert case.key(1) != other.key(1)


def test_an_edited_design_is_another_row():
    """More heads of half the width: name, parameters and bytes are the same."""
    [case] = plan(suite=SUITES / "ci.toml", precision=("fp32",), batch=(1,)).cases[:1]
    config = case.subject.config
    heads = {
        "num_attention_heads": 2 * config.num_attention_heads,
        "num_key_value_heads": 2 * config.num_key_value_heads,
        "head_dim": config.head_dim // 2,
    }
    other = replace(case, subject=replace(case.subject, config=replace(config, **heads)))
    assert case.subject.n_parameters == other.subject.n_parameters
    assert case.key(1) != other.key(1)


def test_the_choice_of_a_model_is_said_on_cuda_too(capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(DeviceError, match="there are 0 CUDA devices"):
        make_plan(BenchConfig(device="cuda", batch=(1,)), "cuda", 2, Reporter())
    assert "no model given: random weights of random-952m" in capsys.readouterr().err


def test_a_batch_that_nobody_asked_for_is_left_out_where_it_does_not_go(
    make_checkpoint, make_artefact
):
    artefact = make_artefact(make_checkpoint(vocab_size=96), batch=(3,))
    manifest = json.loads((artefact / "manifest.json").read_text())
    manifest["models"][0]["max_batch"] = 3  # as ExecuTorch's programs have it
    (artefact / "manifest.json").write_text(json.dumps(manifest))
    found = plan(source=artefact, new_tokens=4)
    assert [case.protocol.batch for case in found.cases] == [1]
    with pytest.raises(ConfigError, match="at most 3 sequences together, not 20"):
        check_cases(plan(source=artefact, batch=(20,), new_tokens=4).cases, "cpu")


def test_each_batch_of_an_artefact_has_its_plan(make_checkpoint, make_artefact):
    artefact = make_artefact(make_checkpoint(vocab_size=96), batch=(1, 3))
    found = plan(source=artefact, batch=(1, 3), new_tokens=4)
    sizes = {case.protocol.batch: case.subject.size_bytes for case in found.cases}
    manifest = read_manifest(artefact)
    for model in models_of(artefact, manifest):
        assert sizes[model.batch] == sum(manifest["files"][name]["bytes"] for name in model.files)
    assert sizes[1] != sizes[3]
