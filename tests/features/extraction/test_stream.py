"""The stream: bitwise results whatever the threads, bounded memory, and errors that reach the caller."""

import itertools
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import pytest
import torch

from features.encoders.device import reproducible_arithmetic
from features.encoders.joint import JointEncoder
from features.encoders.registry import build_encoder
from features.encoders.spec import Encoder, EncoderSpec, WeightsChoice
from features.encoders.tile_encoder import TileEncoder
from features.encoders.timm_encoder import TimmEncoder
from features.extraction.plan import Job, SlideJob, Target
from features.extraction.stream import StreamOptions, Task, TileStream
from wsi.store.tile_store import find_stores

CPU = torch.device("cpu")
NOWHERE = Target(Path("none.h5"), "none", {}, {}, slice(0, 0))


@pytest.fixture(scope="module")
def conv_net() -> Encoder:
    return build_encoder("timm:test_convnext.r160_in1k", WeightsChoice(random_seed=0))


def job_of(stores: Path, spec: EncoderSpec, batch_size: int) -> Job:
    slides = [SlideJob(s.image_id, s.path, (NOWHERE,), s.n_tiles, s.tile_px, {}, True) for s in find_stores([stores])]
    return Job(tuple(slides), batch_size, spec.dim, spec.name, spec.weights_sha256)


def stream_of(job: Job, encoder: Encoder, **options: int) -> TileStream:
    settings = {"readers": 2, "lanes": 2, "prefetch_bytes": 1 << 22} | options
    tasks = (Task(0, batch) for batch in job.batches())
    return TileStream(job, tasks, encoder, StreamOptions(device=CPU, **settings))


def rows(stream: TileStream) -> dict[tuple[int, int], np.ndarray]:
    found: dict[tuple[int, int], np.ndarray] = {}
    with reproducible_arithmetic():
        for task in stream:
            assert task.features is not None
            places = [(span.slide, row) for span in task.batch.spans for row in range(span.start, span.stop)]
            found |= dict(zip(places, task.features, strict=True))
    return found


def test_float32_is_the_same_to_the_last_bit_for_any_threads_and_prefetch(stores: Path, conv_net: Encoder) -> None:
    job = job_of(stores, conv_net.spec, 8)
    one = rows(stream_of(job, conv_net, readers=1, lanes=1, prefetch_bytes=1))
    many = rows(stream_of(job, conv_net, readers=3, lanes=4))
    assert one.keys() == many.keys()
    assert all(np.array_equal(one[place], many[place]) for place in one)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_float32_does_not_depend_on_the_batch_size(stores: Path, conv_net: Encoder, batch_size: int) -> None:
    expected = rows(stream_of(job_of(stores, conv_net.spec, 8), conv_net))
    found = rows(stream_of(job_of(stores, conv_net.spec, batch_size), conv_net))
    assert found.keys() == expected.keys()
    assert max(float(np.abs(found[place] - expected[place]).max()) for place in found) < 1e-5


class Counting:
    """An encoder that notes how many bytes of pixels were under way at most."""

    def __init__(self) -> None:
        self.spec = EncoderSpec(
            name="counting", dim=1, input_px=None, trained=False, weights_sha256="", licence="", description=""
        )

    def to(self, device: torch.device) -> Self:
        return self

    def encode(self, tiles_NCHW: torch.Tensor) -> torch.Tensor:
        return tiles_NCHW.mean((1, 2, 3))[:, None]


def test_pixels_under_way_stay_within_the_budget(stores: Path) -> None:
    encoder = Counting()
    job = job_of(stores, encoder.spec, 2)
    batch_bytes = 2 * 3 * 256 * 256
    stream = stream_of(job, encoder, readers=4, lanes=2, prefetch_bytes=3 * batch_bytes)
    most = 0
    for _ in stream:
        most = max(most, stream._budget._used)
    assert most <= 3 * batch_bytes
    assert stream._budget._used == 0


class Failing(Counting):
    """Raises on every batch but the blank one before the first."""

    def encode(self, tiles_NCHW: torch.Tensor) -> torch.Tensor:
        if tiles_NCHW.any():
            raise ZeroDivisionError("from the encoder")
        return super().encode(tiles_NCHW)


def test_an_error_in_a_lane_reaches_the_caller_and_ends_the_threads(stores: Path) -> None:
    encoder = Failing()
    with pytest.raises(ZeroDivisionError, match="from the encoder"):
        list(stream_of(job_of(stores, encoder.spec, 2), encoder))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("gigamil-")]


class Endless(Counting):
    """Gives its first answers; the rest would take for ever, in small steps as a network's."""

    def __init__(self, answers: int, *, fails: bool = False) -> None:
        super().__init__()
        self.calls, self.answers, self.fails = itertools.count(), answers, fails
        self.layer = torch.nn.Conv2d(3, 3, 3)

    def encode(self, tiles_NCHW: torch.Tensor) -> torch.Tensor:
        if not tiles_NCHW.any() or next(self.calls) < self.answers:
            return super().encode(tiles_NCHW)
        if self.fails:
            self.fails = False
            raise ZeroDivisionError("from the encoder")
        while True:
            self.layer(tiles_NCHW)


def test_leaving_does_not_wait_for_what_is_queued_or_under_way(stores: Path) -> None:
    encoder = Endless(answers=1)
    stream = iter(stream_of(job_of(stores, encoder.spec, 1), encoder))
    next(stream)
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("gigamil-")]


def test_the_error_of_one_lane_stops_the_other_at_once(stores: Path) -> None:
    encoder = Endless(answers=0, fails=True)
    with pytest.raises(ZeroDivisionError, match="from the encoder"):
        list(stream_of(job_of(stores, encoder.spec, 1), encoder))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("gigamil-")]


class Watching(Counting):
    """Keeps what it is given, and who called first."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []
        self.halves: list[bool] = []
        self.first = ""

    def encode(self, tiles_NCHW: torch.Tensor) -> torch.Tensor:
        self.first = self.first or threading.current_thread().name
        self.halves.append(torch.is_autocast_enabled("cpu"))
        self.seen.append(tiles_NCHW.clone())
        return super().encode(tiles_NCHW)


@pytest.mark.parametrize(
    ("stain", "views", "joint"),
    [
        ("reinhard", "none", False),
        ("macenko", "none", False),
        ("background", "none", True),
        ("reinhard", "colour", True),
    ],
)
def test_pixels_do_not_depend_on_the_encoders_precision(stores: Path, stain: str, views: str, joint: bool) -> None:
    """Only the encoder runs in half precision: colours, views, resizing and normalisation never do."""
    given = []
    for precision in ("fp32", "bf16"):
        watching = Watching()
        watching.spec = replace(watching.spec, input_px=96, mean=(0.7, 0.5, 0.6), std=(0.2, 0.25, 0.2))
        encoder = JointEncoder([watching]).to(CPU) if joint else watching
        job = replace(job_of(stores, encoder.spec, 64), stain=stain, views=views, precision=precision)
        list(stream_of(job, encoder, readers=1, lanes=1))
        assert set(watching.halves) == {precision == "bf16"}
        given.append(torch.cat(watching.seen))
    assert given[0].dtype == torch.float32
    assert torch.equal(*given)


def test_the_encoder_is_warm_before_its_lanes_share_it(stores: Path) -> None:
    """What an encoder makes at its first batch is made by one thread, and waited for."""
    encoder = Watching()
    list(stream_of(job_of(stores, encoder.spec, 8), encoder))
    assert encoder.first == threading.current_thread().name
    assert not encoder.seen[0].any()
    joint = JointEncoder([Counting()]).to(CPU)
    inputs = joint._inputs
    joint.encode(torch.zeros(1, 3, 8, 8))
    assert joint._inputs is inputs


def test_an_error_among_the_tasks_reaches_the_caller(stores: Path) -> None:
    encoder = Counting()
    job = job_of(stores, encoder.spec, 2)

    def tasks() -> Iterator[Task]:
        yield Task(0, job.batches()[0])
        raise ConnectionError("the store of the group is gone")

    options = StreamOptions(device=CPU, readers=2, lanes=2, prefetch_bytes=1 << 22)
    with pytest.raises(ConnectionError, match="is gone"):
        list(TileStream(job, tasks(), encoder, options))


def test_leaving_early_ends_the_threads(stores: Path) -> None:
    encoder = Counting()
    stream = iter(stream_of(job_of(stores, encoder.spec, 1), encoder))
    next(stream)
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("gigamil-")]


def test_a_wrong_number_of_features_is_told(stores: Path) -> None:
    encoder = Counting()
    job = job_of(stores, encoder.spec, 2)
    wrong = Job(job.slides, 2, 5, "counting", "")
    with pytest.raises(ValueError, match=r"expected features of shape \(2, 5\), found \(2, 1\)"):
        list(stream_of(wrong, encoder))


@pytest.mark.parametrize("model", ["test_convnext.r160_in1k", "test_vit.r160_in1k", "test_efficientnet.r160_in1k"])
def test_weights_cast_once_give_what_autocast_gives(stores: Path, model: str) -> None:
    def encoder() -> TimmEncoder:
        built = build_encoder(f"timm:{model}", WeightsChoice(random_seed=0))
        assert isinstance(built, TimmEncoder)
        return built

    held, plain = encoder(), encoder()
    held.hold_in(torch.bfloat16)
    kinds = {parameter.dtype for parameter in held.module.parameters()}
    assert kinds == {torch.bfloat16, torch.float32}  # norms, and what is added to tokens
    tiles = torch.from_numpy(find_stores([stores])[0].read_tiles([0, 1, 2]))
    with torch.inference_mode():
        found, expected = (TileEncoder(own, CPU, "bf16")(tiles) for own in (held, plain))
    assert torch.equal(found, expected)
    assert not torch.equal(expected, TileEncoder(plain, CPU, "fp32")(tiles))


class Witness(Counting):
    """Notes in which form batches come: shape, autocast, threads."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[tuple[int, ...], bool, int]] = []

    def encode(self, tiles_NCHW: torch.Tensor) -> torch.Tensor:
        self.seen.append((tuple(tiles_NCHW.shape), torch.is_autocast_enabled("cpu"), torch.get_num_threads()))
        return super().encode(tiles_NCHW)


def test_compiled_kernels_are_asked_for_one_form_of_batch(stores: Path) -> None:
    """Each further shape, precision or number of threads would be compiled anew, in the middle of the work."""
    plain, whole = Witness(), Witness()
    job = replace(job_of(stores, plain.spec, 5), precision="bf16")
    assert sum(slide.n_tiles for slide in job.slides) % 5  # the last batch is a ragged one
    expected = rows(stream_of(job, plain))
    found = rows(stream_of(replace(job, compiled=True), whole))
    assert len({shape for shape, _, _ in plain.seen}) > 1
    assert set(whole.seen) == {((5, 3, 256, 256), True, 1)}
    assert len(whole.seen) == 1 + len(list(job.batches()))
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[place], expected[place]) for place in found)
