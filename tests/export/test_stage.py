import json
import shutil
import subprocess
import sys
from dataclasses import replace

import jsonschema
import pytest
import torch

from edgetiny.artefact import Artefact
from edgetiny.checkpoint import RopeScaling, parameter_shapes
from edgetiny.config.export import ExportConfig
from edgetiny.console import QUIET
from edgetiny.errors import CheckFailed, ConfigError
from edgetiny.export.plan import context_of
from edgetiny.export.stage import default_out, default_source, run
from edgetiny.files import write_json

pytest.importorskip("onnxruntime")

LLAMA3 = RopeScaling(
    factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16
)
# Attention kinds, biases, heads of every width, tied and not, FFN and hidden that fill no block.
MODELS = {
    "mha": {},
    "gqa": {"num_key_value_heads": 2, "head_dim": 16, "hidden_size": 64},
    "mqa-qwen2": {"num_key_value_heads": 1, "bias": "qkv", "tie_word_embeddings": False},
    "internlm": {"bias": "qkvo", "head_dim": 12, "intermediate_size": 172},
    "llama3": {"rope_scaling": LLAMA3, "head_dim": 32, "rope_theta": 500_000.0},
    "odd-sizes": {"hidden_size": 100, "intermediate_size": 1776, "tie_word_embeddings": False},
}


@pytest.mark.parametrize(
    ("model", "precision"), [("gqa", "fp32"), ("mqa-qwen2", "fp16"), ("internlm", "int8")]
)
def test_the_artefact_answers_as_the_checkpoint(
    model, precision, keep_scale, make_checkpoint, make_artefact
):
    export_and_check(make_checkpoint(edit=keep_scale, **MODELS[model]), precision, make_artefact)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("model", MODELS)
def test_every_kind_of_model_exports(model, precision, keep_scale, make_checkpoint, make_artefact):
    export_and_check(make_checkpoint(edit=keep_scale, **MODELS[model]), precision, make_artefact)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_checkpoints_of_every_type_export(dtype, make_checkpoint, make_artefact):
    export_and_check(make_checkpoint(dtype=dtype), "int8", make_artefact)


@pytest.mark.slow
@pytest.mark.parametrize("block_size", [16, 64, 128, 256])
def test_every_block_size_exports(block_size, make_checkpoint, make_artefact):
    checkpoint = make_checkpoint(intermediate_size=172)
    export_and_check(checkpoint, "int8", make_artefact, block_size=block_size)


def export_and_check(checkpoint, precision, make_artefact, **settings):
    folder = make_artefact(checkpoint, precision=precision, **settings)
    artefact = Artefact.open(folder)
    assert artefact.verification["passed"]
    assert artefact.manifest["source_sha256"] == checkpoint.sha256
    nodes = artefact.model("onnx").nodes
    n_layers = checkpoint.config.num_hidden_layers
    assert nodes["GroupQueryAttention"] == n_layers
    assert "Transpose" not in nodes
    wanted = stored_bytes(checkpoint.config, precision, settings.get("block_size", 32))
    found = sum((folder / name).stat().st_size for name in ("model.onnx", "model.onnx.data"))
    # The graph itself is of a fixed size that only shows in models as tiny as these.
    assert wanted <= found <= 1.05 * wanted + 60_000


def stored_bytes(config, precision, block_size):
    """Return what the weights need: matrices in whole blocks with fp16 scales, the rest in fp32."""
    size = 0
    for shape in parameter_shapes(config).values():
        if precision == "int8" and len(shape) == 2:
            n_blocks = shape[0] * -(-shape[1] // block_size)
            size += n_blocks * (block_size + 2)
        else:
            size += torch.Size(shape).numel() * (2 if precision == "fp16" else 4)
    return size


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_tied_table_is_stored_once(precision, make_checkpoint, make_artefact):
    sizes = {
        tied: (
            make_artefact(
                make_checkpoint(f"tied-{tied}", vocab_size=5000, tie_word_embeddings=tied),
                f"artefact-{tied}",
                precision=precision,
            )
            / "model.onnx.data"
        )
        .stat()
        .st_size
        for tied in (True, False)
    }
    one_table = 5000 * 32 * 4 if precision == "fp32" else 5000 * (32 + 2)
    assert sizes[False] - sizes[True] == pytest.approx(one_table, rel=0.02)


def test_the_same_input_gives_the_same_bytes(tiny_checkpoint, tiny_artefact, make_artefact):
    second = make_artefact(tiny_checkpoint)
    names = sorted(path.name for path in tiny_artefact.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    # The card is named after its folder, and holds what was measured.
    for name in set(names) - {"verification.json", "README.md"}:
        assert (tiny_artefact / name).read_bytes() == (second / name).read_bytes(), name


def test_several_formats_share_a_folder_and_a_card(keep_scale, make_checkpoint, make_artefact):
    pytest.importorskip("gguf")
    folder = make_artefact(make_checkpoint(edit=keep_scale), format=("onnx", "gguf"))
    artefact = Artefact.open(folder)
    assert [model.name for model in artefact.models] == ["model.onnx", "model.gguf"]
    assert [each["file"] for each in artefact.verification["models"]] == [
        "model.onnx",
        "model.gguf",
    ]
    card = (folder / "README.md").read_text()
    for model in artefact.models:
        assert card.count(f"`{model.name}`") == 2
    assert str(folder.parent) not in card


def test_ctrl_c_half_way_leaves_nothing(keep_scale, make_checkpoint, tmp_path):
    checkpoint = make_checkpoint(edit=keep_scale)
    out = tmp_path / "new" / "artefact"
    program = (
        "import os, signal, sys\n"
        "from edgetiny.export import stage\n"
        "write = stage.write_manifest\n"
        "def then_interrupt(*words, **named):\n"
        "    write(*words, **named)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "stage.write_manifest = then_interrupt\n"
        "from edgetiny.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    words = [sys.executable, "-c", program, "export", str(checkpoint.path), "--out", str(out)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 130, done.stderr
    assert list(out.parent.iterdir()) == []


def test_the_graph_names_weights_and_no_source_file(tiny_artefact):
    graph = (tiny_artefact / "model.onnx").read_bytes()
    assert b"stack_trace" not in graph
    assert b".py" not in graph
    assert b"model.layers.1.self_attn.qkv_proj.weight" in graph


def test_manifest_and_verification_follow_their_schemas(tiny_artefact, schema_of):
    for name in ("manifest", "verification"):
        payload = json.loads((tiny_artefact / f"{name}.json").read_text())
        jsonschema.validate(payload, schema_of(name))
    artefact = Artefact.open(tiny_artefact)
    present = {path.name for path in tiny_artefact.iterdir()}
    assert present - artefact.manifest["files"].keys() == {
        "manifest.json",
        "verification.json",
        "README.md",
    }
    assert set(artefact.model().files) == {"model.onnx", "model.onnx.data"}
    assert {"tokenizer.model", "tokenizer.json"} < present
    [section] = artefact.verification["models"]
    assert section["scores"][0]["text"] == "Python's docstrings"


@pytest.fixture
def schema_of(pytestconfig):
    def read(name):
        path = pytestconfig.rootpath / "docs" / "schemas" / f"{name}.schema.json"
        return json.loads(path.read_text())

    return read


def hostile_to_blocks(tensors):
    """Give each block of down_proj one huge weight whose input is always zero.

    The checkpoint never sees it, but its scale rounds the block's other weights away.
    """
    for name in tensors:
        if name.endswith("gate_proj.weight"):
            tensors[name][::16] = 0
        if name.endswith("down_proj.weight"):
            tensors[name][:, ::16] = 1e4


def test_an_export_that_fails_verification_leaves_nothing(make_checkpoint, tmp_path):
    checkpoint = make_checkpoint(edit=hostile_to_blocks)
    out = tmp_path / "out"
    with pytest.raises(CheckFailed, match="relative logit error") as failure:
        run(ExportConfig(source=checkpoint.path, out=out))
    assert failure.value.exit_code == 1
    assert str(out) in str(failure.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_an_export_that_fails_verification_keeps_the_artefact_before_it(
    make_checkpoint, tiny_artefact, tmp_path
):
    checkpoint = make_checkpoint(edit=hostile_to_blocks)
    out = shutil.copytree(tiny_artefact, tmp_path / "out")
    with pytest.raises(CheckFailed):
        run(ExportConfig(source=checkpoint.path, out=out, overwrite=True))
    assert Artefact.open(out).manifest == Artefact.open(tiny_artefact).manifest


def test_gqa_on_the_way_out_narrows_the_cache(tiny_checkpoint, make_artefact):
    folder = make_artefact(tiny_checkpoint, gqa_groups=1, layout="portable")
    artefact = Artefact.open(folder)
    assert artefact.config.num_key_value_heads == 1
    assert artefact.manifest["gqa_groups"] == 1
    genai = json.loads((folder / "genai_config.json").read_text())
    assert genai["model"]["decoder"]["num_key_value_heads"] == 1


def test_gqa_on_the_way_out_says_what_it_cost(tiny_checkpoint, tmp_path):
    config = ExportConfig(source=tiny_checkpoint.path, out=tmp_path / "out", gqa_groups=1)
    [row] = run(config).summary()["fewer_kv_heads"]
    assert row["text"] == "Python's docstrings"
    assert row["bits_per_byte_after"] != row["bits_per_byte_before"] > 0
    same = replace(config, gqa_groups=2, out=tmp_path / "same")
    assert "fewer_kv_heads" not in run(same).summary()


def test_as_many_groups_as_heads_changes_no_weight(tiny_checkpoint, tiny_artefact, make_artefact):
    grouped = make_artefact(tiny_checkpoint, gqa_groups=2)
    for name in ("model.onnx", "model.onnx.data"):
        assert (tiny_artefact / name).read_bytes() == (grouped / name).read_bytes()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gqa_groups": 3}, "choose from 1, 2, 4"),
        ({"context": 65}, "beyond the model's 64 positions"),
        ({"block_size": 48}, "not a power of two"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message, make_checkpoint, tmp_path):
    checkpoint = make_checkpoint()
    with pytest.raises(ConfigError, match=message):
        run(ExportConfig(source=checkpoint.path, out=tmp_path / "out", **settings))
    assert not (tmp_path / "out").exists()


def test_a_text_needs_a_tokenizer(make_checkpoint, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("some words")
    with pytest.raises(ConfigError, match="has no tokenizer"):
        run(ExportConfig(source=make_checkpoint().path, out=tmp_path / "out", text=text))


def test_a_given_text_is_scored_too_and_the_summary_is_json(tiny_checkpoint, tmp_path):
    text = tmp_path / "words.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 20)
    config = ExportConfig(source=tiny_checkpoint.path, out=tmp_path / "out", text=text)
    summary = run(config).summary()
    scores = summary["scores of model.onnx"]
    assert [row["text"] for row in scores] == ["Python's docstrings", "words"]
    json.dumps(summary, allow_nan=False)
    assert {"model.onnx", "model.onnx.data"} <= {row["file"] for row in summary["files"]}
    assert summary["model.onnx"]["nodes"] >= summary["model.onnx"]["MatMulNBits"]


def test_an_existing_folder_is_kept(make_checkpoint, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("mine")
    with pytest.raises(ConfigError, match="exists"):
        run(ExportConfig(source=make_checkpoint().path, out=tmp_path / "out"))


def test_the_context_is_the_model_s_unless_it_is_long(tiny_config):
    long = replace(tiny_config, max_position_embeddings=4096)
    contexts = [
        context_of(asked, shape)
        for asked, shape in ((None, tiny_config), (None, long), (2, long), (4096, long))
    ]
    assert contexts == [128, 1024, 2, 4096]


@pytest.mark.slow
@pytest.mark.parametrize("context", [2, 16, 17])
def test_the_shortest_contexts_export(context, make_checkpoint, make_artefact):
    folder = make_artefact(make_checkpoint(), context=context)
    assert Artefact.open(folder).model().context == context


def test_the_default_folder_is_named_after_what_was_done(make_checkpoint, tmp_path, monkeypatch):
    source = make_checkpoint().path
    config = ExportConfig(precision="fp16", gqa_groups=2)
    assert default_out(source, config) == tmp_path / "source-onnx-fp16-gqa2"
    monkeypatch.chdir(source)
    assert default_out(source.__class__("."), ExportConfig()) == tmp_path / "source-onnx-int8"


def test_without_a_name_the_folder_one_stands_in_is_exported(make_checkpoint, monkeypatch):
    source = make_checkpoint().path
    monkeypatch.chdir(source)
    assert default_source(QUIET) == source


def test_without_a_name_the_newest_demo_is_exported(make_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="name a checkpoint folder"):
        default_source(QUIET)
    make_checkpoint("demo-out/final")
    write_json(tmp_path / "demo-out/demo.json", {"schema_version": 1, "export_from": "final"})
    source = default_source(QUIET)
    assert source.resolve() == tmp_path / "demo-out/final"
    assert default_out(source, ExportConfig()) == tmp_path / "demo-out/final-onnx-int8"


def test_a_demo_that_did_not_end_is_not_exported(tmp_path, monkeypatch):
    (tmp_path / "demo-out").mkdir()
    write_json(tmp_path / "demo-out/demo.json", {"schema_version": 1, "export_from": None})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="did not end"):
        default_source(QUIET)
