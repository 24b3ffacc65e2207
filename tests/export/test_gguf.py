import os

import numpy as np
import pytest
import torch

from edgetiny.artefact import Artefact
from edgetiny.checkpoint import RopeScaling
from edgetiny.errors import ArtefactError, ConfigError
from edgetiny.runtimes import open_runtime
from edgetiny.tokenizer import Tokenizer

pytest.importorskip("gguf")

import gguf

from edgetiny.export.gguf_read import GgufTensors
from edgetiny.export.gguf_vocabulary import pre_tokenizer_name, write_vocabulary
from edgetiny.export.gguf_write import interleaved

LLAMA3 = RopeScaling(
    factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16
)
# Tied and not, grouped, biased, rotation that is scaled, widths that fill no block.
MODELS = {
    "mha": {},
    "gqa": {"num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": False},
    "internlm": {"bias": "qkvo", "rope_scaling": LLAMA3},
    "odd": {"hidden_size": 36, "bias": "qkv"},
    "odd, all biases": {"hidden_size": 36, "bias": "qkvo"},
}


def greedy(runtime, prompt, n_new):
    ids = [int(runtime.prefill(np.array([prompt]), np.array([len(prompt)]))[0].argmax())]
    while len(ids) < n_new:
        ids.append(int(runtime.step(np.array([[ids[-1]]]))[0, 0].argmax()))
    return ids


@pytest.mark.parametrize("model", MODELS)
def test_fp32_reads_back_as_the_checkpoint(model, keep_scale, make_checkpoint, make_artefact):
    checkpoint = make_checkpoint(edit=keep_scale, **MODELS[model])
    folder = make_artefact(checkpoint, format=("gguf",), precision="fp32")
    tensors = GgufTensors(folder / "model.gguf", checkpoint.config)
    assert set(tensors) == set(checkpoint.names())
    for name in checkpoint.names():
        assert torch.equal(tensors[name], checkpoint.tensor(name)), name


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.attention.head_count_kv", 1),
        ("llama.rope.freq_base", 5e5),
        ("llama.attention.layer_norm_rms_epsilon", 1e-3),
    ],
)
def test_a_file_that_says_another_shape_is_refused(key, value, tiny_checkpoint, make_artefact):
    folder = make_artefact(tiny_checkpoint, format=("gguf",), precision="fp32")
    reader = gguf.GGUFReader(folder / "model.gguf", "r+")
    field = reader.fields[key]
    field.parts[field.data[0]][0] = value
    reader.data.flush()
    with pytest.raises(ArtefactError, match=f"says {key} is"):
        GgufTensors(folder / "model.gguf", tiny_checkpoint.config)


def test_a_file_that_rotates_by_other_factors_is_refused(make_checkpoint, make_artefact):
    checkpoint = make_checkpoint(**MODELS["internlm"])
    folder = make_artefact(checkpoint, format=("gguf",), precision="fp32")
    reader = gguf.GGUFReader(folder / "model.gguf", "r+")
    [factors] = [each for each in reader.tensors if each.name == "rope_freqs.weight"]
    factors.data[-1] *= 2
    reader.data.flush()
    with pytest.raises(ArtefactError, match="rotates by other frequencies"):
        GgufTensors(folder / "model.gguf", checkpoint.config)


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_narrow_precisions_are_verified_and_small(
    precision, keep_scale, make_checkpoint, make_artefact
):
    checkpoint = make_checkpoint(edit=keep_scale, **MODELS["odd"], vocab_size=2000)
    folder = make_artefact(checkpoint, format=("gguf",), precision=precision)
    artefact = Artefact.open(folder)
    [section] = artefact.verification["models"]
    assert section["engine"]["name"] == "eager over the file's tensors, read with gguf"
    assert artefact.model("gguf").facts["hidden_size"] == (36 if precision == "fp16" else 64)
    assert (
        set(artefact.model("gguf").facts["tensors"])
        == {
            "fp16": {"F16", "F32"},
            "int8": {"Q8_0", "F32"},
            "int4": {"Q4_0", "F32"},
        }[precision]
    )


def test_rows_of_q_and_k_are_put_side_by_side():
    assert interleaved(2, 4).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_pieces_beyond_the_rows_are_left_out(tiny_checkpoint, tmp_path):
    """As a padding token that was declared later: llama.cpp takes a row for each token."""
    tokenizer = Tokenizer.open(tiny_checkpoint.path)
    for n_rows in (tokenizer.vocab_size - 1, tokenizer.vocab_size + 3):
        path = tmp_path / f"{n_rows}.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        write_vocabulary(writer, tokenizer, n_rows)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        fields = gguf.GGUFReader(path).fields
        for name in ("tokens", "scores", "token_type"):
            assert len(fields[f"tokenizer.ggml.{name}"].data) == n_rows


def test_a_rule_that_llama_cpp_lacks_is_refused(tmp_path):
    own = {"type": "ByteLevel", "add_prefix_space": False}
    assert pre_tokenizer_name([own], tmp_path) == "gpt-2"
    split = {"type": "Split", "pattern": {"Regex": r"\p{N}"}}
    for steps in ([split, own | {"use_regex": False}], [own | {"add_prefix_space": True}]):
        with pytest.raises(ConfigError, match="leave --format gguf out"):
            pre_tokenizer_name(steps, tmp_path)


def test_a_gguf_runs_elsewhere(tiny_checkpoint, make_artefact):
    folder = make_artefact(tiny_checkpoint, format=("gguf",), precision="fp16")
    with pytest.raises(ConfigError, match=r"llama\.cpp"):
        open_runtime(folder)


@pytest.fixture
def llama_cpp():
    """Return the bindings of llama.cpp; skip the test where there are none."""
    if "EDGETINY_LLAMA_CPP" not in os.environ:
        pytest.skip("set EDGETINY_LLAMA_CPP to run this test in llama.cpp")
    return pytest.importorskip("llama_cpp")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("model", MODELS)
def test_llama_cpp_gives_the_same_text(
    model, precision, keep_scale, make_checkpoint, make_artefact, llama_cpp
):
    checkpoint = make_checkpoint(edit=keep_scale, **MODELS[model])
    folder = make_artefact(checkpoint, format=("gguf",), precision=precision)
    engine = llama_cpp.Llama(
        str(folder / "model.gguf"), n_ctx=64, n_threads=1, verbose=False, logits_all=True
    )
    prompt = [1, 5, 9, 40, 7]
    engine.eval(prompt)
    logits = np.array(engine.scores[len(prompt) - 1])
    eager = open_runtime(checkpoint.path)
    wanted = eager.prefill(np.array([prompt]), np.array([5]))[0]
    # Keys and values are fp16 in llama.cpp.
    assert np.abs(logits - wanted).max() < 0.02 * wanted.std()


def test_llama_cpp_splits_and_continues_text(tiny_checkpoint, make_artefact, llama_cpp):
    folder = make_artefact(tiny_checkpoint, format=("gguf",), precision="fp32")
    engine = llama_cpp.Llama(
        str(folder / "model.gguf"), n_ctx=64, n_threads=1, verbose=False, logits_all=True
    )
    golden = Artefact.open(folder).verification["golden_tokens"]
    assert golden
    for row in golden:
        found = engine.tokenize(row["text"].encode(), add_bos=False, special=False)
        assert found == row["ids"], row["text"]
    eager = open_runtime(tiny_checkpoint.path)
    prompt = [1, *golden[0]["ids"]]
    wanted = greedy(eager, prompt, 24)
    found = []
    for token in engine.generate(prompt, temp=0.0, repeat_penalty=1.0):
        found.append(token)
        if len(found) == len(wanted):
            break
    assert found == wanted
