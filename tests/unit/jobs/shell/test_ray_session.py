"""What a job tells Ray about itself."""

from __future__ import annotations

import json
import os

import pytest

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
