"""New ids: random, one per slide and patient, kept apart from the bundle."""

import re
import stat
from pathlib import Path

import pytest

from wsi.errors import RequestError
from wsi.sharing.ids import NewIds, check_key_place, new_ids, patients_of_key, read_key, write_key
from wsi.sharing.phi.matcher import Matcher
from wsi.sharing.phi.needles import needles_of

PATIENTS = {"a_0": "a", "a_1": "a", "b_0": "b", "c": "c"}


def test_ids_are_new_random_and_keep_who_belongs_to_whom() -> None:
    ids = new_ids(PATIENTS)
    again = new_ids(PATIENTS)
    assert set(ids.slides) == set(PATIENTS)
    assert len({*ids.slides.values()}) == 4
    assert len({*ids.patients.values()}) == 3
    assert not {*ids.slides.values()} & {*again.slides.values()}
    for image_id, new in ids.slides.items():
        assert re.fullmatch(r"p[g-z]{12}_\d", new)
        assert new.rpartition("_")[0] == ids.patients[PATIENTS[image_id]]


def test_neither_the_order_of_slides_nor_of_patients_shows() -> None:
    """Of many bundles of two slides the first is not always number 0, nor is the first patient the lower id."""
    seen = {(ids.slides["a_0"].endswith("_0"), ids.patients["a"] < ids.patients["b"]) for ids in _many()}
    assert len(seen) == 4


def _many() -> list[NewIds]:
    return [new_ids(PATIENTS) for _ in range(100)]


def test_a_key_is_readable_by_its_owner_alone_and_is_used_again(tmp_path: Path) -> None:
    ids, key = new_ids(PATIENTS), tmp_path / "key.csv"
    write_key(key, ids, PATIENTS)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert read_key(key) == ids
    assert patients_of_key(key) == PATIENTS
    more = new_ids({**PATIENTS, "a_2": "a", "d_0": "d"}, read_key(key))
    assert {image_id: more.slides[image_id] for image_id in PATIENTS} == ids.slides
    assert more.slides["a_2"] == f"{ids.patients['a']}_2"


def test_a_key_never_lies_in_the_bundle_nor_over_another_file(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    out.mkdir()
    (tmp_path / "link").symlink_to(out)
    for place in (out / "key.csv", tmp_path / "link" / "deeper" / "key.csv", out / "x" / ".." / "key.csv"):
        with pytest.raises(RequestError, match="lies inside"):
            check_key_place(place, out)
    (tmp_path / "notes.csv").write_text("mine\n")
    with pytest.raises(RequestError, match="no key file"):
        check_key_place(tmp_path / "notes.csv", out)
    check_key_place(tmp_path / "key.csv", out)


def test_a_new_id_holds_no_number_that_could_be_an_old_one() -> None:
    """All numbers of four digits are ids of a cohort; a bundle of 2,000 of its patients is searched for them."""
    matcher = Matcher(needles_of((f"line {n}", f"{n:04d}", False) for n in range(10_000)).found)
    ids = new_ids({f"{n:04d}_0": f"{n:04d}" for n in range(2_000)})
    assert not matcher.in_text("\n".join([*ids.slides.values(), *ids.patients.values()]))
