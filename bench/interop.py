"""The same greedy text in every program that loads what `edgetiny export` writes.

    python bench/interop.py --checkpoint DIR --out DIR --write docs/results/interop

The checkpoint, a copy with fewer key/value heads, and copies of both whose head is a tensor of its
own (the embedding again) are exported at fp32, int8 and int4 in every format. Each loader continues
two prompts greedily by 64 tokens, or up to the end of the text. At fp32 that is the checkpoint's
text, or parts from it where the checkpoint's two likeliest tokens are less than twice the largest
logit error apart; quantized, the loaders of one file agree with each other.
A loader that is not installed is a row that says so; llama.cpp is the module `llama_cpp`.
Artefacts stay in `--out`: the same call again uses them. Exits 1 if a text is not explained.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgetiny.artefact import Artefact, is_artefact
from edgetiny.checkpoint import Checkpoint, ModelConfig, write_checkpoint
from edgetiny.checkpoint.model_config import divisors
from edgetiny.config.export import ExportConfig
from edgetiny.console import Reporter
from edgetiny.device import cpu_model
from edgetiny.export.card import table
from edgetiny.export.stage import run
from edgetiny.files import atomic_folder
from edgetiny.gqa import to_gqa
from edgetiny.runtimes import Runtime, open_runtime
from edgetiny.tokenizer import Tokenizer

N_NEW = 64
PROMPTS = {"en": "The history of the town", "zh": "\u4ed6\u7684\u7236\u4eb2\u662f"}
PACKAGES = ("onnxruntime", "onnxruntime-genai", "optimum", "transformers", "executorch")
Logits = NDArray[np.float64]


@dataclass(frozen=True)
class Prompt:
    """A text to continue: its ids with the start token, and what the checkpoint adds in fp32."""

    name: str
    text: str
    ids: list[int]
    wanted: list[int]
    logits: Logits


@dataclass(frozen=True)
class Loader:
    """A program. file: which artefact it loads; of one file all loaders should agree."""

    name: str
    file: str
    greedy: Callable[[Path, Prompt], list[int] | str]
    logits: Callable[[Path, Prompt], Logits] | None = None


def our_greedy(runtime: Runtime, ids: list[int]) -> list[int]:
    """Return 64 ids by one of our runtimes."""
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


def ours(name: str, file: str, runtime: str) -> Loader:
    """Return a loader of ours."""

    def opened(folder: Path) -> Runtime:
        return open_runtime(folder, runtime=runtime, threads=1)  # type: ignore[arg-type]

    return Loader(
        name,
        file,
        lambda folder, prompt: our_greedy(opened(folder), prompt.ids),
        lambda folder, prompt: our_logits(opened(folder), prompt.ids, prompt.wanted),
    )


def genai_greedy(folder: Path, prompt: Prompt) -> list[int]:
    """Return what onnxruntime-genai adds."""
    import onnxruntime_genai as genai

    model = genai.Model(str(folder))
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=len(prompt.ids) + N_NEW)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(np.array(prompt.ids, np.int32))
    made: list[int] = []
    while len(made) < N_NEW and not generator.is_done():
        generator.generate_next_token()
        made.append(int(generator.get_next_tokens()[0]))
    return made


def optimum_greedy(folder: Path, prompt: Prompt) -> list[int]:
    """Return what optimum adds."""
    from optimum.onnxruntime import ORTModelForCausalLM

    model = ORTModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([prompt.ids])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=N_NEW,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    made: list[int] = out[0, len(prompt.ids) :].tolist()
    return made


def runner_text(folder: Path, prompt: Prompt) -> str:
    """Return what ExecuTorch's LLM runner writes: it shows no ids."""
    from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner

    runner = TextLLMRunner(str(folder / "model.pte"), str(folder / "tokenizer.model"))
    pieces: list[str] = []
    settings = GenerationConfig(echo=False, max_new_tokens=N_NEW, temperature=0.0, num_bos=1)
    runner.generate(prompt.text, settings, pieces.append)
    return "".join(pieces).strip()


def llama(folder: Path) -> Any:
    """Return llama.cpp over the artefact's file."""
    from llama_cpp import Llama

    return Llama(str(folder / "model.gguf"), n_ctx=256, n_threads=1, verbose=False, logits_all=True)


def llama_greedy(folder: Path, prompt: Prompt) -> list[int]:
    """Return what llama.cpp adds."""
    made: list[int] = []
    for token in llama(folder).generate(prompt.ids, temp=0.0, repeat_penalty=1.0):
        made.append(token)
        if len(made) == N_NEW:
            break
    return made


def llama_logits(folder: Path, prompt: Prompt) -> Logits:
    """Return llama.cpp's logits of the checkpoint's text."""
    engine = llama(folder)
    engine.eval([*prompt.ids, *prompt.wanted[:-1]])
    end = len(prompt.ids) + len(prompt.wanted) - 1
    return np.array(engine.scores[len(prompt.ids) - 1 : end], np.float64)


LOADERS = (
    ours("edgetiny, onnx (edgetiny layout)", "own", "onnx"),
    ours("edgetiny, onnx (portable layout)", "portable", "onnx"),
    Loader("onnxruntime-genai", "portable", genai_greedy),
    Loader("optimum", "portable", optimum_greedy),
    ours("ExecuTorch, Python runtime", "pte", "executorch"),
    Loader("ExecuTorch, LLM runner", "pte", runner_text),
    Loader("llama.cpp", "gguf", llama_greedy, llama_logits),
)


def checkpoints(source: Checkpoint, out: Path) -> dict[str, Checkpoint]:
    """Return the source and its copies; GQA is the mean of neighbours."""
    heads = source.config.num_key_value_heads
    if not source.config.tie_word_embeddings or len(divisors(heads)) < 2:
        raise SystemExit("give a tied checkpoint whose key/value heads can be merged")
    groups = divisors(heads)[-2]
    shape, tensors = to_gqa(source, groups)
    made = {f"MHA ({heads}), tied": source}
    table_name = "model.embed_tokens.weight"
    for name, config, state in (
        (f"GQA ({groups}), tied", shape, dict(tensors)),
        (f"MHA ({heads}), untied", untied(source.config), dict(source.state_dict())),
        (f"GQA ({groups}), untied", untied(shape), dict(tensors)),
    ):
        if not config.tie_word_embeddings:
            state["lm_head.weight"] = state[table_name].clone()
        folder = out / name.replace(", ", "-").replace(" (", "").replace(")", "")
        if not folder.exists():
            with atomic_folder(folder) as inside:
                write_checkpoint(
                    inside, config, state, stage="interop", settings={}, parent=source,
                    tokenizer=source.path,
                )  # fmt: skip
        made[name] = Checkpoint.open(folder)
    return made


def untied(config: ModelConfig) -> ModelConfig:
    """Return the shape with a head of its own."""
    return replace(config, tie_word_embeddings=False)


def exported(checkpoint: Checkpoint, precision: str, out: Path) -> dict[str, Path]:
    """Return the folder of each file that loaders take, exported if it is not there."""
    settings: Mapping[str, dict[str, Any]] = {
        "own": {"format": ("onnx",)},
        "portable": {"format": ("onnx",), "layout": "portable"},
        "pte": {"format": ("executorch",)},
        "gguf": {"format": ("gguf",)},
    }
    folders = {}
    for file, chosen in settings.items():
        folder = out / f"{checkpoint.path.name}-{precision}-{file}"
        if not is_artefact(folder):
            print(f"exporting {folder.name}", file=sys.stderr, flush=True)
            run(
                ExportConfig(
                    source=checkpoint.path, out=folder, precision=precision,  # type: ignore[arg-type]
                    context=256, **chosen,
                ),
                Reporter(quiet=True),
            )  # fmt: skip
        elif Artefact.open(folder).manifest["source_sha256"] != checkpoint.sha256:
            raise SystemExit(f"{folder} was made from another checkpoint; choose another --out")
        folders[file] = folder
    return folders


def prompts_of(checkpoint: Checkpoint) -> list[Prompt]:
    """Return the prompts and how the checkpoint continues them in fp32, up to the end of text."""
    tokenizer, eager = Tokenizer.open(checkpoint.path), open_runtime(checkpoint.path, threads=1)
    start, ends = checkpoint.config.bos_token_id, set(checkpoint.config.eos_token_ids)
    made = []
    for name, text in PROMPTS.items():
        ids = [*([] if start is None else [start]), *tokenizer.encode(text)]
        wanted = our_greedy(eager, ids)
        wanted = until_end(wanted, ends)
        made.append(Prompt(name, text, ids, wanted, our_logits(eager, ids, wanted)))
    return made


def until_end(ids: list[int], ends: set[int]) -> list[int]:
    """Return ids up to the one that ends a text."""
    return ids[: next((place for place, id in enumerate(ids) if id in ends), len(ids))]


def named(folder: Path, ids: list[int]) -> str:
    """Return ids as the LLM runner writes them: bytes that are no character by their names."""
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).id_to_piece(ids)
    return "".join(pieces).replace("\u2581", " ").strip()


def first_difference(
    folder: Path, wanted: list[int], found: list[int] | str, ends: set[int]
) -> int | None:
    """Return the first place where a text is another; None if it is the same."""
    if isinstance(found, str):
        if found == named(folder, wanted):
            return None
        same = [n for n in range(len(wanted)) if found.startswith(named(folder, wanted[:n]))]
        return max(same)
    # Some stop at the end of a text, some go on behind it.
    found = until_end(found, ends)
    pairs = list(zip(wanted, found, strict=False))
    differ = [place for place, (a, b) in enumerate(pairs) if a != b]
    return differ[0] if differ else (None if len(found) >= len(wanted) else len(found))


def compared(wanted: Logits, given: Logits) -> dict[str, float]:
    """Return error, divergence and agreement of logits (n, V), a constant of each row left out."""
    wanted, given = (x - x.mean(axis=1, keepdims=True) for x in (wanted, given))
    log_p, log_q = (
        x
        - np.log(np.exp(x - x.max(1, keepdims=True)).sum(1, keepdims=True))
        - x.max(1, keepdims=True)
        for x in (wanted, given)
    )
    return {
        "max_abs_error": float(np.abs(wanted - given).max()),
        "kl_nats": float((np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean()),
        "top1_agreement": float((wanted.argmax(1) == given.argmax(1)).mean()),
    }


def measure(name: str, checkpoint: Checkpoint, precision: str, out: Path) -> list[dict[str, Any]]:
    """Return a row per loader and prompt of one model at one precision."""
    folders = exported(checkpoint, precision, out)
    ends = set(checkpoint.config.eos_token_ids)
    rows = []
    for prompt in prompts_of(checkpoint):
        texts: dict[str, list[int]] = {}
        facts: dict[str, dict[str, float]] = {}
        for loader in LOADERS:
            row: dict[str, Any] = {"model": name, "precision": precision, "loader": loader.name}
            row |= {"file": loader.file, "prompt": prompt.name, "tokens": len(prompt.wanted)}
            folder = folders[loader.file]
            try:
                found = loader.greedy(folder, prompt)
            except ImportError as error:
                rows.append(row | {"absent": str(error)})
                continue
            if loader.logits is not None:
                given = loader.logits(folder, prompt)
                facts[loader.file] = compared(prompt.logits, given)
            # Of a quantized file the first loader's text is what the others have to give.
            wanted = prompt.wanted
            if precision != "fp32":
                if loader.file not in texts:
                    assert not isinstance(found, str), "the runner is not the first of its file"
                    texts[loader.file] = until_end(found, ends)
                wanted = texts[loader.file]
            at = first_difference(folder, wanted, found, ends)
            rows.append(
                row | facts[loader.file] | verdict(prompt, precision, at, facts[loader.file])
            )
    return rows


def verdict(
    prompt: Prompt, precision: str, at: int | None, facts: Mapping[str, float]
) -> dict[str, Any]:
    """Return where a text parts, and whether the error explains it; quantized, nothing does."""
    if at is None or precision != "fp32" or at >= len(prompt.wanted):
        return {"first_difference": at, "gap": None, "explained": at is None}
    second, first = np.partition(prompt.logits[at], -2)[-2:]
    gap = float(first - second)
    return {
        "first_difference": at,
        "gap": gap,
        "explained": gap < 2 * facts["max_abs_error"],
    }


def line_of(row: dict[str, Any]) -> dict[str, str]:
    """Return a row for people."""
    line = {"model": row["model"], "weights": row["precision"], "loader": row["loader"]}
    line["prompt"] = row["prompt"]
    if "absent" in row:
        return line | {"64 tokens": f"not here: {row['absent']}"} | dict.fromkeys(_FIGURES, "")
    text = f"the same {row['tokens']}"
    if row["precision"] != "fp32":
        text = "as the file's first loader"
    if row["first_difference"] is not None:
        gap = "" if row["gap"] is None else f", top-2 gap {row['gap']:.1e}"
        word = "explained" if row["explained"] else "NOT EXPLAINED"
        text = f"parts at {row['first_difference']}{gap}: {word}"
    figures = (
        f"{row['max_abs_error']:.1e}",
        f"{row['kl_nats']:.1e}",
        f"{100 * row['top1_agreement']:.0f}%",
    )
    return line | {"64 tokens": text} | dict(zip(_FIGURES, figures, strict=True))


_FIGURES = ("largest logit error", "KL, nats", "same likeliest")


def markdown(shape: str, rows: list[dict[str, Any]]) -> str:
    """Return the page."""
    ran = [row for row in rows if "absent" not in row]
    bad = [row for row in ran if not row["explained"]]
    versions = ", ".join(f"{name} {_version(name)}" for name in (*PACKAGES, "llama-cpp-python"))
    lines = [
        "# One model in every program that loads it",
        "",
        "Written by `bench/interop.py`.",
        "",
        f"- model: {shape}; GQA is the mean of neighbours, untied is the same model with the"
        " embedding copied into a head of its own",
        f"- {versions}; {cpu_model()}, one thread, Python {platform.python_version()}",
        "- llama.cpp keeps keys and values in fp16; int4 is rounded to the nearest",
        "- two prompts (English, Chinese), each continued greedily by 64 tokens or to the end of"
        " the text; figures are against the checkpoint in fp32, over these tokens, of the file"
        " that a loader reads (of a loader that shows no logits: as our runtime reads it)",
        "",
        f"{len(ran)} texts, {sum(row['first_difference'] is None for row in ran)} the same,"
        f" {len(bad)} not explained; {len(rows) - len(ran)} not run.",
        "",
        *table([line_of(row) for row in rows]),
    ]
    return "\n".join(lines) + "\n"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        try:
            return str(__import__(name.removesuffix("-python").replace("-", "_")).__version__)
        except ImportError:
            return "not here"


def main() -> None:
    """Measure every model and precision, writing the page as it grows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="tied, with a tokenizer")
    parser.add_argument("--out", type=Path, required=True, help="where artefacts stay")
    parser.add_argument("--precision", nargs="+", default=["fp32", "int8", "int4"])
    parser.add_argument("--write", type=Path, help="results, without suffix")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    source = Checkpoint.open(options.checkpoint)
    models = checkpoints(source, options.out)
    rows: list[dict[str, Any]] = []
    for precision in options.precision:
        for name, checkpoint in models.items():
            rows += measure(name, checkpoint, precision, options.out)
            page = markdown(str(source.summary()["shape"]), rows)
            if options.write is not None:
                options.write.with_suffix(".md").write_text(page, encoding="utf-8")
                text = json.dumps({"rows": rows}, indent=1) + "\n"
                options.write.with_suffix(".json").write_text(text, encoding="utf-8")
    print(page)
    sys.exit(int(any(not row.get("explained", True) for row in rows)))


if __name__ == "__main__":
    main()
