"""`gigamil push` and `pull` against a stand-in of the hub: what goes, what is refused, what breaks off and goes on."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from click.testing import CliRunner
from hub_server import TOKEN, Hub, Repo, sha256
from huggingface_hub import ModelCard, constants
from witness import DIM, Trained, facts, grid

import mil.hub.push as push_module
import mil.hub.resume as resume_module
from cli.app import app
from features.bags.bag import write_bag
from mil.hub.address import Address, address_of
from mil.hub.licences import Source, checked
from mil.hub.options import PullOptions, PushOptions
from mil.hub.pull import pull
from mil.hub.push import push
from mil.inference.options import PredictOptions
from mil.inference.predict import predict
from wsi.errors import GigamilError, RemoteError, RequestError
from wsi.progress.outcome import Silent, Status

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the hub's client itself
MIT = {"encoder": {"name": "texture", "licence": "MIT (part of this software)"}}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with Hub().serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield server


def some_bags(folder: Path, count: int = 5, provenance: object = MIT) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(3)
    for n in range(count):
        told = replace(facts(f"s{n}"), encoder="texture", provenance=provenance)  # type: ignore[arg-type]
        write_bag(folder / f"s{n}.h5", [rng.normal(size=(20, DIM)).astype(np.float16)], grid(20), told)
    return folder


def some_weights(path: Path, encoder: str = "", lineage: bool = False, patients: Sequence[str] = ("p",)) -> Path:
    told: dict[str, object] = {"recipe": {"encoder": {"name": encoder}}}
    if lineage:
        told["lineage"] = {"patients_sha256": list(patients)}
    metadata = {"gigamil": json.dumps(told)} if encoder else None
    safetensors.numpy.save_file({"w": np.arange(3000, dtype=np.float32)}, path, metadata)
    return path


def test_a_run_goes_up_without_its_patients_and_predicts_when_it_is_back(
    hub: Hub, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.out, run)
    monkeypatch.setattr(push_module, "MOST_FILES", 3)
    options = PushOptions(item=run, to="hf://lab/stroke/v1", licence="mit", permission="ours")
    assert push(options).exit_code == 0
    there = hub.repos["lab/stroke"].files
    models = {f"v1/fold{k}/seed0/{name}" for k in range(3) for name in ("weights.safetensors", "model.json")}
    more = {"config.toml", "calibration.json", "metrics.json", "README.md", "gigamil.json"}
    assert set(there) == models | {f"v1/{name}" for name in more}
    for path in models | {"v1/config.toml", "v1/calibration.json"}:
        assert there[path] == (run / path.removeprefix("v1/")).read_bytes(), path
    card = there["v1/README.md"].decode()
    read = ModelCard(card)
    data = vars(read.data)
    assert (data["license"], data["library_name"]) == ("mit", "gigamil")
    assert {"gigamil-run", "histopathology"} < set(data["tags"])
    assert data["eval_results"], "the hub shows what it says"
    assert read.text.count("## Evaluation") == 1
    assert card.count("\n---\n") == 1
    assert "Shared with permission: ours" in card
    assert "0900_0" in (run / "model_card.md").read_text().replace("\\", "")
    assert "0900_0" not in card.replace("\\", "")
    assert pull(PullOptions(source="hf://lab/stroke/v1", out=tmp_path / "back")).exit_code == 0
    told = []
    for own in (run, tmp_path / "back"):
        out = tmp_path / f"{own.name}.csv"
        predict(PredictOptions(run=(own,), items=(trained.witness.bags / "0001_0.h5",), out=out))
        told.append(out.read_text())
    assert told[0] == told[1]


def test_a_file_that_tells_a_patient_stops_the_push(hub: Hub, trained: Trained, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.out, run)
    splits = (run / "splits.csv").read_text().replace("0001", "MILLER-4471")
    (run / "splits.csv").write_text(splits)
    options = PushOptions(item=run, to="hf://lab/stroke", licence="mit", permission="ours")
    (run / "model_card.md").write_text("# A model\n\nthe slide of miller-4471 was odd\n")
    with pytest.raises(RequestError, match=r"card\.md would tell whose slides these are .*nothing was sent"):
        push(options)
    assert not hub.repos
    (run / "model_card.md").write_text("# A model\n")
    assert push(options).exit_code == 0
    assert not any(b"iller" in data.lower() for data in hub.repos["lab/stroke"].files.values())


def test_bags_are_those_of_the_server_byte_by_byte_and_pulled_whole(hub: Hub, tmp_path: Path) -> None:
    bags = some_bags(tmp_path / "bags")
    options = PushOptions(item=bags, to="hf://lab/features", public_ids=True)
    push(options)
    there = hub.repos["lab/features"].files
    assert {name: data for name, data in there.items() if name.endswith(".h5")} == {
        path.name: path.read_bytes() for path in bags.iterdir()
    }
    before = list(hub.uploaded)
    assert {o.status for o in push(options).outcomes} == {Status.SKIPPED}
    assert hub.uploaded == before
    asked = PullOptions(source="hf://lab/features", out=tmp_path / "back")
    assert [o.status for o in pull(asked).outcomes] == [Status.DONE]
    assert [o.status for o in pull(asked).outcomes] == [Status.SKIPPED]
    for path in bags.iterdir():
        assert (tmp_path / "back" / path.name).read_bytes() == path.read_bytes()
    (tmp_path / "back" / "s1.h5").write_bytes(b"else")
    with pytest.raises(RequestError, match="give --overwrite"):
        pull(asked)
    assert pull(replace(asked, overwrite=True)).exit_code == 0
    (tmp_path / "mine").mkdir()
    with pytest.raises(RequestError, match="holds something else"):
        pull(replace(asked, out=tmp_path / "mine", overwrite=True))


def test_bags_bear_ids_and_need_a_bundle(hub: Hub, tmp_path: Path) -> None:
    bags = some_bags(tmp_path / "bags", 1)
    with pytest.raises(RequestError, match="expected those of a bundle of `gigamil share --as bags`"):
        push(PushOptions(item=bags, to="hf://lab/features"))
    (tmp_path / "bundle.json").write_text(json.dumps({"format": "gigamil-bundle-1"}))
    assert push(PushOptions(item=bags, to="hf://lab/features")).exit_code == 0


def test_a_push_that_broke_off_goes_on_and_is_not_pulled_before(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push_module, "MOST_FILES", 2)
    bags = some_bags(tmp_path / "bags", 4)
    options = PushOptions(item=bags, to="hf://lab/features", public_ids=True)
    hub.commits_left = 3
    with pytest.raises(RemoteError, match=r"the hub answered 500.*give the command again"):
        push(options)
    assert sorted(hub.repos["lab/features"].files) == ["README.md", *(f"s{n}.h5" for n in range(4))]
    with pytest.raises(RequestError, match="its push has not ended"):
        pull(PullOptions(source="hf://lab/features", out=tmp_path / "back"))
    assert not (tmp_path / "back").exists()
    hub.commits_left, before = None, len(hub.uploaded)
    ended = push(options)
    assert [o.item_id for o in ended.ended(Status.DONE)] == ["gigamil.json"]
    assert len(hub.uploaded) == before
    pull(PullOptions(source="hf://lab/features", out=tmp_path / "back"))


def test_a_download_that_is_cut_goes_on(hub: Hub, tmp_path: Path) -> None:
    file = some_weights(tmp_path / "w.safetensors")
    hub.repos["lab/w"] = Repo({"w.safetensors": file.read_bytes()})
    hub.cut_once = "w.safetensors"
    pull(PullOptions(source="hf://lab/w", out=tmp_path / "back"))
    assert (tmp_path / "back" / "w.safetensors").read_bytes() == file.read_bytes()
    assert hub.cut_once == ""


def test_a_download_that_was_killed_goes_on_and_a_damaged_cache_is_named(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume_module, "LEAST_BYTES", 5000)
    file = some_weights(tmp_path / "w.safetensors")
    hub.repos["lab/w"] = Repo({"w.safetensors": file.read_bytes()})
    blobs = tmp_path / "cache" / "models--lab--w" / "blobs"
    blobs.mkdir(parents=True)
    blob, wanted = blobs / sha256(file.read_bytes()), PullOptions(source="hf://lab/w", out=tmp_path / "back")
    (blobs / f"{blob.name}.part").write_bytes(file.read_bytes()[:7000])  # a kill leaves it so
    pull(wanted)
    assert hub.ranges == ["bytes=7000-"]
    assert (tmp_path / "back" / "w.safetensors").read_bytes() == file.read_bytes()
    assert not list(blobs.glob("*.part"))
    blob.unlink()
    (blobs / f"{blob.name}.part").write_bytes(b"x" * 7000)
    with pytest.raises(RemoteError, match="came with other bytes than it has there: give the command again"):
        pull(replace(wanted, out=tmp_path / "other"))
    pull(replace(wanted, out=tmp_path / "other"))
    blob.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(RequestError, match=f"the hub's cache holds w.safetensors otherwise.*remove {blob}"):
        pull(replace(wanted, out=tmp_path / "third"))
    assert not (tmp_path / "third").exists()


def test_what_is_not_as_it_was_pushed_is_not_taken(hub: Hub, tmp_path: Path) -> None:
    push(PushOptions(item=some_weights(tmp_path / "w.safetensors"), to="hf://lab/w", licence="mit"))
    files = hub.repos["lab/w"].files
    files["w.safetensors"] = files["w.safetensors"][:-1] + b"?"
    with pytest.raises(RequestError, match=r"w\.safetensors is not the file that was pushed"):
        pull(PullOptions(source="hf://lab/w", out=tmp_path / "back"))
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("path", ["../evil", "a/../../evil", "/tmp/evil", "..", "a/./../../../../evil", "..\\evil"])
def test_a_repository_whose_paths_lead_elsewhere_is_not_taken(hub: Hub, tmp_path: Path, path: str) -> None:
    hub.repos["lab/w"] = Repo({"a/w.safetensors": b"weights", path: b"evil"})
    before = {own for own in tmp_path.rglob("*") if own.is_file()}
    with pytest.raises(RequestError, match=r"^hf://lab/w: the pull met a path that can be no file's here") as told:
        pull(PullOptions(source="hf://lab/w", out=tmp_path / "x" / "back"))
    assert "\n" not in str(told.value)
    left = {own for own in tmp_path.rglob("*") if own.is_file()} - before
    assert all((tmp_path / "cache") in own.parents for own in left), left
    assert not Path("/tmp/evil").exists()


class Noting(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, line: str) -> None:
        self.notes.append(line)


def test_what_the_manifest_does_not_vouch_for_stays_there(hub: Hub, tmp_path: Path) -> None:
    """As a file that somebody added to the repository afterwards."""
    push(PushOptions(item=some_weights(tmp_path / "w.safetensors"), to="hf://lab/w", licence="mit"))
    hub.repos["lab/w"].files |= {"w.pt": b"a pickle", ".gigamil-pull.json": b"{}"}
    told = Noting()
    asked = PullOptions(source="hf://lab/w", out=tmp_path / "back")
    pull(asked, told)
    found = sorted(own.name for own in (tmp_path / "back").iterdir())
    assert found == [".gigamil-pull.json", "README.md", "gigamil.json", "w.safetensors"]
    assert told.notes == ["left there, for gigamil.json does not vouch for them: w.pt"]
    assert [o.status for o in pull(asked).outcomes] == [Status.SKIPPED]


@pytest.mark.parametrize(
    "manifest", ["[]", "{", '{"format": "gigamil-hub-1", "sha256": ["w"]}', '{"format": "other", "sha256": {"w": "0"}}']
)
def test_a_manifest_of_another_kind_is_one_line(hub: Hub, tmp_path: Path, manifest: str) -> None:
    hub.repos["lab/w"] = Repo({"w": b"weights", "gigamil.json": manifest.encode()})
    with pytest.raises(RequestError, match=r"expected a manifest of `gigamil push` in gigamil\.json"):
        pull(PullOptions(source="hf://lab/w", out=tmp_path / "back"))
    assert not (tmp_path / "back").exists()


def test_without_a_network_the_cache_answers(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push(PushOptions(item=some_weights(tmp_path / "w.safetensors"), to="hf://lab/w", licence="mit"))
    pull(PullOptions(source="hf://lab/w", out=tmp_path / "one"))
    hub.repos.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    pull(PullOptions(source="hf://lab/w", out=tmp_path / "two"))
    assert (tmp_path / "two" / "w.safetensors").read_bytes() == (tmp_path / "w.safetensors").read_bytes()
    with pytest.raises(RequestError, match=r"not in the hub's cache \(HF_HOME\)"):
        pull(PullOptions(source="hf://lab/other", out=tmp_path / "three"))
    with pytest.raises(RequestError, match="a push wants one"):
        push(PushOptions(item=tmp_path / "w.safetensors", to="hf://lab/other", licence="mit"))


def test_what_the_hub_refuses_is_one_line_without_the_token(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = some_weights(tmp_path / "w.safetensors")
    hub.repos["lab/gated"] = Repo({"a": b"b"}, gated=True)
    for source, why in (("hf://lab/none", "knows no such repository"), ("hf://lab/gated", "is gated")):
        with pytest.raises(RequestError, match=why):
            pull(PullOptions(source=source, out=tmp_path / "back"))
    with pytest.raises(RequestError, match="is gated"):
        push(PushOptions(item=file, to="hf://lab/gated", licence="mit"))
    monkeypatch.setenv("HF_TOKEN", "hf_wrongTokenOfTheTests")
    hub.repos["lab/there"] = Repo({"a": b"b"})
    for verb in (
        ["push", str(file), "hf://lab/new", "--licence", "mit"],
        ["pull", "hf://lab/there", "--out", str(tmp_path / "b")],
    ):
        found = CliRunner().invoke(app, verb)
        assert found.exit_code == 2, found.output
        assert "does not know this token" in found.output
        assert len(found.output.strip().splitlines()) == 1
        assert "wrongToken" not in found.output
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(RequestError, match="log in"):
        push(PushOptions(item=file, to="hf://lab/new", licence="mit"))
    assert set(hub.repos) == {"lab/gated", "lab/there"}


@pytest.mark.parametrize("told", ["[", "[1]", '{"recipe": 3}'])
def test_weights_whose_own_words_are_garbled_are_one_line(tmp_path: Path, told: str) -> None:
    safetensors.numpy.save_file({"w": np.zeros(1)}, tmp_path / "w.safetensors", {"gigamil": told})
    with pytest.raises(RequestError, match="what it tells of itself"):
        push(PushOptions(item=tmp_path / "w.safetensors", to="hf://lab/w", licence="mit"))


@pytest.mark.parametrize(
    ("kind", "name", "licence", "why"),
    [
        ("weights", "uni", "CC-BY-NC-ND-4.0", "CC-BY-NC-ND-4.0.* does not allow it"),
        ("weights", "virchow", "Apache-2.0", "only to accounts that accepted their terms"),
        ("weights", "phikon", "Owkin non-commercial", "Owkin non-commercial"),
        ("bags", "uni", "CC-BY-NC-ND-4.0", "features of uni are not shared: its licence .CC-BY-NC-ND-4.0"),
        ("run", "feather@conch-v1.5", "CC-BY-NC-ND-4.0", "models trained on features of feather@conch-v1.5"),
        ("bags", "other", "", "no licence told"),
    ],
)
def test_licences_that_do_not_allow_it_are_named(kind: str, name: str, licence: str, why: str) -> None:
    with pytest.raises(RequestError, match=why):
        checked(kind, [Source(name, licence)], "", "")  # type: ignore[arg-type]
    if kind == "weights":
        with pytest.raises(RequestError, match=why):
            checked("weights", [Source(name, licence)], "mit", "somebody said so")
    else:
        assert checked(kind, [Source(name, licence)], "", "the authors, by mail") == "other"  # type: ignore[arg-type]


def test_what_a_licence_asks_to_keep_is_kept() -> None:
    assert checked("bags", [Source("virchow", "Apache-2.0")], "", "") == "other"
    assert checked("weights", [Source("gpfm", "CC-BY-NC-4.0")], "", "") == "cc-by-nc-4.0"
    both = [Source("texture", "MIT (part of this software)"), Source("ctranspath", "GPL-3.0")]
    assert checked("bags", both, "", "") == "gpl-3.0"
    with pytest.raises(RequestError, match=r"--licence mit: it was made with an encoder under cc-by-nc-4\.0"):
        checked("weights", [Source("gpfm", "CC-BY-NC-4.0")], "mit", "")


def test_weights_carry_their_origin_and_their_patients(hub: Hub, tmp_path: Path) -> None:
    def asked(file: Path, **changes: object) -> PushOptions:
        return PushOptions(item=file, to="hf://lab/w", **changes)  # type: ignore[arg-type]

    for encoder, changes, why in (
        ("", {}, "say --licence NAME"),
        ("uni", {"licence": "mit"}, "weights of uni are not shared"),
        ("gpfm", {}, "sha256 of the ids of patients"),
    ):
        with pytest.raises(RequestError, match=why):
            push(asked(some_weights(tmp_path / "w.safetensors", encoder, lineage=True), **changes))
    assert not hub.repos
    file = some_weights(tmp_path / "w.safetensors", "gpfm", lineage=True)
    assert push(asked(file, keep_lineage=True)).exit_code == 0
    assert sha256(hub.repos["lab/w"].files["w.safetensors"]) == sha256(file.read_bytes())
    assert b"license: cc-by-nc-4.0" in hub.repos["lab/w"].files["README.md"]
    formula = some_weights(tmp_path / "formula.safetensors", "gpfm", lineage=True, patients=())
    assert push(asked(formula)).exit_code == 0, "nobody was seen: there is nothing to keep"


@pytest.mark.parametrize("text", ["hf://lab", "s3://lab/x", "hf://lab/x/../y", "hf://lab/x y", "lab/x", "hf:///x"])
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(RequestError, match="expected hf://OWNER/NAME"):
        address_of(text)


def test_addresses_are_read_and_told() -> None:
    assert address_of("hf://lab/x/a/b/") == Address("lab/x", "a/b")
    assert [str(address_of(text)) for text in ("hf://lab/x", "hf:/lab/x/a")] == ["hf://lab/x", "hf://lab/x/a"]
    assert issubclass(RemoteError, GigamilError)
