"""What a job tells Ray about itself."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.data

from jobs.resources.cluster_address import ClusterAddress
from jobs.settings.common import ClusterSettings
from jobs.shell import ray_session
from jobs.shell.provenance import ROOT

SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (SUBMITTED, "RAY_ADDRESS", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_workers_get_the_checkout_and_the_endpoint_but_no_secret(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    environment.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    made = ray_session.runtime_env()
    assert made["working_dir"] == str(ROOT)
    assert {"/.venv", "/.git", "/runs"} <= set(made["excludes"])
    assert made["env_vars"]["AWS_ENDPOINT_URL"] == "http://127.0.0.1:1"
    assert "hush" not in json.dumps(made)


def test_what_ray_job_submit_was_given_is_not_said_twice(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    given = {"runtime_env": {"env_vars": {"AWS_ENDPOINT_URL": "http://127.0.0.1:2"}, "working_dir": "gcs://x.zip"}}
    environment.setenv(SUBMITTED, json.dumps(given))
    made = ray_session.runtime_env()
    assert "working_dir" not in made
    assert "AWS_ENDPOINT_URL" not in made["env_vars"]


def test_a_submitted_job_is_not_taken_for_a_local_one(environment: pytest.MonkeyPatch) -> None:
    assert ClusterSettings().is_local
    assert not ClusterSettings(address="auto").is_local
    environment.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert not ClusterSettings().is_local


def test_workers_of_a_local_ray_inherit_what_they_need_and_this_process_keeps_its_own(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv("PYTHONPATH", "/elsewhere")
    environment.delenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", raising=False)
    before = dict(os.environ)
    with ray_session._environment_of_workers():
        assert os.environ["PYTHONPATH"] == f"{ROOT}{os.pathsep}/elsewhere"
        assert os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "0.5"
    assert dict(os.environ) == before


class FakeRay:
    """Keeps how Ray is started and stopped, and starts nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, running: bool = False) -> None:
        self.started: list[dict[str, Any]] = []
        self.stopped = 0
        monkeypatch.setattr(ray, "is_initialized", lambda: running)
        monkeypatch.setattr(ray, "init", self._init)
        monkeypatch.setattr(ray, "shutdown", self._shutdown)

    def _init(self, **options: Any) -> SimpleNamespace:
        self.started.append(options)
        return SimpleNamespace(dashboard_url="127.0.0.1:8265")

    def _shutdown(self) -> None:
        self.stopped += 1


class TestSession:
    def test_a_local_ray_has_the_cpus_that_were_set_and_no_cluster_is_joined_by_chance(
        self, environment: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        fake = FakeRay(environment)
        with ray_session.ray_session(ClusterSettings(local_cpus=7), str(tmp_path)):
            [asked] = fake.started
            assert not fake.stopped
            assert not ray.data.DataContext.get_current().enable_progress_bars
        assert (asked["address"], asked["num_cpus"]) == ("local", 7)
        assert not asked["log_to_driver"]
        assert not asked["include_dashboard"]
        assert fake.stopped == 1

    def test_a_dashboard_is_opened_for_this_machine_alone_and_named(
        self, environment: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        fake = FakeRay(environment)
        with ray_session.ray_session(ClusterSettings(dashboard=True), str(tmp_path)):
            [asked] = fake.started
        assert (asked["include_dashboard"], asked["dashboard_host"]) == (True, "127.0.0.1")
        assert any("dashboard: http://127.0.0.1:8265; where it asks for a token" in line for line in caplog.messages)

    @pytest.mark.parametrize(
        ("cluster", "submitted", "address"),
        [
            (ClusterSettings(address="head:6379"), None, "head:6379"),
            (ClusterSettings(), "10.0.0.1:6379", "auto"),
            (ClusterSettings(address="auto"), None, "auto"),
        ],
        ids=["by address", "of ray job submit", "the one that is there"],
    )
    def test_a_cluster_is_joined_with_the_checkout(
        self,
        environment: pytest.MonkeyPatch,
        tmp_path: Path,
        cluster: ClusterSettings,
        submitted: str | None,
        address: str,
    ) -> None:
        if submitted:
            environment.setenv("RAY_ADDRESS", submitted)
        fake, checked = FakeRay(environment), list[ClusterAddress]()
        environment.setattr(ray_session, "check_answers", checked.append)
        with ray_session.ray_session(cluster, str(tmp_path)):
            [asked] = fake.started
        assert [where.address for where in checked] == [submitted or address]
        assert asked["address"] == address
        assert asked["runtime_env"]["working_dir"] == str(ROOT)
        assert "num_cpus" not in asked

    def test_a_cluster_that_does_not_answer_is_refused_and_never_joined(
        self, environment: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        environment.setenv("RAY_ADDRESS", "ray://head:10001")
        fake = FakeRay(environment)
        with (
            pytest.raises(ValueError, match=r"the environment variable RAY_ADDRESS is ray://head:10001: Ray Client"),
            ray_session.ray_session(ClusterSettings(), str(tmp_path)),
        ):
            pytest.fail("no session was opened")
        assert fake.started == []

    def test_a_ray_that_is_up_is_used_and_left_up(self, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
        fake = FakeRay(environment, running=True)
        with ray_session.ray_session(ClusterSettings(), str(tmp_path / "run")):
            pass
        assert (fake.started, fake.stopped) == ([], 0)
        assert not (tmp_path / "run" / "ray.log").exists()

    @pytest.mark.parametrize(
        ("error", "named"),
        [(RuntimeError("a worker died"), True), (ValueError("not so"), False), (KeyboardInterrupt(), False)],
        ids=["what failed", "what was refused", "Ctrl-C"],
    )
    def test_a_failure_names_the_log_and_ray_is_stopped_whatever_happens(
        self,
        environment: pytest.MonkeyPatch,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        error: BaseException,
        named: bool,
    ) -> None:
        caplog.set_level(logging.ERROR)
        fake = FakeRay(environment)
        with pytest.raises(type(error)), ray_session.ray_session(ClusterSettings(), str(tmp_path)):
            raise error
        assert fake.stopped == 1
        assert (f"{tmp_path}/ray.log may say more" in caplog.text) is named


@pytest.mark.parametrize(("interpreter", "told"), [("/usr/bin/python", False), ("/a b/bin/python", True)])
def test_an_interpreter_whose_path_needs_quotes_is_told_quoted(
    environment: pytest.MonkeyPatch, interpreter: str, told: bool
) -> None:
    fake = FakeRay(environment)
    environment.setattr(sys, "executable", interpreter)
    ray_session.start_local_ray(4)
    [asked] = fake.started
    assert asked["runtime_env"] == ({"py_executable": shlex.quote(interpreter)} if told else None)


@pytest.mark.parametrize(("cores", "set_to", "cpus"), [(2, None, 4), (16, None, 16), (None, None, 4), (16, 5, 5)])
def test_a_local_ray_has_at_least_the_cpus_with_which_every_job_runs(
    environment: pytest.MonkeyPatch, cores: int | None, set_to: int | None, cpus: int
) -> None:
    environment.setattr("os.cpu_count", lambda: cores)
    assert ClusterSettings(local_cpus=set_to).cpus_of_local_ray() == cpus


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("AWS_REGION", True),
        ("AWS_PROFILE", False),
        ("AWS_CONFIG_FILE", False),
        ("AWS_SHARED_CREDENTIALS_FILE", False),
        ("AWS_ACCESS_KEY_ID", False),
        ("AWS_SESSION_TOKEN", False),
        ("AWS_SECRET_ACCESS_KEY", False),
        ("STORAGE_EMULATOR_HOST", True),
        ("GOOGLE_CLOUD_PROJECT", True),
        ("GOOGLE_APPLICATION_CREDENTIALS", False),
        ("HOME", False),
    ],
)
def test_only_what_finds_the_storage_is_told_to_workers(environment: pytest.MonkeyPatch, name: str, kept: bool) -> None:
    environment.setenv(name, "value of it")
    assert (name in ray_session.runtime_env()["env_vars"]) is kept


def test_what_a_user_has_set_for_ray_is_left_as_it_is(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "9")
    environment.delenv("PYTHONPATH", raising=False)
    with ray_session._environment_of_workers():
        assert os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "9"
        assert os.environ["PYTHONPATH"] == str(ROOT)
    assert os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "9"
    assert "PYTHONPATH" not in os.environ
