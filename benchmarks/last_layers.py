"""EfficientNet-Lite0 with ImageNet's weights, made to know other classes by its last layer alone, on any views.

What it takes: the network expects (pixel - 127) / 128; its padding is fixed by image size, so a network for 95 pixels is built
for 95; and at 95 pixels ImageNet's batch-norm statistics are wrong, so they are taken anew from batches of the same views before
the last layer is fitted, by logistic regression on frozen features.

N images, V views per image, D features, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from anchornet.images.preprocess import IMAGENET_MEAN, IMAGENET_STD

MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
"""Of the Lite networks, from TensorFlow's release (mean 127, standard deviation 128, of bytes)."""
PATCH = 95
RIDGES = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
"""Strengths of the l2 penalty that are tried, on weights of standardised features."""
_STATISTICS = 10
"""Batches from which batch-norm statistics are taken anew."""
_BATCH = 64
Views = Callable[[Tensor], Tensor]
"""(n, 3, 224, 224) uint8 -> (n * V, 3, h, w) normalised, the views of an image side by side."""


def lite0(num_classes: int) -> nn.Module:
    """For 224 pixels; named in configurations as ``benchmarks.last_layers:lite0``."""
    return _lite0(num_classes, 224)


def lite0_small(num_classes: int) -> nn.Module:
    """For the 95 pixels of a glance or patch, likewise."""
    return _lite0(num_classes, PATCH)


def tuned(num_classes: int) -> nn.Module:
    """``lite0`` as ``jobs.train`` feeds it: pixels under ImageNet's mean and std, brought to its own before the first layer."""
    return _renormalised(lite0(num_classes))


def tuned_small(num_classes: int) -> nn.Module:
    """``lite0_small``, likewise."""
    return _renormalised(lite0_small(num_classes))


def _lite0(num_classes: int, side: int) -> nn.Module:
    from efficientnet_lite_pytorch import EfficientNet  # installed by benchmarks.photographs, into a folder of its own

    network: nn.Module = EfficientNet.from_name("efficientnet-lite0", num_classes=num_classes, image_size=side)
    return network


def _renormalised(network: nn.Module) -> nn.Module:
    """The same network, of the same weights and names, with a change of pixels before it."""
    given, wanted = (torch.tensor(each).view(2, 1, 3, 1, 1) for each in ((IMAGENET_MEAN, IMAGENET_STD), (MEAN, STD)))
    scale, shift = given[1] / wanted[1], (given[0] - wanted[0]) / wanted[1]
    network.register_forward_pre_hook(lambda _, inputs: (inputs[0] * scale.to(inputs[0]) + shift.to(inputs[0]),))
    return network


def load_imagenet(network: nn.Module, weights: Path) -> None:
    """ImageNet's weights for everything but the last layer."""
    state = torch.load(weights, map_location="cpu", weights_only=True)
    kept = {name: value for name, value in state.items() if not name.startswith("_fc.")}
    missing = network.load_state_dict(kept, strict=False)
    assert set(missing.missing_keys) == {"_fc.weight", "_fc.bias"} and not missing.unexpected_keys, missing


def fit_last_layer(
    network: nn.Module, images_N3HW: np.ndarray, label_N: np.ndarray, views: Views, *, own_statistics: bool, device: str
) -> dict[str, float]:
    """Fit ``network``'s last layer on views of training images (uint8); returns the penalty that was chosen and its accuracy.

    own_statistics: take batch-norm statistics anew first. The penalty is chosen on a sixth of the images, all views of an image
    on one side.
    """
    network.to(device).eval()
    if own_statistics:
        _take_statistics(network, images_N3HW, views, device)
    features_ND, num_views = _features(network, images_N3HW, views, device)
    mean_D, std_D = features_ND.mean(0), features_ND.std(0) + 1e-6
    features_ND = (features_ND - mean_D) / std_D
    target_N = torch.from_numpy(np.repeat(label_N, num_views)).long().to(device)
    held = torch.from_numpy(np.repeat(np.random.default_rng(0).permutation(len(label_N)) % 6 == 0, num_views)).to(
        device
    )
    num_classes = int(label_N.max()) + 1
    scores = {}
    for ridge in RIDGES:
        weight, bias = _regress(features_ND[~held], target_N[~held], num_classes, ridge)
        right = (functional.linear(features_ND[held], weight, bias).argmax(1) == target_N[held]).float().mean()
        scores[ridge] = float(right)
    ridge = max(scores, key=lambda each: scores[each])
    weight, bias = _regress(features_ND, target_N, num_classes, ridge)
    with torch.no_grad():
        head: nn.Linear = network._fc  # type: ignore[assignment]
        head.weight.copy_(weight / std_D)
        head.bias.copy_(bias - (weight * (mean_D / std_D)).sum(1))
    network.cpu()
    return {"ridge": ridge, "held_out_accuracy": scores[ridge]}


def _take_statistics(network: nn.Module, images_N3HW: np.ndarray, views: Views, device: str) -> None:
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
        norm.train()
    order = np.random.default_rng(1).permutation(len(images_N3HW))
    with torch.no_grad():
        for batch in range(_STATISTICS):
            rows = order[batch * _BATCH : (batch + 1) * _BATCH]
            if len(rows):
                network(views(torch.from_numpy(images_N3HW[rows]).to(device)))
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
        norm.eval()


@torch.no_grad()
def _features(network: nn.Module, images_N3HW: np.ndarray, views: Views, device: str) -> tuple[Tensor, int]:
    """(N * V, D) float32: what the last layer is given."""
    head, found = network._fc, []
    network._fc = nn.Identity()
    for start in range(0, len(images_N3HW), _BATCH):
        found.append(network(views(torch.from_numpy(images_N3HW[start : start + _BATCH]).to(device))).float())
    network._fc = head
    features = torch.cat(found)
    return features, len(features) // len(images_N3HW)


def _regress(features_MD: Tensor, target_M: Tensor, num_classes: int, ridge: float) -> tuple[Tensor, Tensor]:
    """Weights (C, D) and bias (C,) of multinomial logistic regression: mean cross-entropy + ridge * |W|^2 / 2, by L-BFGS."""
    weight = torch.zeros(num_classes, features_MD.shape[1], device=features_MD.device, requires_grad=True)
    bias = torch.zeros(num_classes, device=features_MD.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=60, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        error = functional.cross_entropy(functional.linear(features_MD, weight, bias), target_M)
        loss = error + 0.5 * ridge * (weight**2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach(), bias.detach()


def standard_error(correct_N: np.ndarray) -> float:
    """Of a mean over images."""
    values = np.asarray(correct_N, np.float64)
    return float(values.std() / np.sqrt(len(values)))
