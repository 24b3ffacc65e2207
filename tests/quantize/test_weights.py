from typing import ClassVar

import pytest
import torch

from edgetiny.errors import CheckpointError, ConfigError
from edgetiny.quantize import BlockWeight, ChannelWeight, Scheme, Weights

Q = "model.layers.1.self_attn.q_proj.weight"


def weights(checkpoint, **scheme):
    return Weights(checkpoint.config, checkpoint.state_dict(), Scheme(**scheme))


def test_precision_and_kernel_decide_the_kind(tiny_checkpoint):
    assert weights(tiny_checkpoint, precision="fp32").linear(Q).dtype == torch.float32
    assert weights(tiny_checkpoint, precision="fp16").linear(Q).dtype == torch.float16
    assert weights(tiny_checkpoint, precision="int8").linear(Q).bits == 8
    assert weights(tiny_checkpoint, precision="int4", block_size=64).linear(Q).block_size == 64
    dynamic = weights(tiny_checkpoint, precision="int8", kernel="dynamic")
    assert isinstance(dynamic.linear(Q), ChannelWeight)
    assert isinstance(dynamic.table(), ChannelWeight)


def test_vectors_stay_as_stored(tiny_checkpoint):
    name = "model.norm.weight"
    found = weights(tiny_checkpoint, precision="int4").tensor(name)
    assert torch.equal(found, tiny_checkpoint.tensor(name))


def test_a_tied_head_has_the_bytes_of_the_table(tiny_checkpoint):
    found = weights(tiny_checkpoint, precision="int4")
    head, table = found.linear("lm_head.weight"), found.table()
    assert isinstance(head, BlockWeight)
    assert torch.equal(head.data, table.data)


def test_an_untied_head_is_its_own(make_checkpoint):
    found = weights(make_checkpoint(tie_word_embeddings=False), precision="int8")
    assert not torch.equal(found.linear("lm_head.weight").data, found.table().data)


def test_nothing_is_read_before_it_is_asked_for(tiny_checkpoint):
    class Watched(dict):
        read: ClassVar[list[str]] = []

        def __getitem__(self, name):
            self.read.append(name)
            return super().__getitem__(name)

    tensors = Watched(tiny_checkpoint.state_dict())
    found = Weights(tiny_checkpoint.config, tensors, Scheme(precision="int8"))
    assert tensors.read == []
    found.linear(Q)
    assert tensors.read == [Q]


@pytest.mark.parametrize(
    "scheme",
    [
        {"precision": "int8"},
        {"precision": "int4"},
        {"precision": "int4", "method": "hqq"},
        {"precision": "int8", "kernel": "dynamic"},
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(make_checkpoint, scheme, value):
    def spoil(tensors):
        tensors[Q][3, 4] = value

    with pytest.raises(CheckpointError, match=r"layers\.1\.self_attn\.q_proj"):
        weights(make_checkpoint(edit=spoil), **scheme).linear(Q)


def test_values_beyond_a_type_are_named(make_checkpoint):
    def spoil(tensors):
        tensors[Q][3, 4] = 1e6

    with pytest.raises(CheckpointError, match="too large"):
        weights(make_checkpoint(edit=spoil), precision="fp16").linear(Q)


@pytest.mark.parametrize(
    ("scheme", "said"),
    [
        ({"precision": "int8", "block_size": 48}, "48 is not a power of two"),
        ({"precision": "int8", "method": "gptq"}, "gptq is for int4"),
        ({"precision": "fp16", "kernel": "dynamic"}, "int8 channels"),
    ],
)
def test_what_cannot_be_is_refused(scheme, said):
    with pytest.raises(ConfigError, match=said):
        Scheme(**scheme)


@pytest.mark.parametrize("needs", [{"method": "gptq"}, {"kv": "int8"}])
def test_what_needs_text_is_refused_without(tiny_checkpoint, needs):
    assert Scheme(precision="int4", **needs).needs_text
    with pytest.raises(ConfigError, match="calibrate first"):
        weights(tiny_checkpoint, precision="int4", **needs)
    assert not Scheme(precision="int4", method="hqq").needs_text
