"""What the head of a classifier is given."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from anchornet.models.classifiers import build_classifier
from anchornet.models.head import Head
from anchornet.systems.anchornet.network import AnchorNet


@pytest.mark.parametrize(
    ("name", "size", "values"),
    [
        ("resnet18", 64, 512),
        ("efficientnet_b0", 64, 1280),
        ("mobilenet_v3_small", 64, 1024),
        ("squeezenet1_1", 64, 512),
        ("vit_b_16", 224, 768),
    ],
)
def test_the_head_of_a_torchvision_network_gives_its_logits_from_what_is_remembered(
    name: str, size: int, values: int
) -> None:
    network = build_classifier(name, 7).eval()
    head = Head(network, 7)
    assert (head.size, head.given) == (values, None)
    with torch.inference_mode():
        logits = network(torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0)))
        assert head.given is not None
        assert head.given.shape == (3, values)
        if name != "squeezenet1_1":  # there a relu stands between the head and the logits' mean
            [layer] = [each for each in network.modules() if isinstance(each, nn.Linear) and each.out_features == 7]
            torch.testing.assert_close(layer(head.given), logits)


def test_of_anchornet_it_is_the_mean_of_its_features() -> None:
    network = AnchorNet(5).eval()
    head = Head(network, 5)
    proposal = network(torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0)))
    assert head.given is not None
    torch.testing.assert_close(head.given, proposal.features.mean((2, 3)))


def test_each_batch_takes_the_place_of_the_one_before() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, 3))
    head = Head(network, 3)
    for count in (5, 2):
        network(torch.zeros(count, 3, 2, 2))
        assert head.given is not None
        assert head.given.shape == (count, 4)


def test_a_network_without_such_a_layer_has_none() -> None:
    with pytest.raises(
        ValueError, match=r"Linear has no linear layer or 1x1 convolution with 9 outputs.*output\.embedding"
    ):
        Head(nn.Linear(4, 3), 9)
