"""Errors, recipes, claims and atomic files."""

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi import errors
from wsi.files.atomic import replacing, write_text
from wsi.files.claim import claim
from wsi.recipe import canonical, differences, recipe_hash, refuse_other_recipe

TREE = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.GigamilError)]


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_errors_survive_pickling(kind: type[errors.GigamilError]) -> None:
    back = pickle.loads(pickle.dumps(kind("expected a, found b")))
    assert type(back) is kind
    assert str(back) == "expected a, found b"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://AKIA1:abc/d+e=@bucket/x.zarr: not found", "s3://***@bucket/x.zarr: not found"),
        ("s3:/AKIA1:abc@bucket/x", "s3:/***@bucket/x"),
        ("Invalid bucket name 'AKIA1:abc@bucket'", "Invalid bucket name '***@bucket'"),
        ("https://token123@host/x and ftp://u:p@h", "https://***@host/x and ftp://***@h"),
        ("https://h/x?X-Amz-Signature=ab1&X-Amz-Date=2", "https://h/x?X-Amz-Signature=***&X-Amz-Date=2"),
        ("https://h/x?sv=1&sig=a%2Fb", "https://h/x?sv=1&sig=***"),
        ("tcp://host:8786/a@b", "tcp://host:8786/a@b"),
        (r"C:\Users\me@home\a.svs", r"C:\Users\me@home\a.svs"),
        ("/data/a@b/x.svs: 12:30, no key=1", "/data/a@b/x.svs: 12:30, no key=1"),
    ],
)
def test_credentials_are_never_told(text: str, shown: str) -> None:
    assert errors.masked(text) == shown
    assert errors.masked(shown) == shown
    for kind in TREE:
        assert str(kind(text)) == shown


@given(st.dictionaries(st.text(max_size=5), st.one_of(st.integers(), st.text(max_size=5), st.none(), st.booleans())))
def test_a_recipe_has_one_hash_whatever_its_order(recipe: dict[str, object]) -> None:
    backwards = dict(reversed(recipe.items()))
    assert recipe_hash(recipe) == recipe_hash(backwards)
    assert differences(recipe, backwards) == []
    assert recipe_hash(recipe | {"more": 1}) != recipe_hash(recipe | {"more": 2})


def test_differing_fields_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        errors.RecipeMismatchError, match=r"a\.b: found 1, wanted 2; c: found null, wanted 3.*--overwrite"
    ):
        refuse_other_recipe(tmp_path, {"a": {"b": 1}}, {"a": {"b": 2}, "c": 3})


def test_the_text_of_a_recipe_is_one() -> None:
    text = '{"a":[1,0.1],"b":{"c":"\\u00e9","d":null}}'
    assert canonical({"b": {"d": None, "c": "é"}, "a": [1, 0.1]}) == text
    assert recipe_hash({"b": {"d": None, "c": "é"}, "a": [1, 0.1]}) == hashlib.sha256(text.encode()).hexdigest()
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"a": float("nan")})


@pytest.mark.parametrize(
    ("found", "wanted", "told"),
    [
        ({"a": 1, "b": 2}, {"a": 1, "b": 2}, []),
        ({"b": 1, "a": 1}, {"a": 2, "c": True}, ["a: found 1, wanted 2", "b: found 1, wanted null",
                                                  "c: found null, wanted true"]),
        ({"a": {"x": 1}}, {"a": 1}, ['a: found {"x": 1}, wanted 1']),
        ({"a": 1}, {"a": {"x": 1}}, ['a: found 1, wanted {"x": 1}']),
        ({"a": {"x": {"y": "1"}, "z": 0}}, {"a": {"x": {"y": 1}, "z": 0}}, ['a.x.y: found "1", wanted 1']),
        ({"a": 1}, {"a": True}, ["a: found 1, wanted true"]),
        ({"a": [1, 2]}, {"a": [2, 1]}, ["a: found [1, 2], wanted [2, 1]"]),
    ],
)  # fmt: skip
def test_differences_of_every_kind_are_told(found: dict[str, object], wanted: dict[str, object], told: object) -> None:
    assert differences(found, wanted) == told


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_text(target, "old")

    def write_half() -> None:
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write_half()
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_claim_keeps_others_out_and_ends_with_its_holder(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from wsi.files.claim import claim\n"
        "with claim(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    )
    output = tmp_path / "x.zarr"
    with subprocess.Popen([sys.executable, "-c", code, output], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(errors.ClaimedError, match=str(holder.pid)), claim(output):
            pass
        holder.kill()
    with claim(output):
        assert os.listdir(tmp_path) == [".x.zarr.lock"]
    assert os.listdir(tmp_path) == []
