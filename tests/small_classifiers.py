"""Two ordinary classifiers as people have them: weight files, class names, each with preprocessing of its own.

Never trained, but their logits differ from image to image; ``large`` sees more pixels than ``small``, through another filter.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from torch import nn

from anchornet.images.preprocess import Preprocessing
from anchornet.images.tensors import normalise
from anchornet.systems.models.settings import Member, ModelsSettings, PreprocessingSettings
from tests.tiny_bundle import TinyClassifier

CLASSES = ("ant", "bee", "cow")
SMALL = Preprocessing(resize=36, crop=32)
LARGE = Preprocessing(resize=64, crop=64, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 0.5))
FEEDS = {"small": SMALL, "large": LARGE}
FILES = {"small": "small.pth", "large": "large.safetensors"}


def small(num_classes: int) -> nn.Module:
    """Named in configurations as ``tests.small_classifiers:small``."""
    return _spread_out(TinyClassifier(num_classes), seed=1, feed=SMALL)


def large(num_classes: int) -> nn.Module:
    """Named in configurations as ``tests.small_classifiers:large``."""
    return _spread_out(TinyClassifier(num_classes), seed=2, feed=LARGE)


def _spread_out(network: TinyClassifier, seed: int, feed: Preprocessing) -> nn.Module:
    """Weights from a seed, and a head whose logits have mean 0 and deviation 1.5 over coloured blocks."""
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5)
        pixels = np.stack([feed(picture(k)) for k in range(48)])
        logits = network(normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2), feed))
        scale = 1.5 / logits.std(0)
        network.fc.bias.copy_((network.fc.bias - logits.mean(0)) * scale)
        network.fc.weight.mul_(scale[:, None])
    return network.eval()


def picture(seed: int) -> np.ndarray:
    """(H, W, 3): 6 x 6 coloured blocks, of a size that depends on the seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(blocks).resize((90 + seed % 7, 80), Image.Resampling.NEAREST))


def write_weights(folder: Path) -> dict[str, str]:
    """A weights file of each, one of torch and one of safetensors: role -> path."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(small(len(CLASSES)).state_dict(), folder / FILES["small"])
    safetensors.torch.save_file(large(len(CLASSES)).state_dict(), folder / FILES["large"])
    return {role: str(folder / file) for role, file in FILES.items()}


def members(weights: dict[str, str] | None = None) -> tuple[Member, ...]:
    """Both as a configuration names them, with all that is known of them."""
    return tuple(
        Member(
            architecture=f"tests.small_classifiers:{role}",
            weights=(weights or {}).get(role),
            preprocessing=PreprocessingSettings.of(feed),
        )
        for role, feed in FEEDS.items()
    )


def settings(**changes: object) -> ModelsSettings:
    """Complete settings of the cascade small -> large."""
    return ModelsSettings(**{"kind": "models", "members": members(), **changes})  # type: ignore[arg-type]


def networks() -> dict[str, nn.Module]:
    """Both by role."""
    return {"small": small(len(CLASSES)), "large": large(len(CLASSES))}
