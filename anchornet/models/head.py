"""The head of a classifier, and what it is given: the embedding of an image.

Shapes: n images, C classes, D values.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Head:
    """The last layer of a network that gives its C logits; remembers what the newest batch gave it.

    It is the last linear layer, or 1x1 convolution, with C outputs. Raises ValueError when the network has none.
    """

    def __init__(self, network: nn.Module, num_classes: int) -> None:
        found = [module for module in network.modules() if _outputs(module) == num_classes]
        if not found:
            raise ValueError(
                f"{type(network).__name__} has no linear layer or 1x1 convolution with {num_classes} outputs, so there is no "
                f"embedding; set output.embedding to false"
            )
        self.size = int(getattr(found[-1], "in_features", 0) or getattr(found[-1], "in_channels", 0))
        self.given: Tensor | None = None
        """(n, D): of the newest batch; of a map the mean over its places."""
        found[-1].register_forward_pre_hook(self._remember)

    def _remember(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        given: Tensor = arguments[0].detach()
        if isinstance(module, nn.Conv2d):
            given = given.mean((2, 3))
        elif given.ndim > 2:
            given = given.flatten(1, -2).mean(1)
        self.given = given


def _outputs(module: nn.Module) -> int:
    """How many values a layer gives that may be a head; 0 for any other layer."""
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
        return module.out_channels
    return 0
