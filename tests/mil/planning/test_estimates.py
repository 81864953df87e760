"""What a plan makes of headers and costs: by hand, without measuring."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from features.extraction.options import ExtractOptions
from mil.accounting.ranges import NOTHING, Range
from mil.planning.advice import disk_advice, extraction_advice, tiling_advice, training_advice
from mil.planning.calibration import (
    Calibration,
    EncoderCost,
    HeadCost,
    TilingCost,
    encoder_key,
    head_key,
    read_calibration,
    write_calibration,
)
from mil.planning.estimate import StagePlan
from mil.planning.extraction import Bags, largest_batch, plan_extraction
from mil.planning.headers import Headers, SlideFacts
from mil.planning.machine import Machine, cgroup_limits, free_disk, memory_limit
from mil.planning.request import Training
from mil.planning.tiling import plan_tiling
from mil.planning.training import Trained, epochs_of, plan_training
from mil.planning.trials.tiling import in_turns
from mil.planning.wording import duration, size, span
from mil.training.options import TrainOptions
from wsi.cohort.slides import Job
from wsi.errors import RequestError

GIB = 2**30
KIND = "adobe deflate 128 px TIFF, decoded to 256 px zstd"
MACHINE = Machine(name="m", processor="p", cpus=4, memory_bytes=16 * GIB, gpu="G", gpus=1, gpu_bytes=80 * GIB)


def exactly(value: float) -> Range:
    return Range.exactly(value)


COST = TilingCost(
    kind=KIND,
    slides=3,
    slide_seconds=exactly(0.5),
    area_seconds=exactly(0.01),
    tile_seconds=exactly(0.002),
    stored_share=exactly(0.5),
    listed_share=exactly(0.4),
    tile_bytes=exactly(100_000),
    overview_bytes=exactly(3),
    worker_bytes=2e8,
)
FIXED = {"tile_seconds": 4.0, "worker_start_seconds": 2.0, "tile_bytes": 1.5e8}
ENCODER = EncoderCost(
    key="",
    precision="bf16",
    device="cuda",
    dim=1024,
    start_seconds=10,
    tile_seconds=exactly(0.001),
    lanes=2,
    cpu_tile_seconds=0.0002,
    read_seconds=0.002,
    base_bytes=3e9,
    lane_bytes=0,
    gpu_base_bytes=2 * GIB,
    gpu_tile_bytes=0.1 * GIB,
    tile_px=256,
)


def facts(name: str, mpx: float = 100.0, grid: int = 1000, kind: str = KIND) -> SlideFacts:
    return SlideFacts(job=Job(name, Path(name)), kind=kind, mpx=mpx, grid_tiles=grid, overview_px=10_000, bytes=10**6)


def calibrated(**changes: object) -> Calibration:
    return replace(Calibration(machine=MACHINE, tiling={KIND: COST}, fixed=FIXED), **changes)  # type: ignore[arg-type]


def test_tiling_by_hand() -> None:
    plan, tiles = plan_tiling(Headers((facts("a"), facts("b", 300, 3000))), calibrated(), 2, done=1)
    work = 2 * 0.5 + 400 * 0.01 + 2000 * 0.002
    assert plan.seconds.expected == pytest.approx(4 + work * 1.1 / 2 + 0.5 * 0.5)
    assert plan.disk_bytes.expected == 2000 * 100_000 + 2 * 3 * 10_000
    assert tiles.listed["b"] == exactly(1200)
    assert plan.peak_bytes.expected == pytest.approx(1.5e8 + 2 * 2e8 + 12e6)
    assert (plan.todo, plan.done) == (2, 1)


def test_headers_that_were_not_read_count_by_the_size_of_their_files() -> None:
    read, _ = plan_tiling(Headers((facts("a"),)), calibrated(), 1, done=0)
    more, _ = plan_tiling(Headers((facts("a"),), unread=9, scale=10.0), calibrated(), 1, done=0)
    assert more.todo == 10
    assert more.disk_bytes.expected == pytest.approx(10 * read.disk_bytes.expected)
    assert any("1 of 10 headers read" in note for note in more.notes)


def test_a_kind_that_was_not_measured_is_taken_for_the_most_like_and_said() -> None:
    other = replace(COST, kind="jpeg 256 px TIFF, copied to 256 px jpeg", tile_bytes=exactly(20_000))
    both = calibrated(tiling={KIND: COST, other.kind: other})
    plan, _ = plan_tiling(Headers((facts("a", kind="jpeg 512 px TIFF, copied to 256 px jpeg"),)), both, 1, done=0)
    assert plan.disk_bytes.expected == 500 * 20_000 + 30_000
    assert any("not measured, taken for jpeg 256 px" in note for note in plan.notes)
    guessed, _ = plan_tiling(Headers((facts("a"),)), calibrated(tiling={}), 1, done=0)
    assert any("not measured, a guess" in note for note in guessed.notes)


def test_nothing_to_tile_takes_nothing() -> None:
    plan, _ = plan_tiling(Headers(), calibrated(), 2, done=7)
    assert (plan.todo, plan.done, plan.seconds, plan.disk_bytes) == (0, 7, NOTHING, NOTHING)


def test_shares_are_certain_where_all_slides_were_looked_at() -> None:
    wide = calibrated(tiling={KIND: replace(COST, listed_share=Range(0.2, 0.4, 0.6))})
    three = Headers((facts("a"), facts("b"), facts("c")))
    _, elsewhere = plan_tiling(three, wide, 1, done=0)
    _, here = plan_tiling(three, wide, 1, done=0, sampled=True)
    _, part = plan_tiling(replace(three, unread=9, scale=4.0), wide, 1, done=0, sampled=True)
    assert elsewhere.listed["a"].error == pytest.approx(0.5)
    assert here.listed["a"].error == pytest.approx(0.1)
    assert part.listed["a"].error == pytest.approx((0.25 * 0.75 + 0.01) ** 0.5)


def test_kinds_take_turns_and_sizes_are_spread() -> None:
    slides = [facts(f"{kind}{i}", mpx=i, kind=kind) for kind in "xy" for i in range(8)]
    order = list(in_turns(slides))
    assert {own.kind for own in order[:2]} == {"x", "y"}
    assert sorted(own.job.image_id for own in order) == sorted(own.job.image_id for own in slides)
    first = [own.mpx for own in order if own.kind == "x"][:4]
    assert max(first) >= 6
    assert min(first) <= 2


def _extraction(**changes: object) -> ExtractOptions:
    return ExtractOptions(stores=(Path("stores"),), encoder="uni", **changes)  # type: ignore[arg-type]


BAGS = Bags(tiles={"a": exactly(5000), "b": exactly(15000)}, scale=1.0, unread=0, done=0)


def test_extraction_by_hand_names_what_is_slower() -> None:
    plan = plan_extraction(_extraction(), ENCODER, BAGS, calibrated())
    assert plan.seconds.expected == pytest.approx(20_000 * 0.001 + 2 * 0.01 + 10)
    assert "encoder on the GPU" in plan.bottleneck
    assert plan.disk_bytes.expected == 20_000 * (1024 * 2 + 16) + 2 * 9000
    slow = plan_extraction(_extraction(), replace(ENCODER, read_seconds=0.02), BAGS, calibrated())
    assert slow.seconds.expected == pytest.approx(20_000 * 0.02 / 4 + 2 * 0.01 + 10)
    assert "reading" in slow.bottleneck


def test_views_and_selection_count() -> None:
    plan = plan_extraction(_extraction(views="d4", keep_views=True), ENCODER, BAGS, calibrated())
    assert plan.seconds.expected == pytest.approx(8 * 20 + 0.02 + 10)
    assert plan.disk_bytes.expected == 8 * 20_000 * 2064 + 18_000
    some = plan_extraction(_extraction(select="random", tiles_per_slide=6000), ENCODER, BAGS, calibrated())
    assert some.tiles.expected == 11_000


def test_views_are_those_of_an_extraction() -> None:
    from features.views import VIEWS
    from mil.planning.extraction import VIEWS as COUNTED

    assert {name: len(views) for name, views in VIEWS.items()} == COUNTED


def test_largest_batch_that_fits() -> None:
    # 2 GiB + 2 lanes x batch x 0.1 GiB within 0.92 x 80 GiB: 358 tiles a lane
    assert largest_batch(_extraction(), ENCODER, MACHINE.memory_bytes, MACHINE.gpu_bytes) == 256
    plan = plan_extraction(_extraction(batch_size=512), ENCODER, BAGS, calibrated())
    lines = list(extraction_advice(plan, _extraction(batch_size=512), ENCODER, MACHINE))
    assert lines[0] == "extract uni needs 112 GB of 85.9 GB GPU memory: --batch-size 256"
    assert lines[1] == "extract uni: the largest batch that fits is 256"


def _training(**changes: object) -> TrainOptions:
    told: dict[str, object] = {"bags": (Path("bags"),), "manifest": Path("m"), "out": Path("run"), "baselines": ()}
    return TrainOptions(**(told | changes))  # type: ignore[arg-type]


def _head(options: TrainOptions, **changes: object) -> HeadCost:
    cost = HeadCost(
        key=head_key(options, options.head, 100),
        bag_seconds=exactly(0.001),
        row_seconds=exactly(1e-5),
        scored_share=0.5,
        row_bytes=1000,
    )
    return replace(cost, **changes)  # type: ignore[arg-type]


def test_training_by_hand() -> None:
    options = _training(folds=5, seeds=2, epochs=60, patience=15, device="cpu")
    cost = _head(options)
    fixed = {"start_seconds": 4.0, "first_seconds": 2.0, "train_seconds": 1.0, "slide_seconds": 0.02}
    fixed |= {"epoch_seconds": 0.02, "train_bytes": 9e8}
    machine = replace(MACHINE, gpus=0, gpu="", gpu_bytes=0)
    known = Calibration(machine=machine, heads={cost.key: cost}, fixed=fixed)
    training = Training(name="t", encoder="texture", options=options, models_count=True)
    plan = plan_training(training, Trained(sizes=(400,) * 100, error=0.0, dim=100), known)
    outside = 100 * 0.8
    epoch = outside * 0.8 * (0.001 + 400e-5) + outside * 0.2 * 0.5 * (0.001 + 400e-5) + 0.02
    assert plan.seconds.expected == pytest.approx(9 + 10 * 33 * epoch)
    assert plan.todo == 10
    for begun, start in ((4.0, 5.0), (10.0, 3.0)):
        later = plan_training(training, Trained(sizes=(400,) * 100, error=0.0, dim=100), known, begun=begun)
        assert later.seconds.expected == pytest.approx(start + 10 * 33 * epoch)
    assert plan.peak_bytes.expected == pytest.approx(9e8 + 2 * 100 * 40_000 + 1000 * 16 * 400)
    capped = plan_training(
        replace(training, options=replace(options, max_rows=3200)),
        Trained(sizes=(400,) * 100, error=0.0, dim=100),
        known,
    )
    assert plan.peak_bytes.expected - capped.peak_bytes.expected == pytest.approx(1000 * 3200)


def test_a_head_that_was_not_measured_is_named() -> None:
    training = Training(name="t", encoder="texture", options=_training(), models_count=False)
    plan = plan_training(training, Trained(sizes=(10, 10), error=0.0, dim=9), calibrated())
    assert plan.todo == 1
    assert any(note == "gated_abmil: not measured, not in the sum" for note in plan.notes)


@pytest.mark.parametrize(
    ("epochs", "patience", "earlier", "found"),
    [(60, 15, 0, (17, 33, 60)), (10, 15, 0, (10, 10, 10)), (60, 15, 50, (17, 50, 60)), (60, 40, 0, (42, 60, 60))],
)
def test_epochs_lie_between_patience_and_all(
    epochs: int, patience: int, earlier: float, found: tuple[int, ...]
) -> None:
    told = epochs_of(_training(epochs=epochs, patience=patience), earlier)
    assert (told.low, told.expected, told.high) == found


def _stage(stage: str, **ranges: float) -> StagePlan:
    told = {"seconds": 1.0, "peak_bytes": 1.0, **ranges}
    return StagePlan(stage=stage, todo=1, **{name: Range.about(value, 0.1) for name, value in told.items()})  # type: ignore[arg-type]


def test_a_disk_that_is_too_full_is_told() -> None:
    stages = [_stage("tile", disk_bytes=400e9), _stage("extract", disk_bytes=10e9)]
    (line,) = disk_advice(stages, int(62e9))
    assert line.startswith("needs 410 GB of disk, 62 GB free: --codec jpeg")
    (line,) = disk_advice(stages, int(420e9))
    assert line.startswith("may need up to 451 GB of disk")
    assert not list(disk_advice(stages, int(500e9)))


def test_what_to_change_where_memory_is_short() -> None:
    (line,) = tiling_advice(_stage("tile", peak_bytes=20e9), {"k": replace(COST, worker_bytes=1e9)}, 19, MACHINE)
    assert line == "tile needs 20 GB of memory, 17.2 GB are there: --workers 14"
    (line,) = training_advice(_stage("train", peak_bytes=20e9), _training(), replace(MACHINE, gpus=0))
    assert "--max-rows 16384" in line
    assert "--max-tiles" in line
    (line,) = training_advice(_stage("train", gpu_bytes=90e9), _training(), MACHINE)
    assert "GPU memory" in line


def test_calibrations_keep_what_was_measured(tmp_path: Path) -> None:
    options = _training()
    written = calibrated(encoders={"uni": ENCODER}, heads={"h": _head(options)})
    write_calibration(tmp_path / "m.json", written)
    found = read_calibration(tmp_path / "m.json")
    assert found == written
    assert found.joined(Calibration(machine=replace(MACHINE, name="n"))).machine.name == "n"


@pytest.mark.parametrize("change", ["format", "tiling", "machine", ""])
def test_another_file_is_no_calibration(tmp_path: Path, change: str) -> None:
    told = calibrated().as_dict() | {change: {"x": {"y": 1}}}
    (tmp_path / "m.json").write_text(json.dumps(told) if change else "image_id,label\n")
    with pytest.raises(RequestError, match="expected a calibration that `gigamil plan --calibrate FILE` wrote"):
        read_calibration(tmp_path / "m.json")


def test_keys_tell_what_was_asked() -> None:
    assert encoder_key(_extraction(), 256) == "uni, tiles of 256 px"
    assert encoder_key(_extraction(precision="fp16", device="cuda:1"), 224) == "uni, tiles of 224 px, fp16, cuda:1"


def test_a_container_s_limit_counts(tmp_path: Path) -> None:
    (tmp_path / "limited").write_text("2147483648\n")
    (tmp_path / "free").write_text("max\n")
    assert cgroup_limits([tmp_path / "limited", tmp_path / "free", tmp_path / "absent"]) == [2 * GIB]
    assert 0 < memory_limit() < 1 << 50
    assert free_disk(tmp_path / "not" / "there") == pytest.approx(free_disk(tmp_path), rel=0.1)


def test_words() -> None:
    assert [size(n) for n in (12, 999.6, 1.5e6, 99.7e9, 4.1e11, 2e15)] == [
        "12 B", "1 kB", "1.5 MB", "100 GB", "410 GB", "2000 TB",
    ]  # fmt: skip
    assert [duration(s) for s in (0.5, 42, 600, 7200, 9 * 86400)] == ["0.5 s", "42 s", "10 min", "2 h", "9.0 days"]
    assert span(Range(480, 600, 840)) == "10 min (8 min to 14 min)"
