"""A single network as a cascade: one stage, one exit, the network's own answer at the network's own cost."""

from __future__ import annotations

import numpy as np
import torch

from anchornet.cascade.protocol import image_shape
from anchornet.cascade.run import run_all_exits, run_cascade
from anchornet.cascade.single import single_network
from anchornet.images.tensors import normalise
from anchornet.models.macs import count_macs
from tests.tiny_bundle import CLASSES, tiny_networks


def test_it_answers_as_its_network_does() -> None:
    network = tiny_networks()["glance"]
    pixels = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    cascade = single_network(network, CLASSES, 64, name="all")
    with torch.inference_mode():
        logits = network(normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2)))
    standing = run_cascade(cascade, pixels, np.full((5, 1), np.inf, np.float32))
    assert standing.label_id.tolist() == logits.argmax(1).tolist()
    assert standing.exit.tolist() == [0] * 5
    assert standing.macs.tolist() == [count_macs(network, (1, 3, 64, 64))] * 5
    assert run_all_exits(cascade, pixels).prediction[:, 0].tolist() == standing.label_id.tolist()
    assert image_shape(cascade) == (64, 64, 3)


def test_its_state_travels() -> None:
    cascade = single_network(tiny_networks()["glance"], CLASSES, 64, name="all")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    state = cascade.select(cascade.start(pixels), torch.tensor([3, 1]))
    np.testing.assert_array_equal(cascade.pack(cascade.unpack(cascade.pack(state, 0), 0), 0)["image"], pixels[[3, 1]])
