"""The serving engine: ONNX Runtime on the CPU, one thread a call and no spinning."""

import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from models.engine import pad
from models.errors import BundleError
from models.schema import FloatArray


def _overflows() -> bool:
    """Whether this is an x86 processor whose int8 products may overflow: one without VNNI instructions."""
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        return False
    try:
        return "vnni" not in Path("/proc/cpuinfo").read_text("utf-8", errors="replace")
    except OSError:
        return True


class OnnxEngine:
    """Runs `model.onnx`; ONNX Runtime sessions may be called from many threads at once."""

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if _overflows():
            options.add_session_config_entry("session.x64quantprecision", "1")  # exact sums there, at half the speed
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own errors share no public base class
            raise BundleError(f"{path} cannot be run ({error}). Train or download the bundle again.") from error

    def run(self, rows: Sequence[Sequence[int]]) -> FloatArray:
        """Logits, shape (len(rows), labels), of rows of token ids."""
        ids, mask = pad(rows)
        (logits,) = self._session.run(["logits"], {"input_ids": ids, "attention_mask": mask})
        return np.asarray(logits, dtype=np.float64)
