"""What a job tells Ray about itself, and how it ends."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from jobs.settings.common import ClusterSettings
from jobs.shell import session

SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"


@dataclass(frozen=True)
class Nothing:
    """A configuration with nothing to set."""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (SUBMITTED, "RAY_ADDRESS", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_workers_get_the_checkout_and_the_endpoint_but_no_secret(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    environment.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    made = session.runtime_env()
    assert made["working_dir"] == str(session.ROOT)
    assert {"/.venv", "/.git", "/runs"} <= set(made["excludes"])
    assert made["env_vars"]["AWS_ENDPOINT_URL"] == "http://127.0.0.1:1"
    assert "hush" not in json.dumps(made)


def test_what_ray_job_submit_was_given_is_not_said_twice(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    given = {"runtime_env": {"env_vars": {"AWS_ENDPOINT_URL": "http://127.0.0.1:2"}, "working_dir": "gcs://x.zip"}}
    environment.setenv(SUBMITTED, json.dumps(given))
    made = session.runtime_env()
    assert "working_dir" not in made
    assert "AWS_ENDPOINT_URL" not in made["env_vars"]


def test_a_submitted_job_is_not_taken_for_a_local_one(environment: pytest.MonkeyPatch) -> None:
    assert ClusterSettings().is_local
    assert not ClusterSettings(address="auto").is_local
    environment.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert not ClusterSettings().is_local


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("no"), 2),
        (FileNotFoundError("gone"), 2),
        (PermissionError("denied"), 3),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_kind_of_end_has_its_exit_code(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def execute(config: Nothing) -> int:
        raise error

    assert session.run_job(Nothing, execute, None, []) == code
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_bug_keeps_its_traceback() -> None:
    def execute(config: Nothing) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        session.run_job(Nothing, execute, None, [])
