"""Token shards of random ids for the tiny random checkpoints, and heads that are copies."""

import json

import numpy as np
import pytest
import torch

HEAD_DIM = 8


@pytest.fixture
def make_shards(tmp_path):
    """Return a function that writes shards of random ids without a tokenizer's hash."""

    def make(name="shards", *, n_train=4096, n_valid=512, vocab_size=97):
        folder = tmp_path / name
        folder.mkdir()
        generator = np.random.default_rng(0)
        splits = {}
        for split, n_tokens in (("train", n_train), ("valid", n_valid)):
            generator.integers(3, vocab_size, n_tokens).astype("<u2").tofile(
                folder / f"{split}.bin"
            )
            np.array([[n_tokens, 3 * n_tokens, 0]] if n_tokens else [], "<i8").tofile(
                folder / f"{split}.idx"
            )
            splits[split] = {"documents": int(n_tokens > 0), "tokens": n_tokens}
        meta = {
            "schema_version": 1,
            "dtype": "uint16",
            "groups": ["random"],
            "splits": splits,
            "tokenizer": {"sha256": None, "vocab_size": vocab_size},
            "document_start": {"token_id": None, "role": "none"},
            "files": {"train.bin": ""},
        }
        (folder / "meta.json").write_text(json.dumps(meta))
        return folder

    return make


def turn(heads, angles, scales):
    """Turn and scale each pair of channels of one head (head_dim, ...) by its own."""
    first, second = heads.chunk(2)
    shape = (-1, *[1] * (heads.ndim - 1))
    cos, sin = ((f(angles) * scales).view(shape) for f in (torch.cos, torch.sin))
    return torch.cat((first * cos - second * sin, second * cos + first * sin))


@pytest.fixture
def plant_copies():
    """Return a function that makes an edit: heads of a group become disguised copies of one.

    Keys are turned and scaled, values multiplied by an invertible matrix; queries and output are
    changed so that the model stays the one whose heads are plain copies.
    """

    def plant(grouping, n_queries=1):
        def edit(tensors):
            generator = torch.Generator().manual_seed(7)
            for name in [name for name in tensors if name.endswith("k_proj.weight")]:
                names = [name.replace("k_proj", f"{part}_proj") for part in "qkvo"]
                q, k, v, o = (tensors[each].clone() for each in names)
                for group in grouping:
                    for head in group:
                        _disguise(q, k, v, o, group[0], head, n_queries, generator)
                tensors |= zip(names, (q, k, v, o), strict=True)

        return edit

    return plant


def _disguise(q, k, v, o, model, head, n_queries, generator):
    rows, own = (slice(h * HEAD_DIM, (h + 1) * HEAD_DIM) for h in (model, head))
    angles = torch.rand(HEAD_DIM // 2, generator=generator) * 6.28
    scales = torch.rand(HEAD_DIM // 2, generator=generator) + 0.5
    matrix = torch.randn(HEAD_DIM, HEAD_DIM, generator=generator) + 2 * torch.eye(HEAD_DIM)
    if head != model:
        k[own] = turn(k[rows], angles, scales)
        v[own] = matrix @ v[rows]
        for query in range(head * n_queries, (head + 1) * n_queries):
            columns = slice(query * HEAD_DIM, (query + 1) * HEAD_DIM)
            q[columns] = turn(q[columns], angles, 1 / scales)
            o[:, columns] = o[:, columns] @ torch.linalg.inv(matrix)
