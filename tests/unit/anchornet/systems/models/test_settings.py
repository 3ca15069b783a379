"""What can be said of ordinary classifiers: names, how they are fed, and what is refused before anything is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchornet.files.config import ConfigError, load_config
from anchornet.images.preprocess import Preprocessing
from anchornet.systems.models.settings import Member, ModelsSettings, PreprocessingSettings
from jobs.settings.import_weights import ImportConfig

KNOWN = Preprocessing(resize=232, crop=224, interpolation="bicubic", mean=(0.5, 0.5, 0.5))


def models(*architectures: str, **changes: Any) -> ModelsSettings:
    return ModelsSettings(kind="models", members=tuple(Member(architecture=each) for each in architectures), **changes)


@pytest.mark.parametrize(
    ("architecture", "role"),
    [("resnet18", "resnet18"), ("timm:resnet10t.c3_in1k", "resnet10t.c3_in1k"), ("my.module:tiny", "tiny")],
)
def test_a_member_is_called_what_its_architecture_is(architecture: str, role: str) -> None:
    assert Member(architecture=architecture).role == role
    assert Member(architecture=architecture, name="cheap").role == "cheap"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models(), r"system\.members must name one classifier at least, got none; cheap ones come first"),
        (
            lambda: models("resnet18", "timm:resnet18"),
            r"system\.members: 'resnet18' names two networks; give each member a name of its own",
        ),
        (
            lambda: models("a", "b", skip=("c",)),
            r"system\.skip may name a, b, each once and not every exit, got c",
        ),
        (lambda: models("a", "b", skip=("a", "b")), "each once and not every exit, got a, b"),
        (lambda: models("a", "b", skip=("a", "a")), "each once and not every exit, got a, a"),
        (lambda: Member(architecture="resnet18", name="a/b"), r"'a/b' cannot name a network; set name to letters"),
        (lambda: Member(architecture="timm:"), "'' cannot name a network"),
        (lambda: PreprocessingSettings(side=0), r"preprocessing\.side must be >= 1, got 0"),
        (lambda: PreprocessingSettings(crop_fraction=1.5), r"crop_fraction must be <= 1, got 1\.5"),
        (lambda: PreprocessingSettings(crop_fraction=float("nan")), "crop_fraction must be > 0, got nan"),
        (lambda: PreprocessingSettings(side=2**70), "preprocessing.side must be <= 8192, got 1180591620717411303424"),
        (lambda: PreprocessingSettings(resize=0), "preprocessing.resize must be >= 1, got 0"),
        (lambda: PreprocessingSettings(mean=(0.5, 127.0, 0.5)), "preprocessing.mean must be <= 1, got 127"),
        (lambda: PreprocessingSettings(std=(0.5, 0.0, 0.5)), "preprocessing.std must be > 0, got 0"),
        (
            lambda: PreprocessingSettings(resize=256, crop_fraction=0.5),
            "has resize .256. and crop_fraction .0.5., which",
        ),
        (lambda: PreprocessingSettings().on(None), r"nobody says what size of image the network takes; set preproc"),
        (lambda: PreprocessingSettings(resize=200).on(KNOWN), r"preprocessing\.crop must be 1 \.\. resize \(200\)"),
    ],
)
def test_what_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("said", "known", "expected"),
    [
        ({}, KNOWN, KNOWN),
        ({"side": 112}, KNOWN, Preprocessing(resize=116, crop=112, interpolation="bicubic", mean=(0.5, 0.5, 0.5))),
        ({"side": 112}, None, Preprocessing(resize=128, crop=112)),
        ({"side": 260, "crop_fraction": 0.89}, None, Preprocessing(resize=292, crop=260)),
        ({"crop_fraction": 1.0}, KNOWN, Preprocessing(resize=224, crop=224, interpolation="bicubic", mean=(0.5,) * 3)),
        ({"resize": 300, "std": (0.1, 0.2, 0.3)}, None, None),
        (
            {"side": 10, "resize": 11, "keep_aspect": False, "interpolation": "box", "mean": (0.0,) * 3},
            KNOWN,
            Preprocessing(resize=11, crop=10, keep_aspect=False, interpolation="box", mean=(0.0,) * 3),
        ),
    ],
)
def test_what_is_said_counts_and_the_rest_is_as_known(
    said: dict[str, Any], known: Preprocessing | None, expected: Preprocessing | None
) -> None:
    settings = PreprocessingSettings(**said)
    if expected is None:
        with pytest.raises(ValueError, match="nobody says what size"):
            settings.on(known)
    else:
        assert settings.on(known) == expected


@given(
    side=st.none() | st.integers(1, 600),
    crop_fraction=st.none() | st.floats(0.2, 1),
    keep_aspect=st.none() | st.booleans(),
    known=st.builds(
        lambda crop, more: Preprocessing(crop=crop, resize=round(crop * more)), st.integers(1, 600), st.floats(1, 10)
    ),
)
def test_complete_settings_say_it_all_and_saying_it_twice_changes_nothing(
    side: int | None, crop_fraction: float | None, keep_aspect: bool | None, known: Preprocessing
) -> None:
    settings = PreprocessingSettings(side=side, crop_fraction=crop_fraction, keep_aspect=keep_aspect)
    preprocessing = settings.on(known)
    assert PreprocessingSettings.of(preprocessing).on(None) == preprocessing
    assert settings.on(preprocessing) == preprocessing


def test_only_members_with_a_file_name_one() -> None:
    members = (Member(architecture="resnet18", weights="a.pth"), Member(architecture="resnet50"))
    assert ModelsSettings(kind="models", members=members).weight_files == {"resnet18": "a.pth"}


def test_a_configuration_says_it_in_a_list(tmp_path: Path) -> None:
    (tmp_path / "import.yaml").write_text(
        "bundle: b\nclasses: c\nsystem: {kind: models, stages: one, members: [{architecture: resnet18, weights: a.pth}]}\n"
    )
    given = ["system.members.1.architecture=timm:resnet50", "system.members.1.preprocessing.mean=[0, 0.5, 1]"]
    config = load_config(ImportConfig, str(tmp_path / "import.yaml"), given)
    first, second = config.system.members  # type: ignore[union-attr]
    assert (first.weights, second.role, second.preprocessing.mean) == ("a.pth", "resnet50", (0.0, 0.5, 1.0))
    with pytest.raises(
        ConfigError, match=r"system\.members\[0\]\.preprocessing\.interpolation must be one of .*'bilinear'"
    ):
        load_config(
            ImportConfig, str(tmp_path / "import.yaml"), ["system.members.0.preprocessing.interpolation=bilinaer"]
        )
