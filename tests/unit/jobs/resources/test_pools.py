"""How Ray is asked for a pool of actors, the same in every version of Ray that is supported."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from anchornet.cascade.protocol import Placement
from jobs.resources.pools import claim, pool_options, threads_per_actor
from jobs.settings.common import InferenceSettings, PoolSettings


@pytest.mark.parametrize("calls", [1, 2])
def test_a_pool_is_what_was_set(calls: int) -> None:
    pool = PoolSettings(actors=2, max_actors=5, cpus=0.25, gpus=0.5, accelerator_type="L4", labels={"zone": "a"})
    options = pool_options(pool, calls)
    strategy = options["compute"]
    assert (strategy.min_size, strategy.initial_size, strategy.max_size) == (2, 2, 5)
    assert (options["num_cpus"], options["num_gpus"], options["accelerator_type"]) == (0.25, 0.5, "L4")
    # Ray 2.60 keeps the number of calls in the strategy, older ones in the actor's options; nowhere in both
    places = (getattr(strategy, "max_concurrent_calls_per_actor", None), options.get("max_concurrency"))
    assert sorted(places, key=str) == sorted((calls, None), key=str)
    assert strategy.enable_true_multi_threading == (calls > 1)
    assert options["label_selector"] == {"zone": "a"}
    assert not {"accelerator_type", "label_selector"} & set(pool_options(PoolSettings()))


def test_cores_are_shared_among_the_largest_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert threads_per_actor(PoolSettings(actors=2, max_actors=3)) == 2
    assert threads_per_actor(PoolSettings(actors=20)) == 1
    assert threads_per_actor(PoolSettings(actors=2, threads=5)) == 5


@pytest.mark.parametrize(
    ("gpus", "precision", "placement"),
    [
        (0.0, "float32", Placement("cpu", torch.float32)),
        (0.5, "bfloat16", Placement("cuda", torch.bfloat16)),
        (1.0, "float32", Placement("cuda", torch.float32)),
    ],
)
def test_networks_lie_where_the_pool_has_its_share(
    monkeypatch: pytest.MonkeyPatch, gpus: float, precision: Literal["float32", "bfloat16"], placement: Placement
) -> None:
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    assert claim(PoolSettings(gpus=gpus, threads=3), InferenceSettings(precision=precision)) == placement
    assert threads == [3]
    never = InferenceSettings(precision=precision, device="cpu")
    assert claim(PoolSettings(gpus=gpus), never) == Placement("cpu", placement.precision)
