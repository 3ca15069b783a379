"""How a job ends, and what it says of itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from jobs import calibrate, evaluate, import_weights, label, train
from jobs.settings.import_weights import ImportConfig
from jobs.settings.label import LabelConfig
from jobs.settings.scoring import CalibrateConfig, EvaluateConfig
from jobs.settings.train import TrainConfig
from jobs.shell.help import settings_of
from jobs.shell.job import run_job

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
    ],
)
def test_each_kind_of_end_has_its_exit_code(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def execute(config: Nothing) -> int:
        raise error

    assert run_job(Nothing, execute, None, []) == code
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


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
