import shutil

import numpy as np
import pytest

pytest.importorskip("executorch")
pytest.importorskip("torchao")

from sentencepiece import SentencePieceProcessor

from edgetiny.errors import ArtefactError, ConfigError
from edgetiny.files import read_json, sha256_file, write_json
from edgetiny.runtimes import EagerRuntime, open_runtime
from edgetiny.tokenizer import Tokenizer

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tiny_checkpoint, tmp_path_factory):
    """Return an artefact with a program for one sequence and one for three."""
    from edgetiny.config.export import ExportConfig
    from edgetiny.export.stage import run

    out = tmp_path_factory.mktemp("artefact") / "tiny-pte"
    run(
        ExportConfig(
            source=tiny_checkpoint.path,
            out=out,
            format=("executorch",),
            precision="fp32",
            batch=(1, 3),
        )
    )
    return out


@pytest.fixture(scope="module")
def one(folder):
    return open_runtime(folder, threads=1)


@pytest.fixture(scope="module")
def three(folder):
    return open_runtime(folder, threads=1, max_batch=3)


@pytest.fixture
def tokens():
    return np.random.default_rng(0).integers(0, 512, (3, 12))


def greedy(runtime, tokens, lengths, n_new=8):
    ids = [runtime.prefill(tokens, lengths).argmax(axis=-1)[:, None]]
    for _ in range(n_new - 1):
        ids.append(runtime.greedy_step(ids[-1]))
    return np.concatenate(ids, axis=1)


@pytest.mark.parametrize("lengths", [[12, 12, 12], [12, 3, 7], [5, 6]])
def test_every_answer_is_the_checkpoint_s(three, tiny_checkpoint, tokens, lengths):
    eager = EagerRuntime.load(tiny_checkpoint, threads=1)
    lengths = np.array(lengths)
    tokens = tokens[: len(lengths)]
    both = (three, eager)
    np.testing.assert_allclose(*(each.prefill(tokens, lengths) for each in both), atol=1e-4)
    for width in (1, 1, 4, 1):
        new = tokens[:, :width]
        np.testing.assert_allclose(*(each.step(new) for each in both), atol=1e-4)
    for each in both:
        each.rewind(8)
    np.testing.assert_allclose(*(each.step(tokens[:, :2]) for each in both), atol=1e-4)
    np.testing.assert_allclose(*(each.score(tokens, lengths) for each in both), atol=1e-4)


def test_one_sequence_is_filled_in_one_run(one, tiny_checkpoint, tokens):
    eager = EagerRuntime.load(tiny_checkpoint, threads=1)
    both = (one, eager)
    for n_tokens in (1, 2, 9):
        row, length = tokens[:1, :n_tokens], np.array([n_tokens])
        np.testing.assert_allclose(*(each.prefill(row, length) for each in both), atol=1e-4)
        np.testing.assert_allclose(*(each.step(tokens[1:2, :3]) for each in both), atol=1e-4)
    # More rows than the program takes are scored one after the other.
    lengths = np.array([12, 3, 7])
    np.testing.assert_allclose(*(each.score(tokens, lengths) for each in both), atol=1e-4)


def test_unequal_prompts_give_the_ids_of_each_alone(one, three, tokens):
    lengths = np.array([12, 1, 7])
    batch = greedy(three, tokens, lengths)
    for row in range(3):
        alone = greedy(one, tokens[row : row + 1, : lengths[row]], lengths[row : row + 1])
        assert batch[row].tolist() == alone[0].tolist()


def test_the_llm_runner_writes_the_same_text(folder, one, tiny_checkpoint):
    from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner

    tokenizer = Tokenizer.open(folder)
    prompt, n_new = "The import statement", 64
    start = tiny_checkpoint.config.bos_token_id
    ids = np.array([[start, *tokenizer.encode(prompt)]])
    wanted = greedy(one, ids, np.array([ids.shape[1]]), n_new)[0].tolist()
    if 2 in wanted:
        wanted = wanted[: wanted.index(2)]
    runner = TextLLMRunner(str(folder / "model.pte"), str(folder / "tokenizer.model"))
    pieces = []
    settings = GenerationConfig(echo=False, max_new_tokens=n_new, temperature=0.0, num_bos=1)
    runner.generate(prompt, settings, pieces.append)
    # It writes a token at a time, and bytes that are no character yet by their names.
    named = SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).id_to_piece(wanted)
    assert "".join(pieces).strip() == "".join(named).replace("\u2581", " ").strip()


def test_a_larger_batch_or_context_is_refused(folder, one, three, tokens):
    with pytest.raises(ConfigError, match="--batch 4"):
        three.prefill(np.ones((4, 2), np.int64), np.full(4, 2))
    with pytest.raises(ConfigError, match="for 4 sequences"):
        open_runtime(folder, max_batch=4)
    with pytest.raises(ConfigError, match="larger --context"):
        open_runtime(folder, context=129)
    one.reset()
    with pytest.raises(ConfigError, match="prefill first"):
        one.step(tokens[:1, :1])


def test_a_damaged_program_is_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    program = copy / "model.pte"
    program.write_bytes(program.read_bytes()[:1000])
    with pytest.raises(ArtefactError, match="its hash is not the manifest's"):
        open_runtime(copy)
    manifest = read_json(copy / "manifest.json", error=ArtefactError)
    manifest["files"]["model.pte"] = {"bytes": 1000, "sha256": sha256_file(program)}
    write_json(copy / "manifest.json", manifest)
    with pytest.raises(ArtefactError, match="cannot load"):
        open_runtime(copy)


def test_other_runtimes_are_named(folder, tiny_checkpoint):
    with pytest.raises(ConfigError, match="runs in the executorch runtime"):
        open_runtime(folder, runtime="eager")
    with pytest.raises(ConfigError, match="export it first"):
        open_runtime(tiny_checkpoint.path, runtime="executorch")
