"""Features of an encoder that has seen a patient are never used to test that patient."""

from pathlib import Path

import numpy as np
import pytest

from features.bags.bag import BagFacts, BagHeader, read_header, write_bag
from features.encoders.lineage import Lineage, patient_sha256
from mil.data.encoder_lineage import check_unseen, lineages
from wsi.errors import RequestError

PATIENTS = ("p0", "p0", "p1", "p2", "p3", "p4", "p5")
FOLDS = np.array([0, 0, 1, 2, 0, 1, 2])


def lineage(*seen: str, fold: int = 0) -> Lineage:
    return Lineage("recipe", "splits", fold, 3, ("CE", "LAA"), tuple(sorted(map(patient_sha256, seen))))


def headers(folder: Path, *encoders: object) -> list[BagHeader]:
    """Bags of one tile, whose provenance holds these encoder entries."""
    found = []
    for number, encoder in enumerate(encoders):
        facts = BagFacts(
            image_id=f"p{number}_0", encoder="timm:a", recipe={"stage": "extract"}, provenance={"encoder": encoder},
            tile_px=256, l0_px_per_px=1.0, level0_shape_yx=(300, 300), mpp=0.5,
        )  # fmt: skip
        write_bag(folder / f"p{number}_0.h5", [np.zeros((1, 4), np.float32)], np.zeros((1, 2), np.int64), facts)
        found.append(read_header(folder / f"p{number}_0.h5"))
    return found


def test_only_the_fold_that_was_held_out_may_be_tested(tmp_path: Path) -> None:
    bags = headers(tmp_path, *[{"name": "timm:a", "lineage": lineage("p1", "p2", "p4", "p5").as_dict()}] * 3)
    check_unseen(bags, PATIENTS, FOLDS, [0])
    with pytest.raises(RequestError) as told:
        check_unseen(bags, PATIENTS, FOLDS, [0, 1, 2])
    assert str(told.value) == (
        "the encoder of these bags was trained with its fold 0 of 3 held out and has seen 2 of the 2 patients that "
        "fold 1 tests: expected none; extract with an encoder that was trained on other patients, or with published "
        "weights, or give each fold the bags of an encoder that held it out (--fusion folds)"
    )


def test_other_splits_leak_wherever_one_patient_was_seen(tmp_path: Path) -> None:
    bags = headers(tmp_path, {"name": "timm:a", "lineage": lineage("p1", "p2", "p4", "p5").as_dict()})
    moved = np.array([0, 0, 1, 2, 1, 0, 2])
    with pytest.raises(RequestError, match="seen 1 of the 2 patients that fold 0 tests"):
        check_unseen(bags, PATIENTS, moved, [0])
    with pytest.raises(RequestError, match=r"seen 1 of the 2 patients that fold 1"):
        check_unseen(bags, PATIENTS, moved, [1])


def test_one_leaking_encoder_among_several_is_found(tmp_path: Path) -> None:
    fine, leaking = {"name": "timm:a"}, {"name": "timm:b", "lineage": lineage("p0", fold=1).as_dict()}
    both = {"name": "timm:a+timm:b", "members": [fine, leaking]}
    for encoders in ((fine, leaking), (both,)):
        bags = headers(tmp_path, *encoders)
        assert [found.fold for found in lineages(bags)] == [1]
        with pytest.raises(RequestError, match="seen 1 of the 2 patients that fold 0"):
            check_unseen(bags, PATIENTS, FOLDS, [0])
        check_unseen(bags, PATIENTS, FOLDS, [1, 2])


def test_encoders_that_were_not_fine_tuned_may_test_everybody(tmp_path: Path) -> None:
    bags = headers(tmp_path, {"name": "texture"}, {}, None)
    assert lineages(bags) == []
    check_unseen(bags, PATIENTS, FOLDS, [0, 1, 2])


def test_a_lineage_that_cannot_be_read_is_not_taken_for_none(tmp_path: Path) -> None:
    bags = headers(tmp_path, {"name": "timm:a", "lineage": {"fold": 0}})
    with pytest.raises(RequestError, match=r"p0_0\.h5: its list of training patients cannot be read"):
        check_unseen(bags, PATIENTS, FOLDS, [0])
