"""The same artefact in programs that are not ours gives the same greedy text."""

import json

import numpy as np
import pytest
import torch

from edgetiny.artefact import Artefact
from edgetiny.runtimes import open_runtime

pytestmark = pytest.mark.slow

PROMPT = [1, 5, 9, 33]
N_NEW = 32


def ours(folder):
    runtime = open_runtime(folder, threads=1)
    ids = [int(runtime.prefill(np.array([PROMPT]), np.array([len(PROMPT)]))[0].argmax())]
    while len(ids) < N_NEW:
        ids.append(int(runtime.step(np.array([[ids[-1]]]))[0, 0].argmax()))
    return ids


def in_genai(folder):
    genai = pytest.importorskip("onnxruntime_genai")
    model = genai.Model(str(folder))
    parameters = genai.GeneratorParams(model)
    # A minimum keeps it from stopping at an end-of-sequence id, as our loop does not either.
    parameters.set_search_options(max_length=64, min_length=64)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(np.array(PROMPT, np.int32))
    ids = []
    while len(ids) < N_NEW:
        generator.generate_next_token()
        ids.append(int(generator.get_next_tokens()[0]))
    return ids


def in_optimum(folder):
    optimum = pytest.importorskip("optimum.onnxruntime")
    model = optimum.ORTModelForCausalLM.from_pretrained(folder)
    prompt = torch.tensor([PROMPT])
    out = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=N_NEW,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return out[0, len(PROMPT) :].tolist()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("settings", [{}, {"bias": "qkv", "head_dim": 12}], ids=["llama", "qwen2"])
def test_onnxruntime_genai(precision, settings, keep_scale, make_checkpoint, make_artefact):
    # Ids that end a text are banned by a minimum length, so no greedy text may contain one.
    checkpoint = make_checkpoint(
        edit=keep_scale, num_key_value_heads=2, eos_token_ids=(), **settings
    )
    folder = make_artefact(checkpoint, precision=precision, layout="portable")
    assert "onnxruntime-genai" in Artefact.open(folder).model().loaders
    assert in_genai(folder) == ours(folder)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_onnxruntime_genai_multiplies_channels(
    precision, keep_scale, make_checkpoint, make_artefact
):
    # On x86 without VNNI it takes a setting of the session to do so exactly.
    checkpoint = make_checkpoint(edit=keep_scale, hidden_size=64, head_dim=16, eos_token_ids=())
    settings = {"precision": precision, "kernel": "dynamic", "layout": "portable"}
    folder = make_artefact(checkpoint, **settings)
    assert Artefact.open(folder).model().loaders == ("edgetiny", "onnxruntime-genai")
    assert in_genai(folder) == ours(folder)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.filterwarnings("ignore")
def test_optimum(precision, keep_scale, make_checkpoint, make_artefact):
    checkpoint = make_checkpoint(
        edit=keep_scale, num_key_value_heads=2, hidden_size=64, head_dim=16
    )
    folder = make_artefact(checkpoint, precision=precision, layout="portable")
    assert "optimum" in Artefact.open(folder).model().loaders
    assert in_optimum(folder) == ours(folder)


def test_optimum_is_not_promised_heads_it_cannot_load(make_checkpoint, make_artefact):
    folder = make_artefact(make_checkpoint(head_dim=12), layout="portable")
    (model,) = json.loads((folder / "manifest.json").read_text())["models"]
    assert "optimum" not in model["loaders"]
