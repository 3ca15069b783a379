"""A Ray that is up is known by its first answer."""

from __future__ import annotations

import pytest
import ray

from jobs.resources.capacity import cluster_capacity, what_waits
from jobs.resources.cluster_address import ClusterAddress, check_answers
from jobs.settings.common import ClusterSettings

pytestmark = pytest.mark.ray


def test_the_head_of_a_running_ray_answers() -> None:
    check_answers(ClusterAddress(ray.get_runtime_context().gcs_address, "cluster.address"), 0)


def test_a_ray_without_an_autoscaler_does_not_grow() -> None:
    address = ray.get_runtime_context().gcs_address
    size = cluster_capacity(ClusterSettings(address=address))
    assert size.now.cpus >= 4
    assert not size.grows
    assert cluster_capacity(ClusterSettings(address=address, max_gpus=8)).most == (size.now.cpus, 8)
    assert not what_waits().launching
