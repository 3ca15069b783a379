"""How a job ends, and what it says of itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from ray.exceptions import RayTaskError

from jobs import calibrate, evaluate, import_weights, label, train
from jobs.settings.help import settings_of
from jobs.settings.import_weights import ImportConfig
from jobs.settings.label import LabelConfig
from jobs.settings.scoring import CalibrateConfig, EvaluateConfig
from jobs.settings.train import TrainConfig
from jobs.shell.job import run_job
from jobs.shell.stops import FolderTakenError, Terminated

JOBS = (
    (train.main, TrainConfig),
    (import_weights.main, ImportConfig),
    (calibrate.main, CalibrateConfig),
    (label.main, LabelConfig),
    (evaluate.main, EvaluateConfig),
)


@dataclass(frozen=True)
class Nothing:
    """A configuration with nothing to set."""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("no"), 2),
        (FileNotFoundError("gone"), 2),
        (PermissionError("denied"), 3),
        (KeyboardInterrupt(), 130),
        (Terminated(), 143),
        (FolderTakenError("another job"), 3),
        (RayTaskError("f", "f()", OSError("no space")), 3),
    ],
)
def test_each_kind_of_end_has_its_exit_code(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def execute(config: Nothing) -> int:
        raise error

    assert run_job(Nothing, execute, None, []) == code
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@dataclass(frozen=True)
class Little:
    """A configuration with something to set."""

    size: int = 1
    """How large."""
    dry_run: bool = False
    """Look only."""


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [
        ([], Little()),
        (["--set", "size=3"], Little(size=3)),
        (["--set", "size=3", "--set", "size=4"], Little(size=4)),
        (["--dry-run"], Little(dry_run=True)),
        (["--dry-run", "--set", "dry_run=false"], Little(dry_run=True)),
    ],
)
def test_the_command_line_becomes_the_configuration_and_the_answer_the_exit_code(
    argv: list[str], wanted: Little
) -> None:
    seen: list[Little] = []

    def execute(config: Little) -> int:
        seen.append(config)
        return 7

    assert run_job(Little, execute, None, argv, flags=("dry_run",)) == 7
    assert seen == [wanted]


def test_a_switch_with_a_value_stands_for_a_setting() -> None:
    seen: list[Little] = []
    for argv in (["--large", "3"], []):
        assert run_job(Little, lambda config: seen.append(config) or 0, None, argv, shorts={"large": "size"}) == 0
    assert seen == [Little(size=3), Little()]


def test_a_file_is_read_before_what_is_set(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("size: 5\n")
    seen: list[Little] = []
    argv = ["--config", str(tmp_path / "job.yaml"), "--set", "dry_run=true"]
    assert run_job(Little, lambda config: seen.append(config) or 0, None, argv) == 0
    assert seen == [Little(size=5, dry_run=True)]


@pytest.mark.parametrize(
    ("argv", "said"),
    [(["--set", "sice=3"], "did you mean 'size'"), (["--config", "nowhere.yaml"], "nowhere.yaml does not exist")],
)
def test_a_configuration_that_is_none_is_refused_before_anything_is_done(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_job(Little, lambda config: 0, None, argv) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (ValueError("x must be 1"), "error: x must be 1"),
        (PermissionError("denied"), "error: PermissionError: denied; once this is mended, run the same command again"),
        (KeyboardInterrupt(), "interrupted; run the same command again to go on"),
    ],
    ids=["a refusal", "the world", "Ctrl-C"],
)
def test_the_last_line_says_what_to_do(error: BaseException, advice: str, capsys: pytest.CaptureFixture[str]) -> None:
    def execute(config: Nothing) -> int:
        raise error

    run_job(Nothing, execute, None, [])
    assert capsys.readouterr().err.strip() == advice


def test_a_bug_keeps_its_traceback() -> None:
    def execute(config: Nothing) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_job(Nothing, execute, None, [])


@pytest.mark.parametrize(("main", "cls"), JOBS, ids=[cls.__name__ for _, cls in JOBS])
def test_help_lists_every_setting_with_a_sentence(
    main: Callable[[Sequence[str]], int], cls: type, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    shown = capsys.readouterr().out
    settings = list(settings_of(cls))
    assert len(settings) >= 5
    for setting in settings:
        assert setting.text, setting.path
        assert f"\n  {setting.path}  [{setting.type}" in shown
