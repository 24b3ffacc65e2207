"""OpenVINO: optimum-intel's exporter, then its own pipeline or its stateful graph in our loop.

options: weights (int8, int4, fp16), group_size, sym, hints (properties of the device), loop:
"pipeline" is openvino_genai's LLMPipeline; "request" runs the same graph step by step.
"""

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from peers.work import SHOWN_IDS, Ids, Timed, Work, argmax_ids, greedy


def prepare(checkpoint: Path, folder: Path, options: Mapping[str, Any]) -> None:
    """Run `optimum-cli export openvino`."""
    command = [str(Path(sys.executable).parent / "optimum-cli"), "export", "openvino"]
    command += ["--model", str(checkpoint), "--task", "text-generation-with-past"]
    command += ["--weight-format", options["weights"]]
    if options["weights"] == "int4":
        # Every layer, the head and the embedding too: it leaves them at 8 bits otherwise.
        command += ["--group-size", str(options["group_size"]), "--ratio", "1.0", "--all-layers"]
        command += ["--sym"] if options["sym"] else []
    subprocess.run([*command, str(folder)], check=True)


def run(folder: Path, options: Mapping[str, Any], work: Work) -> Timed:
    """Decode by the pipeline or by infer requests."""
    loop = _pipeline if options["loop"] == "pipeline" else _request
    return loop(folder, dict(options["hints"]), work)


def _properties(hints: Mapping[str, Any], work: Work) -> dict[str, Any]:
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": work.threads,
        **hints,
    }


def _request(folder: Path, hints: Mapping[str, Any], work: Work) -> Timed:
    import openvino

    core = openvino.Core()
    model = core.compile_model(folder / "openvino_model.xml", "CPU", _properties(hints, work))
    request = model.create_infer_request()
    names = {name for port in model.inputs for name in port.get_names()}
    beams = np.arange(work.batch, dtype=np.int32)

    def step(ids: Ids, position: int) -> Ids:
        end = position + ids.shape[1]
        inputs = {"input_ids": ids, "attention_mask": np.ones((work.batch, end), np.int64)}
        if "position_ids" in names:
            inputs["position_ids"] = np.tile(np.arange(position, end), (work.batch, 1))
        if "beam_idx" in names:
            inputs["beam_idx"] = beams
        request.start_async(inputs, share_inputs=True)
        request.wait()
        return argmax_ids(request.get_output_tensor(0).data[:, -1])

    def start(prompt: Ids) -> Ids:
        request.reset_state()
        return step(prompt, 0)

    return greedy(start, step, work)


def _pipeline(folder: Path, hints: Mapping[str, Any], work: Work) -> Timed:
    import openvino
    import openvino_genai

    pipeline = openvino_genai.LLMPipeline(str(folder), "CPU", **_properties(hints, work))

    def generate(new_tokens: int) -> Timed:
        config = openvino_genai.GenerationConfig(
            max_new_tokens=new_tokens, ignore_eos=True, do_sample=False
        )
        inputs = openvino_genai.TokenizedInputs(
            openvino.Tensor(work.prompt), openvino.Tensor(np.ones_like(work.prompt))
        )
        begin = time.perf_counter()
        result = pipeline.generate(inputs, config)
        seconds = time.perf_counter() - begin
        if any(len(row) != new_tokens for row in result.tokens):
            raise ValueError(f"asked for {new_tokens} tokens, got {list(map(len, result.tokens))}")
        return Timed(
            seconds=seconds,
            first_token_seconds=result.perf_metrics.get_ttft().mean / 1e3,
            first_ids=[int(token) for token in result.tokens[0][:SHOWN_IDS]],
        )

    generate(work.warm_up_tokens)
    return generate(work.new_tokens)
