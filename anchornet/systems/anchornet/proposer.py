"""AnchorNet at work: what it says of an image, and the patches it chooses.

Shapes: N images, P patches per image, C classes, H = W = side of the images.
"""

from __future__ import annotations

from torch import Tensor, nn

from anchornet.systems.anchornet.network import class_activation_map
from anchornet.systems.anchornet.patches import PatchSelector
from anchornet.systems.anchornet.receptive_field import grid_size, receptive_field


class Proposer:
    """Callable: normalised images (N, 3, H, W) -> logits (N, C) float32 and corners (N, P, 2) int64, best patch first.

    The class whose map is followed is AnchorNet's own top-1, not the label. Raises ValueError if ``num_patches`` boxes at
    ``iou_threshold`` cannot always be found in images of ``image_size``.
    """

    def __init__(
        self, network: nn.Module, num_patches: int, iou_threshold: float, image_size: int, *, compat: bool = False
    ) -> None:
        """``compat`` reproduces the released code, see :class:`~anchornet.systems.anchornet.patches.PatchSelector`."""
        field = receptive_field(network)
        self.selector = PatchSelector(grid_size(image_size, field), field, iou_threshold, num_patches, compat=compat)
        self.network = network
        self.image_size, self.patch_size, self.num_patches = image_size, field.size, num_patches

    def __call__(self, images_N3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and top and left of each patch."""
        logits, maps = self.look(images_N3HW)
        return logits, self.choose(maps)

    def look(self, images_N3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and the activation map (N, grid, grid) of the class that they name."""
        proposal = self.network(images_N3HW)
        logits = proposal.logits.float()
        assert isinstance(self.network.fc, nn.Linear)
        return logits, class_activation_map(proposal.features, self.network.fc.weight, logits.argmax(dim=1))

    def choose(self, maps: Tensor) -> Tensor:
        """The corners of the patches that these maps say."""
        return self.selector.boxes(self.selector(maps))
