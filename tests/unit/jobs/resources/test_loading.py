"""What is counted of actors that load; tests/faults/test_actors.py kills real ones."""

from __future__ import annotations

from jobs.resources.loading import Loads, loading


def test_deaths_are_counted_until_the_actor_has_loaded() -> None:
    loads = Loads()
    assert loads.begins_to_load("pools.0", "a") == (0, False)
    assert loads.begins_to_load("pools.0", "a") == (1, False)
    assert loads.begins_to_load("pools.0", "b") == (0, False)
    loads.has_loaded("pools.0", "a")
    assert loads.begins_to_load("pools.0", "a") == (0, True)
    assert loads.begins_to_load("pools.0", "b") == (1, True)


def test_a_pool_says_nothing_of_another() -> None:
    loads = Loads()
    loads.begins_to_load("pools.0", "a")
    loads.has_loaded("pools.0", "a")
    assert loads.begins_to_load("pools.1", "b") == (0, False)


def test_outside_of_actors_nothing_is_watched() -> None:
    with loading(None, "pools.0"):
        pass
