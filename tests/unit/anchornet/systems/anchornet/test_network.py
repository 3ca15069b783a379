"""AnchorNet against the published numbers, and the exact decomposition of its logits."""

from __future__ import annotations

import pytest
import torch

from anchornet.models.macs import count_macs
from anchornet.systems.anchornet.network import AnchorNet, class_activation_map

PUBLISHED_PARAMETERS = 674_984
UNUSED_PARAMETERS = 288


@pytest.fixture(scope="module")
def network() -> AnchorNet:
    torch.manual_seed(0)
    return AnchorNet(1000).eval()


def test_size_is_the_published_one_without_the_unused_values(network: AnchorNet) -> None:
    assert sum(p.numel() for p in network.parameters()) == PUBLISHED_PARAMETERS - UNUSED_PARAMETERS
    assert len(network.state_dict()) == 158
    assert "bneck.0.conv1.weight" not in network.state_dict()
    assert tuple(network.state_dict()["bneck.5.conv2.weight"].shape) == (144, 1, 3, 3)
    assert tuple(network.state_dict()["bneck.5.se.se1.weight"].shape) == (24, 144, 1, 1)


def test_multiply_adds_are_the_published_ones(network: AnchorNet) -> None:
    assert count_macs(network, (1, 3, 224, 224)) == 60_538_544


def test_multiply_adds_of_every_block(network: AnchorNet) -> None:
    """The table of systems.md 1.1, row by row."""
    inputs = [(16, 111), (16, 55), (24, 27), (24, 25), (48, 23), (96, 21), (96, 19)]
    counted = [count_macs(block, (1, c, s, s)) for block, (c, s) in zip(network.bneck, inputs, strict=True)]
    assert counted == [1_210_128, 3_478_320, 3_660_768, 4_335_840, 6_885_216, 11_561_616, 9_367_056]
    assert count_macs(network.conv1, (1, 3, 224, 224)) == 5_322_672
    assert count_macs(network.exp_conv, (1, 96, 17, 17)) == 14_204_928
    assert count_macs(network.fc, (1, 512)) == 512_000


@pytest.mark.parametrize("num_classes", [1, 3, 1000])
def test_any_number_of_classes(num_classes: int) -> None:
    proposal = AnchorNet(num_classes)(torch.zeros(2, 3, 111, 103))
    assert proposal.logits.shape == (2, num_classes)
    assert proposal.features.shape == (2, 512, 3, 2)


def test_no_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="AnchorNet needs num_classes >= 1, got 0"):
        AnchorNet(0)


def test_initial_values_follow_the_recipe() -> None:
    torch.manual_seed(1)
    network = AnchorNet(1000)
    assert network.fc.weight.std().item() == pytest.approx(0.001, rel=0.01)
    assert not network.fc.bias.any()
    assert not network.exp_conv.bias.any()
    assert network.bneck[3].conv1.weight.std().item() == pytest.approx((2 / 96) ** 0.5, rel=0.1)  # fan out: 1 x 1 x 96
    assert (network.bn1.weight == 1).all()


def test_every_parameter_gets_a_gradient() -> None:
    """Unused parameters would break distributed training."""
    network = AnchorNet(5)
    network(torch.randn(2, 3, 95, 95)).logits.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.fixture(scope="module")
def proposal(network: AnchorNet) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(2)
    with torch.no_grad():
        return tuple(network(torch.randn(3, 3, 224, 224)))


def test_residual_keeps_the_top_left(network: AnchorNet) -> None:
    block, x = network.bneck[5], torch.randn(1, 96, 9, 9)
    with torch.no_grad():
        out = block(x)
        block.residual = False
        alone = block(x)
        block.residual = True
    torch.testing.assert_close(out - alone, x[..., :7, :7], atol=1e-4, rtol=0)


def test_the_map_decomposes_the_logit_exactly(network: AnchorNet, proposal: tuple[torch.Tensor, torch.Tensor]) -> None:
    features, _ = proposal
    double = AnchorNet(1000).double()
    double.load_state_dict(network.state_dict())
    fc = torch.nn.init.normal_(double.fc.weight.detach().clone())
    logits = features.double().mean((2, 3)) @ fc.T + 0.5
    for label in (torch.tensor([0, 500, 999]), logits.argmax(1)):
        cam = class_activation_map(features.double(), fc, label)
        assert cam.shape == (3, 17, 17)
        torch.testing.assert_close(0.5 + 512 * cam.mean((1, 2)), logits[torch.arange(3), label])


def test_the_networks_own_logits_decompose(network: AnchorNet, proposal: tuple[torch.Tensor, torch.Tensor]) -> None:
    features, logits = proposal
    label = logits.argmax(1)
    with torch.no_grad():
        total = network.fc.bias[label] + 512 * class_activation_map(features, network.fc.weight, label).mean((1, 2))
    torch.testing.assert_close(total, logits[torch.arange(3), label], atol=1e-6, rtol=1e-5)


def test_the_map_of_an_image_does_not_depend_on_its_batch(proposal: tuple[torch.Tensor, torch.Tensor]) -> None:
    features, weight = proposal[0], torch.randn(7, 512)
    label = torch.tensor([6, 0, 3])
    whole = class_activation_map(features, weight, label)
    for n in range(3):
        assert torch.equal(class_activation_map(features[n : n + 1], weight, label[n : n + 1])[0], whole[n])


def test_the_map_is_made_in_float32_even_under_autocast() -> None:
    features, weight = torch.randn(1, 512, 4, 4).bfloat16(), torch.randn(3, 512).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cam = class_activation_map(features, weight, torch.tensor([1]))
    assert cam.dtype == torch.float32
    torch.testing.assert_close(cam, torch.einsum("f,nfhw->nhw", weight[1].float(), features.float()) / 512)
