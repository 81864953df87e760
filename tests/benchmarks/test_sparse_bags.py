"""The benchmark's bags are whole bags, each another, and take no disk."""

from pathlib import Path

from sparse_bags import bytes_of_features, bytes_on_disk, write_sparse_bags

from features.bags.bag import find_bags, is_intact, read_header
from wsi.cohort.manifest import load_manifest


def test_they_are_whole_and_sparse(tmp_path: Path) -> None:
    table = write_sparse_bags(tmp_path / "bags", 3, 2000, 256)
    headers = [read_header(path) for path in find_bags([tmp_path / "bags"])]
    assert [own.image_id for own in headers] == [row.image_id for row in load_manifest(table)]
    assert len({own.provenance["overview_sha256"] for own in headers}) == 3
    assert all(is_intact(own.path) and own.moments is not None for own in headers)
    assert bytes_of_features(headers[0].path) == 2000 * 256 * 2
    assert bytes_on_disk(tmp_path / "bags") < 3 * 100_000
