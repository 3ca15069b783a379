"""A Ray that is up is known by its first answer."""

from __future__ import annotations

import pytest
import ray

from jobs.shell.cluster_address import ClusterAddress, check_answers

pytestmark = pytest.mark.ray


def test_the_head_of_a_running_ray_answers() -> None:
    check_answers(ClusterAddress(ray.get_runtime_context().gcs_address, "cluster.address"), 0)
