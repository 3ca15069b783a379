"""What fits a cluster, what is waited for, and what is said of it."""

from __future__ import annotations

import math

import pytest

from jobs.resources import capacity
from jobs.resources.capacity import Capacity, Resources, Stall, Waiting, check_fits, owners_of
from jobs.resources.default_pools import default_pools

EMPTY = Capacity(Resources(0, 0), Resources(128, 4))
UNKNOWN = Capacity(Resources(0, 0), Resources(math.inf, math.inf))


@pytest.mark.parametrize("need", [Resources(129, 0), Resources(1, 5)])
def test_more_than_the_cluster_may_grow_to_is_refused_with_the_numbers(need: Resources) -> None:
    with pytest.raises(
        ValueError, match=r"the pools need .*, the cluster may grow to 128 logical CPUs and 4 GPUs: .*; lower"
    ):
        check_fits(need, EMPTY, "the pools", "lower them")


@pytest.mark.parametrize(("size", "need"), [(EMPTY, Resources(128, 4)), (UNKNOWN, Resources(1e6, 1e6))])
def test_what_may_come_is_waited_for_aloud(size: Capacity, need: Resources, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "jobs")
    check_fits(need, size, "the pools", "lower them")
    assert caplog.messages == [
        f"waiting for the cluster to grow: the pools need {need}, it has 0 logical CPUs and 0 GPUs"
    ]


def test_what_fits_now_is_not_worth_a_word(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "jobs")
    check_fits(Resources(4, 1), Capacity.fixed(4, 1), "the pools", "lower them")
    assert not caplog.messages


class TestPools:
    @pytest.mark.parametrize(
        ("size", "seconds", "expected"),
        [
            (Capacity.fixed(4, one_machine=True), (), [(0.5, 0, 1), (0.5, 0, 1)]),
            (Capacity.fixed(64, one_machine=True), (), [(0.5, 0, 1), (0.5, 0, 1)]),
            (Capacity.fixed(8, 1, one_machine=True), (), [(0.5, 0.5, 1), (0.5, 0.5, 1)]),
            (Capacity.fixed(16, 2), (), [(0.5, 1, 1), (0.5, 1, 1)]),
            (EMPTY, (), [(0.5, 1, 2), (0.5, 1, 2)]),
            (EMPTY, (0.1, 0.9), [(0.5, 1, 1), (0.5, 1, 2)]),
            (Capacity.fixed(64), (), [(1, 0, 16), (1, 0, 16)]),
            (Capacity.fixed(64), (1.0, 3.0), [(1, 0, 8), (1, 0, 24)]),
            (UNKNOWN, (), [(0.5, 0, 1), (0.5, 0, 1)]),
        ],
    )
    def test_they_follow_from_the_size_and_what_was_measured(
        self, size: Capacity, seconds: tuple[float, ...], expected: list[tuple[float, float, int]]
    ) -> None:
        pools = default_pools(size, 2, seconds)
        assert [(pool.cpus, pool.gpus, pool.largest) for pool in pools] == expected
        assert all(pool.actors == 1 for pool in pools)

    @pytest.mark.parametrize("gpus", [1, 2, 3, 5, 8, 100])
    @pytest.mark.parametrize("stages", [1, 2, 3, 5])
    def test_they_never_ask_for_more_gpus_than_there_may_be(self, gpus: int, stages: int) -> None:
        pools = default_pools(Capacity.fixed(1000, gpus), stages, [k + 0.5 for k in range(stages)])
        assert len(pools) == stages
        assert 0 < sum(pool.gpus * pool.largest for pool in pools) <= gpus


class TestWaiting:
    OWNERS = owners_of([(0.5, 1.0, "the pool of anchor"), (0.5, 1.0, "the pool of patches"), (1.0, 0.0, "decoding")])

    def test_it_names_who_waits_for_what(self) -> None:
        waiting = Waiting((({"GPU": 1.0, "CPU": 0.5}, 3), ({"CPU": 1.0}, 1)), ("2 x gpu_spot",), ())
        assert waiting.sentence(self.OWNERS) == (
            "waiting for room for 3 x (0.5 CPU, 1 GPU), the pool of anchor or the pool of patches; room for 1 x (1 CPU), "
            "decoding, nodes on their way: 2 x gpu_spot"
        )

    def test_it_says_when_nothing_comes_and_what_failed(self) -> None:
        waiting = Waiting((({"GPU": 8.0}, 1),), (), ("1 x gpu_spot (no capacity)",))
        assert waiting.sentence({}) == (
            "waiting for room for 1 x (8 GPU), nodes that did not come: 1 x gpu_spot (no capacity), no node is on its way"
        )

    def test_with_room_for_all_it_must_be_something_else(self) -> None:
        assert "may be waiting for storage" in Waiting((), (), ()).sentence({})


class TestStall:
    @pytest.fixture
    def stall(self, monkeypatch: pytest.MonkeyPatch) -> Stall:
        monkeypatch.setattr(capacity, "what_waits", lambda: Waiting((({"CPU": 1.0}, 2),), (), ()))
        return Stall(10.0, TestWaiting.OWNERS)

    def test_a_job_that_moves_is_left_alone(self, stall: Stall, caplog: pytest.LogCaptureFixture) -> None:
        for second in range(100):
            stall.watch(second // 9, float(second))
        assert not caplog.messages

    def test_one_that_does_not_says_what_it_waits_for_now_and_then(
        self, stall: Stall, caplog: pytest.LogCaptureFixture
    ) -> None:
        for second in range(0, 36, 5):
            stall.watch("the same", float(second))
        assert [message.split(":")[0] for message in caplog.messages] == [
            f"nothing has moved for {seconds} s" for seconds in (10, 20, 30)
        ]
        assert "room for 2 x (1 CPU), decoding" in caplog.messages[0]

    def test_a_ray_that_does_not_answer_changes_nothing(
        self, stall: Stall, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def gone() -> Waiting:
            raise ConnectionError("away")

        monkeypatch.setattr(capacity, "what_waits", gone)
        stall.watch(1, 0.0)
        stall.watch(1, 11.0)
        assert caplog.messages == [
            "nothing has moved for 11 s: Ray does not say what is waited for (ConnectionError: away)"
        ]
