"""What torch and the file compute of a network of one's own, trained on digits. Torch's own rounding is the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import nn

from harness.recipe import Recipe, parse_recipe
from harness.registries import REGISTRIES
from harness.tasks.data import Data
from harness.train.fit import Trained, fit
from harness.train.lanes import Examples
from harness.train.predict import normalized
from harness.train.schedule import begin
from harness.train.student import Run


def begun(module: nn.Module, data: Data, samples: int, **sections: Any) -> Run:
    """``module`` before its two epochs on so many samples; ``sections`` of its recipe: prune, quant, ..."""
    return begin(*_given(module, data, samples, sections))


def trained(module: nn.Module, data: Data, samples: int, **sections: Any) -> Trained:
    """``module`` after these epochs."""
    return fit(*_given(module, data, samples, sections))


def _given(module: nn.Module, data: Data, samples: int, sections: Any) -> tuple[Recipe, nn.Module, Examples]:
    tree = {
        "task": {"name": "digits"},
        "student": {"model": "mlp"},  # the module takes its place
        "train": {"epochs": 2, "batch_size": 64, "lr": 0.02},
        **sections,
    }
    x, y = normalized(data.train[0], data)[:samples], data.train[1][:samples]
    return parse_recipe(tree, REGISTRIES), module, Examples(x, y)


def by_torch(made: Trained, x: torch.Tensor) -> np.ndarray:
    """Logits by torch's own fake quantization at the inputs of the rounded layers."""
    handles = []
    for path, (scale, zero, top) in ({} if made.quantized is None else made.quantized.activations).items():

        def rounded(_: Any, inputs: Any, scale: Any = scale, zero: Any = zero, top: Any = top) -> Any:
            return (torch.fake_quantize_per_tensor_affine(inputs[0], scale, zero, 0, top),)

        handles.append(made.module.get_submodule(path).register_forward_pre_hook(rounded))
    with torch.no_grad():
        logits = made.module(x).numpy()
    for handle in handles:
        handle.remove()
    return logits


def by_onnxruntime(path: Path, x: torch.Tensor) -> np.ndarray:
    """Logits of the file, exact also where a processor's sums of bytes would saturate at 8 bits."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"input": x.float().numpy()})[0])
