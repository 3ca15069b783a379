"""What each worker of a train job does: build, resume, epochs of steps, validation, a checkpoint per epoch.

Losses and steps are plain functions of ``anchornet.models.training``; here they meet Ray: data shards, DDP, checkpoints.
"""

from __future__ import annotations

import io
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from torch import Tensor, nn

from anchornet.files import storage
from anchornet.images import tensors
from anchornet.models import training
from anchornet.models.card import load_model
from anchornet.models.classifiers import build_classifier
from anchornet.models.training import Recipe
from anchornet.models.weights import load_torchvision_weights
from anchornet.systems.registry import recipe_code
from jobs.shell.run_folder import RunFolder, model_in
from jobs.shell.worker_log import tell_driver
from jobs.training.local_checkpoints import SCORE, LocalCheckpoints
from jobs.training.plan import TrainPlan, too_many_unreadable
from jobs.training.progress import told

logger = logging.getLogger(__name__)

STATE_FILE = "state.pt"


@dataclass
class Trainee:
    """The state that a checkpoint holds, and what is taught."""

    module: nn.Module
    """The network itself, never wrapped: what is validated and saved."""
    model: nn.Module
    """The same, wrapped for distributed training."""
    optimizer: torch.optim.Optimizer
    recipe: Recipe
    history: list[dict[str, Any]]
    """One line of metrics per finished epoch."""
    notes: Any = None
    """The actor that hears which step is being computed; None on all ranks but the first."""


def train_worker(config: dict[str, Any]) -> None:
    """The train loop of one worker (Ray Train calls it with ``{"plan": TrainPlan, "notes": actor}``)."""
    plan: TrainPlan = config["plan"]
    tell_driver(config["notes"], RunFolder(plan.config.run.folder).name)
    local_workers = ray.train.get_context().get_local_world_size()
    torch.set_num_threads(plan.config.workers.threads or max(1, (os.cpu_count() or 1) // local_workers))
    trainee = _start(plan)
    trainee.notes = config["notes"] if ray.train.get_context().get_world_rank() == 0 else None
    for epoch in range(len(trainee.history), plan.settings.epochs):
        line = _run_epoch(plan, trainee, epoch)
        unreadable = _agreed(len(ray.get(config["notes"].reasons.remote())))
        if too_many_unreadable(plan, unreadable):
            return  # on every worker alike; the driver says why
        trainee.history.append({**line, "data/unreadable_images": unreadable})
        _report(plan, trainee)


def _start(plan: TrainPlan) -> Trainee:
    """Newest checkpoint of this run, else the initial weights, else scratch; on this worker's device."""
    torch.manual_seed(plan.config.run.seed)
    module = build_classifier(plan.recipe.architecture, len(plan.classes))
    saved = _newest_state(plan)
    if saved:
        module.load_state_dict(saved["model"])
    else:
        _initialise(module, plan)
    device = ray.train.torch.get_device()
    module = module.to(device).to(memory_format=torch.channels_last)
    optimizer = training.build_optimizer(module, plan.settings)
    if saved:
        optimizer.load_state_dict(saved["optimizer"])
    model = ray.train.torch.prepare_model(module)
    history = saved["history"] if saved else []
    cfg = plan.config
    recipe = recipe_code(plan.recipe).open_recipe(plan.recipe, cfg.crop.size, cfg.image_size, device)
    return Trainee(module, model, optimizer, recipe, history)


def _newest_state(plan: TrainPlan) -> dict[str, Any] | None:
    """What ``_report`` saved last, None before the first epoch has ended."""
    if plan.in_process:
        return LocalCheckpoints(plan.checkpoints).last()
    checkpoint = ray.train.get_checkpoint()
    return read_state(checkpoint) if checkpoint else None


def _initialise(module: nn.Module, plan: TrainPlan) -> None:
    init = plan.config.init
    if init.weights:
        load_torchvision_weights(module, init.weights)
    if init.model:
        source, card = load_model(model_in(init.model))
        if card.architecture != plan.recipe.architecture:
            raise ValueError(
                f"init.model {init.model} is a {card.architecture}, this run trains a {plan.recipe.architecture}; "
                f"train the same architecture or leave init.model out"
            )
        own = module.state_dict()
        fitting = {key: value for key, value in source.state_dict().items() if value.shape == own[key].shape}
        module.load_state_dict({**own, **fitting})  # with other classes the last layer stays fresh


def _run_epoch(plan: TrainPlan, trainee: Trainee, epoch: int) -> dict[str, Any]:
    """Train and validate once: the epoch's line of ``metrics.jsonl``, the same on every worker."""
    begin = time.perf_counter()
    loss, correct, views, num_images = _train_epoch(plan, trainee, epoch)
    trained = time.perf_counter()
    line = {
        "epoch": epoch,
        "train/loss": loss / max(1, views),
        "train/accuracy": correct / max(1, views),
        "train/learning_rate": training.learning_rate(plan.settings, epoch),
        "train/images_per_s": num_images / (trained - begin),
        **_validate(plan, trainee),
    }
    return {**line, "epoch_s": time.perf_counter() - begin, "workers": ray.train.get_context().get_world_size()}


def _train_epoch(plan: TrainPlan, trainee: Trainee, epoch: int) -> list[float]:
    """Sums over all workers: loss, correct views, views, images."""
    trainee.model.train()
    context = ray.train.get_context()
    sums = [0.0, 0.0, 0.0, 0.0]
    batches = _batches("train", plan, -(-plan.settings.batch_size // context.get_world_size()), plan.shuffle_buffer)
    for step, (images_N3HW, labels_N) in enumerate(told(batches, trainee.notes, f"epoch {epoch}")):
        rate = training.learning_rate(plan.settings, epoch, step / plan.steps_per_epoch)
        training.set_learning_rate(trainee.optimizer, rate)
        where = f"epoch {epoch}, step {step}, rank {context.get_world_rank()}"
        result = training.train_step(
            trainee.model,
            trainee.optimizer,
            trainee.recipe.view,
            images_N3HW,
            labels_N,
            plan.settings,
            where,
            trainee.recipe.teacher,
        )
        sums = [total + value for total, value in zip(sums, (*result, len(labels_N)), strict=True)]
    return _over_workers(sums)


def _validate(plan: TrainPlan, trainee: Trainee) -> dict[str, float]:
    """Accuracy of each kind over all validation images; empty without a validation set."""
    if plan.config.validation is None:
        return {}
    trainee.module.eval()
    names = trainee.recipe.accuracy_names
    sums = [0.0] * (len(names) + 1)
    batches = _batches("validation", plan, min(plan.settings.batch_size, 64), 0)
    for images_N3HW, labels_N in told(batches, trainee.notes, f"epoch {len(trainee.history)}, validation"):
        counts = trainee.recipe.count_correct(trainee.module, images_N3HW, labels_N)
        sums = [total + value for total, value in zip(sums, [*counts.tolist(), len(labels_N)], strict=True)]
    *correct, num_images = _over_workers(sums)
    return {f"validation/{name}": count / max(1, num_images) for name, count in zip(names, correct, strict=True)}


def _batches(name: str, plan: TrainPlan, batch_size: int, shuffle_buffer: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised images (N, 3, H, W), channels last, and labels (N,) of this worker's shard, on its device."""
    shard = ray.train.get_dataset_shard(name)
    for batch in shard.iter_torch_batches(
        batch_size=batch_size, prefetch_batches=2, local_shuffle_buffer_size=shuffle_buffer or None
    ):
        yield tensors.normalise(batch["image"].permute(0, 3, 1, 2)), batch["label"]


def _over_workers(sums: list[float]) -> list[float]:
    """The sums added up over all workers."""
    if not torch.distributed.is_initialized():
        return sums
    total = torch.tensor(sums, dtype=torch.float64, device=ray.train.torch.get_device())
    torch.distributed.all_reduce(total)
    return total.tolist()


def _agreed(count: int) -> int:
    """The count of rank 0, so that all workers decide alike."""
    mine = count if ray.train.get_context().get_world_rank() == 0 else 0
    return int(_over_workers([float(mine)])[0])


def _report(plan: TrainPlan, trainee: Trainee) -> None:
    """Checkpoint and metrics of the epoch that just ended; rank 0 writes, every rank takes part."""
    line = trainee.history[-1]
    score = line.get(f"validation/{trainee.recipe.accuracy_names[-1]}", float(line["epoch"]))
    metrics = {**line, SCORE: score}
    if ray.train.get_context().get_world_rank() != 0:
        ray.train.report(metrics)
        return
    state = {
        "model": trainee.module.state_dict(),
        "optimizer": trainee.optimizer.state_dict(),
        "history": trainee.history,
    }
    if plan.in_process:
        LocalCheckpoints(plan.checkpoints).save(state, metrics)
    else:
        _hand_over(state, metrics)
    text = "".join(json.dumps(row) + "\n" for row in trainee.history)
    storage.write_bytes(RunFolder(plan.config.run.folder).metrics, text.encode())


def _hand_over(state: dict[str, Any], metrics: dict[str, Any]) -> None:
    """Give the state to Ray Train, which keeps it."""
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, Path(folder, STATE_FILE))
        checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report(metrics, checkpoint=checkpoint, checkpoint_dir_name=f"epoch-{metrics['epoch']:04d}")


def read_state(checkpoint: ray.train.Checkpoint) -> dict[str, Any]:
    """What ``_hand_over`` gave: model, optimizer, history."""
    assert checkpoint.filesystem is not None
    with checkpoint.filesystem.open_input_stream(f"{checkpoint.path}/{STATE_FILE}") as stream:
        return torch.load(io.BytesIO(stream.read()), map_location="cpu", weights_only=True)
