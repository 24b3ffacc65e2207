"""The programs: each continues a prompt greedily, and shows its logits where it can."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgetiny.runtimes import Runtime, open_runtime

N_NEW = 64
Logits = NDArray[np.float64]


@dataclass(frozen=True)
class Prompt:
    """A text to continue: its ids with the start token, and what the checkpoint adds in fp32.

    wanted: up to N_NEW ids, the last of which may end the text. logits: (len(wanted), V), from
    which each of them is chosen.
    """

    name: str
    text: str
    ids: list[int]
    wanted: list[int]
    logits: Logits

    @property
    def forced(self) -> list[int]:
        """Ids after whose prefixes, from the prompt on, the logits stand."""
        return [*self.ids, *self.wanted[:-1]]


@dataclass(frozen=True)
class Loader:
    """A program. file: which artefact it loads; of one file all loaders should agree.

    greedy: the ids that it adds, or its text if it shows no ids.
    logits: (len(wanted), V) of the checkpoint's text; None of a program that shows none.
    package: what an artefact's manifest calls it, where the manifest promises it by the shape.
    """

    name: str
    file: str
    greedy: Callable[[Path, Prompt], list[int] | str]
    logits: Callable[[Path, Prompt], Logits] | None = None
    package: str | None = None


def our_greedy(runtime: Runtime, ids: list[int]) -> list[int]:
    """Return N_NEW ids by one of our runtimes."""
    logits = runtime.prefill(np.array([ids]), np.array([len(ids)]))[0]
    made = [int(logits.argmax())]
    while len(made) < N_NEW:
        made.append(int(runtime.step(np.array([made[-1:]]))[0, 0].argmax()))
    return made


def our_logits(runtime: Runtime, ids: list[int], following: list[int]) -> Logits:
    """Return the logits (n, V) from which each of the following ids is chosen."""
    rows = [runtime.prefill(np.array([ids]), np.array([len(ids)]))[0]]
    rows += [runtime.step(np.array([[token]]))[0, 0] for token in following[:-1]]
    return np.stack(rows).astype(np.float64)


def _ours(name: str, file: str, runtime: str) -> Loader:
    def opened(folder: Path) -> Runtime:
        return open_runtime(folder, runtime=runtime, threads=1)  # type: ignore[arg-type]

    return Loader(
        name,
        file,
        lambda folder, prompt: our_greedy(opened(folder), prompt.ids),
        lambda folder, prompt: our_logits(opened(folder), prompt.ids, prompt.wanted),
    )


def _genai(folder: Path, ids: list[int], n_new: int) -> Any:
    """Return onnxruntime-genai's generator, with the prompt read."""
    import onnxruntime_genai as genai

    model = genai.Model(str(folder))
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=len(ids) + n_new)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(np.array(ids, np.int32))
    return generator


def genai_greedy(folder: Path, prompt: Prompt) -> list[int]:
    """Return what onnxruntime-genai adds."""
    generator = _genai(folder, prompt.ids, N_NEW)
    made: list[int] = []
    while len(made) < N_NEW and not generator.is_done():
        generator.generate_next_token()
        made.append(int(generator.get_next_tokens()[0]))
    return made


def genai_logits(folder: Path, prompt: Prompt) -> Logits:
    """Return onnxruntime-genai's logits of the checkpoint's text, an id at a time."""
    generator = _genai(folder, prompt.ids, N_NEW)
    rows = [generator.get_logits().reshape(-1)]
    for token in prompt.wanted[:-1]:
        generator.append_tokens(np.array([token], np.int32))
        rows.append(generator.get_logits().reshape(-1))
    return np.stack(rows).astype(np.float64)


def _optimum(folder: Path) -> Any:
    from optimum.onnxruntime import ORTModelForCausalLM

    return ORTModelForCausalLM.from_pretrained(folder)


def optimum_greedy(folder: Path, prompt: Prompt) -> list[int]:
    """Return what optimum adds."""
    ids = torch.tensor([prompt.ids])
    out = _optimum(folder).generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=N_NEW,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    made: list[int] = out[0, len(prompt.ids) :].tolist()
    return made


def optimum_logits(folder: Path, prompt: Prompt) -> Logits:
    """Return optimum's logits of the checkpoint's text, read in one pass."""
    ids = torch.tensor([prompt.forced])
    out = _optimum(folder)(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    rows: Logits = out[0, len(prompt.ids) - 1 :].numpy().astype(np.float64)
    return rows


def runner_text(folder: Path, prompt: Prompt) -> str:
    """Return what ExecuTorch's LLM runner writes: it shows no ids."""
    from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner

    runner = TextLLMRunner(str(folder / "model.pte"), str(folder / "tokenizer.model"))
    pieces: list[str] = []
    settings = GenerationConfig(echo=False, max_new_tokens=N_NEW, temperature=0.0, num_bos=1)
    runner.generate(prompt.text, settings, pieces.append)
    return "".join(pieces).strip()


def _llama(folder: Path) -> Any:
    from llama_cpp import Llama

    return Llama(str(folder / "model.gguf"), n_ctx=256, n_threads=1, verbose=False, logits_all=True)


def llama_greedy(folder: Path, prompt: Prompt) -> list[int]:
    """Return what llama.cpp adds."""
    made: list[int] = []
    for token in _llama(folder).generate(prompt.ids, temp=0.0, repeat_penalty=1.0):
        made.append(token)
        if len(made) == N_NEW:
            break
    return made


def llama_logits(folder: Path, prompt: Prompt) -> Logits:
    """Return llama.cpp's logits of the checkpoint's text, read in one pass."""
    engine = _llama(folder)
    engine.eval(prompt.forced)
    rows = engine.scores[len(prompt.ids) - 1 : len(prompt.forced)]
    return np.array(rows, np.float64)


LOADERS = (
    _ours("edgetiny, onnx (edgetiny layout)", "own", "onnx"),
    _ours("edgetiny, onnx (portable layout)", "portable", "onnx"),
    Loader("onnxruntime-genai", "portable", genai_greedy, genai_logits, "onnxruntime-genai"),
    Loader("optimum", "portable", optimum_greedy, optimum_logits, "optimum"),
    _ours("ExecuTorch, Python runtime", "pte", "executorch"),
    Loader("ExecuTorch, LLM runner", "pte", runner_text),
    Loader("llama.cpp", "gguf", llama_greedy, llama_logits),
)
