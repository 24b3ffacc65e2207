"""The models that every engine runs: random weights, so that only shapes decide the speed.

A is deep and narrow, G is A with two key/value heads, B has the bytes of G in a quarter of the
layers. Tied weights, vocabulary 16,000, normal weights of deviation 0.02.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgetiny.checkpoint import Checkpoint, ModelConfig, write_checkpoint
from edgetiny.config.tokenizer import TokenizerTrainConfig
from edgetiny.files import atomic_folder
from edgetiny.init import RandomTensors
from edgetiny.tokenizer.train import run as train_tokenizer

VOCABULARY = 16_000
CONTEXT = 1024
CALIBRATION_TEXT = "words.txt"
"""Beside the models: what the tokenizer is trained on, and an int8 cache calibrated."""
STD = 0.02

# layers, width, FFN width, query heads, key/value heads; every head has 64 dimensions.
SHAPES = {
    "A": (20, 640, 1776, 10, 10),
    "G": (20, 640, 1776, 10, 2),
    "B": (5, 1152, 3072, 18, 18),
}
_HEAD_DIM = 64
_WORDS = 200_000
_SYLLABLES = ("ba", "ke", "li", "mo", "nu", "par", "ri", "sol", "ten", "vu", "zi", "cho", "gra")


def shape(name: str) -> ModelConfig:
    """Return the configuration of model A, G or B."""
    layers, width, ffn, heads, kv_heads = SHAPES[name]
    return ModelConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=_HEAD_DIM,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_ids=(2,),
    )


def make_checkpoint(name: str, work: Path) -> Checkpoint:
    """Write a model's checkpoint under `work`, if it is not there, and open it."""
    out = work / "models" / name
    if not out.exists():
        config = shape(name)
        with atomic_folder(out, overwrite=False) as folder:
            write_checkpoint(
                folder,
                config,
                RandomTensors(config, std=STD, seed=0),
                stage="init",
                settings={"model": name, "std": STD, "seed": 0},
                parent=None,
                tokenizer=make_tokenizer(work),
            )
    return Checkpoint.open(out)


def make_tokenizer(work: Path) -> Path:
    """Return a tokenizer of the right size: converters want one, no measurement reads a word."""
    out = work / "models" / "tokenizer"
    if not out.exists():
        text = work / "models" / CALIBRATION_TEXT
        text.parent.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(0)
        words = ["".join(random.choice(_SYLLABLES, random.integers(2, 6))) for _ in range(_WORDS)]
        lines = [" ".join(words[start : start + 12]) for start in range(0, _WORDS, 12)]
        text.write_text("\n".join(lines) + "\n", encoding="utf-8")
        train_tokenizer(TokenizerTrainConfig(text=(text,), out=out, vocab_size=VOCABULARY))
    return out


def make_padded(name: str, work: Path, multiple: int = 128) -> Path:
    """Write the same model with its FFN filled up with zeros to a multiple; return the folder.

    Zero rows of gate and up meet zero columns of down: nothing changes but sizes. Engines whose
    blocks have to divide the width would leave such a layer in a wider type.
    """
    source = make_checkpoint(name, work)
    width = source.config.intermediate_size
    padded = -(-width // multiple) * multiple
    if padded == width:
        return source.path
    out = work / "models" / f"{name}-padded"
    if not out.exists():
        tensors = {
            key: _filled(tensor, width, padded) if ".mlp." in key else tensor
            for key, tensor in source.state_dict().items()
        }
        with atomic_folder(out, overwrite=False) as folder:
            write_checkpoint(
                folder,
                replace(source.config, intermediate_size=padded),
                tensors,
                stage="init",
                settings={"model": name, "intermediate_size": padded},
                parent=source,
                tokenizer=source.path,
            )
    return out


def _filled(weight: Tensor, width: int, padded: int) -> Tensor:
    shape = [padded if size == width else size for size in weight.shape]
    filled = torch.zeros(shape, dtype=weight.dtype)
    filled[: weight.shape[0], : weight.shape[1]] = weight
    return filled
