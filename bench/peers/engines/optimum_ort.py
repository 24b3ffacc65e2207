"""optimum-onnx: its exporter, its dynamic int8 quantizer, and `ORTModelForCausalLM.generate`.

options: precision (fp32, int8). int8 is per channel for AVX512-VNNI; the head stays fp32, as it
does for its users.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peers.engines.transformers_torch import generate_timed
from peers.work import Timed, Work


def prepare(checkpoint: Path, folder: Path, options: Mapping[str, Any]) -> None:
    """Export with a cache, quantize if asked."""
    from optimum.onnxruntime import ORTModelForCausalLM, ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    plain = folder if options["precision"] == "fp32" else folder / "fp32"
    ORTModelForCausalLM.from_pretrained(checkpoint, export=True, use_cache=True).save_pretrained(
        plain
    )
    if options["precision"] == "int8":
        quantizer = ORTQuantizer.from_pretrained(plain, file_name="model.onnx")
        settings = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
        quantizer.quantize(save_dir=folder, quantization_config=settings, file_suffix="")
        shutil.rmtree(plain)  # its loader takes the first model of that name


def run(folder: Path, options: Mapping[str, Any], work: Work) -> Timed:
    """Generate through transformers' loop over an onnxruntime session with IO binding."""
    import onnxruntime
    from optimum.onnxruntime import ORTModelForCausalLM

    session = onnxruntime.SessionOptions()
    session.intra_op_num_threads = work.threads
    model = ORTModelForCausalLM.from_pretrained(
        folder, file_name="model.onnx", session_options=session, use_io_binding=True
    )
    return generate_timed(model, work)
