"""onnxruntime-genai: its model builder, its generator, and its graph in a loop of our own.

options: precision (fp32, int8, int4), block_size, extra (further options of the builder), kv_scale
(of an int8 cache, one for all heads), loop:
"generator" is onnxruntime-genai's own C++ loop; "binding" runs the same graph in onnxruntime with a
shared key/value buffer bound once, and takes the argmax in numpy.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from peers.work import Ids, Timed, Work, argmax_ids, greedy

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
}


def prepare(checkpoint: Path, folder: Path, options: Mapping[str, Any]) -> None:
    """Run the model builder for the CPU."""
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
    command += ["-i", str(checkpoint), "-o", str(folder), "-e", "cpu"]
    command += ["-p", options["precision"], "-c", str(folder / "cache")]
    extra = dict(options["extra"])
    if options["kv_scale"] is not None:
        extra["kv_cache_scale_file"] = _scale_file(checkpoint, folder, options["kv_scale"])
    if options["block_size"] is not None:
        extra["block_size"] = options["block_size"]
    if extra:
        command += ["--extra_options", *(f"{name}={value}" for name, value in extra.items())]
    subprocess.run(command, check=True)


def _scale_file(checkpoint: Path, folder: Path, scale: float) -> Path:
    """Write one scale for keys and values of every layer, as the builder reads it."""
    layers = json.loads((checkpoint / "config.json").read_text("utf-8"))["num_hidden_layers"]
    scales = {"k_scales": [scale] * layers, "v_scales": [scale] * layers}
    path = folder / "kv_scales.json"
    path.write_text(json.dumps({"scales": scales}), encoding="utf-8")
    return path


def run(folder: Path, options: Mapping[str, Any], work: Work) -> Timed:
    """Decode by the generator or by IO binding."""
    loop = _generator if options["loop"] == "generator" else _binding
    return loop(folder, work)


def _generator(folder: Path, work: Work) -> Timed:
    import onnxruntime_genai as og

    session = {"intra_op_num_threads": work.threads}
    config = og.Config(str(folder))
    config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
    model = og.Model(config)
    held: list[Any] = []

    def start(prompt: Ids) -> Ids:
        held.clear()  # its buffers, before the next ones are made
        parameters = og.GeneratorParams(model)
        # Also the least length: an end-of-sequence token ends nothing here.
        parameters.set_search_options(
            batch_size=work.batch,
            max_length=work.context,
            min_length=work.context,
            do_sample=False,
            past_present_share_buffer=True,
        )
        generator = og.Generator(model, parameters)
        generator.append_tokens(prompt.astype(np.int32))
        held.append(generator)
        return step(prompt, 0)

    def step(_: Ids, __: int) -> Ids:
        held[0].generate_next_token()
        next_ids: Ids = np.array(held[0].get_next_tokens(), np.int64)[:, None]
        return next_ids

    return greedy(start, step, work)


def _binding(folder: Path, work: Work) -> Timed:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = work.threads
    options.enable_mem_pattern = False
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    # The graph names these axes; its configuration knows them.
    model = json.loads((folder / "genai_config.json").read_text("utf-8"))["model"]
    decoder, vocabulary = model["decoder"], model["vocab_size"]
    shape = (work.batch, decoder["num_key_value_heads"], work.context, decoder["head_size"])
    caches = {
        spec.name: np.zeros(shape, _TYPES[spec.type])
        for spec in session.get_inputs()
        if spec.name.startswith("past_key_values.")
    }

    def step(ids: Ids, position: int) -> Ids:
        binding = session.io_binding()
        mask = np.ones((work.batch, position + ids.shape[1]), np.int64)
        logits = np.empty((*ids.shape, vocabulary), np.float32)
        for name, array in {"input_ids": ids, "attention_mask": mask}.items():
            binding.bind_input(name, "cpu", 0, np.int64, array.shape, array.ctypes.data)
        for name, cache in caches.items():
            place = ("cpu", 0, cache.dtype, cache.shape, cache.ctypes.data)
            binding.bind_input(name, *place)
            binding.bind_output(name.replace("past_key_values.", "present."), *place)
        binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        session.run_with_iobinding(binding)
        return argmax_ids(logits[:, -1])

    return greedy(lambda prompt: step(np.ascontiguousarray(prompt), 0), step, work)
