"""Every YAML in the repository loads into the configuration of its job."""

from __future__ import annotations

from pathlib import Path

import pytest

from anchornet.files.config import load_config
from jobs.settings.import_weights import ImportConfig
from jobs.settings.label import LabelConfig
from jobs.settings.scoring import CalibrateConfig, EvaluateConfig
from jobs.settings.train import TrainConfig

ROOT = Path(__file__).resolve().parents[3]
FILES = sorted((ROOT / "jobs" / "configs").rglob("*.yaml"))
KINDS = {
    "anchornet": TrainConfig,
    "distilled": TrainConfig,
    "train_anchornet": TrainConfig,
    "train_classifier": TrainConfig,
    "glance": TrainConfig,
    "patch": TrainConfig,
    "full": TrainConfig,
    "calibrate": CalibrateConfig,
    "label": LabelConfig,
    "evaluate": EvaluateConfig,
    "import_weights": ImportConfig,
    "import_behind_anchornet": ImportConfig,
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_it_loads_and_says_what_it_is(path: Path) -> None:
    config = load_config(KINDS[path.stem], str(path))
    assert config is not None
    assert path.read_text().startswith("# ")


def test_there_is_one_for_every_job() -> None:
    assert {path.stem for path in FILES} == set(KINDS)
