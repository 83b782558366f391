"""One trial as a user of Ray Tune or Optuna writes it: a DataLoader, a module, ``torch.optim``.

The peers have no compression, so pruning, rounding and export are harness's. The training loop is that of their
documentation. Latency is timed in the trial's process, as a user would do.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

from harness.models.build import build_model
from harness.recipe import parse_recipe
from harness.registries import REGISTRIES
from harness.techniques.optimizers import learning_rate_factor
from harness.train import pruning, schedule
from harness.train.fit import finish
from harness.train.forward import plain
from harness.train.lanes import Examples
from harness.train.quantization_points import quantized_activations
from harness.train.schedule import begin, enter
from harness.train.step import Layout, effective_weights
from harness.train.student import Run
from harness.train.teacher import quantities_of
from harness.trial.outcome import ship
from harness.trial.score import data_of, file_metrics, normalized_part

# Peers must not use the engine's fused form of a network. Making it would also break them: torch.fx patches modules for
# all threads while Optuna's n_jobs threads call theirs.
schedule.single = pruning.single = plain

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda params, lr, train: torch.optim.SGD(params, lr, train.momentum, weight_decay=train.weight_decay),
}


def plain_trial(tree: Mapping[str, Any], logits: Mapping[str, np.ndarray], folder: Path) -> dict[str, float]:
    """Train, export, score and time; returns the row and also writes it beside the file."""
    torch.set_num_threads(1)
    recipe = parse_recipe(tree, REGISTRIES)
    data = data_of(recipe)
    module = build_model(recipe.student, data.input_shape, data.classes, recipe.seed)
    x, y = normalized_part(recipe, "train", "cpu")
    teacher = quantities_of(recipe, data, logits, "cpu")["logits"]
    loader = DataLoader(TensorDataset(x, y, teacher), recipe.train.batch_size, shuffle=True, drop_last=True)
    run = _train(begin(recipe, module, Examples(x, y, {"logits": teacher})), loader)
    folder.mkdir(parents=True)
    path = folder / "model.onnx"
    made = ship(finish(run), recipe, path)
    row = {
        "accuracy": file_metrics(path, data, "validation")["accuracy"],
        "size_bytes": float(made.artifact.size_bytes),
        "latency_ms": latency_ms(path),
        "told": time.time(),
    }
    (folder / "row.json").write_text(json.dumps(row))
    return row


def _train(run: Run, loader: DataLoader[Any]) -> Run:
    train = run.recipe.train
    run = enter(run, 0.0)
    params, optimizer = _optimized(run)
    for epoch in range(train.epochs):
        layout = run.plan.layout
        run = enter(replace(run, state=replace(run.state, params=Layout.join(params))), epoch / train.epochs)
        if run.plan.layout != layout:  # channels were removed
            params, optimizer = _optimized(run)
        for i, batch in enumerate(loader):
            rate = train.lr * learning_rate_factor(train.schedule, (epoch + i / len(loader)) / train.epochs)
            for group in optimizer.param_groups:
                group["lr"] = rate
            _step(run, params, optimizer, *batch)
        row = {"epoch": epoch + 1, "clipped_share": 0.0, "gradient_norm": 0.0}
        run = replace(run, epoch=epoch + 1, history=(*run.history, row))
    return replace(run, state=replace(run.state, params=Layout.join(params)))


def _optimized(run: Run) -> tuple[dict[str, nn.Parameter], torch.optim.Optimizer]:
    params = {k: nn.Parameter(v.detach().clone()) for k, v in run.plan.layout.split(run.state.params).items()}
    return params, OPTIMIZERS[run.recipe.train.optimizer](list(params.values()), run.recipe.train.lr, run.recipe.train)


def _step(run: Run, params: dict[str, nn.Parameter], optimizer: Any, x: Any, y: Any, teacher: Any) -> None:
    clip, hparams = run.recipe.clip, run.hparams
    optimizer.zero_grad()
    used = effective_weights(run.plan, dict(params), run.state.masks, hparams.quant)
    run.module.train()
    with quantized_activations(run.module, run.state.ranges):
        logits = functional_call(run.module, (used, run.state.buffers), (x,))
    run.plan.distill({"logits": logits}, y, {"logits": teacher}, {}, **hparams.distill).backward()
    if clip.name == "norm":
        nn.utils.clip_grad_norm_(params.values(), clip.options["threshold"])
    elif clip.name == "value":
        nn.utils.clip_grad_value_(params.values(), clip.options["threshold"])
    optimizer.step()


def latency_ms(path: Path, seconds: float = 0.2) -> float:
    """Median of single runs for ``seconds``, after a short warm-up."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    feed = {given.name: np.zeros((1, *given.shape[1:]), np.float32)}
    for _ in range(50):
        session.run(None, feed)
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        session.run(None, feed)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)
