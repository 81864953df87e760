"""What a reader is warned of follows from what was done and from how many carry it."""

import pytest

from mil.run.protocol import FEW_PATIENTS, about_few, about_probe

PROBE = {"balanced_accuracy": {"value": 0.8, "low": 0.7, "high": 0.9}, "chance": 0.5}


def test_a_class_of_three_patients_is_named_with_what_would_be_enough() -> None:
    (line,) = about_few({"CE": 547, "LAA": 3}, "patients of each class")
    assert "LAA: 3" in line
    assert "CE" not in line
    assert str(FEW_PATIENTS) in line
    assert not about_few({"CE": FEW_PATIENTS, "LAA": FEW_PATIENTS}, "patients of each class")


@pytest.mark.parametrize(("split", "told"), [("patients", "--split centers"), ("centers", "were held out")])
def test_holding_out_centers_is_advised_to_those_alone_who_did_not(split: str, told: str) -> None:
    (line,) = about_probe(PROBE, {"split": split})
    assert told in line
    assert ("--split centers" in line) == (split == "patients")


def test_a_probe_that_may_be_at_chance_warns_of_nothing() -> None:
    within = {**PROBE, "balanced_accuracy": {"value": 0.6, "low": 0.5, "high": 0.7}}
    assert not about_probe(within, {"split": "patients"})
    assert not about_probe(None, {})
