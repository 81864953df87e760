"""What every encoder must satisfy: call `check_encoder` in the tests of a package that brings one.

Each check takes a function that builds the encoder, on the CPU, and raises `AssertionError` that says what is broken.
"""

import pickle
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.encoders.spec import Encoder
from features.encoders.tile_encoder import TileEncoder

Build = Callable[[], Encoder]
_N = 6


def some_tiles(size_px: int = 160) -> Tensor:
    """Return six tiles of noise, uint8 (6, 3, S, S), always the same."""
    noise = np.random.default_rng(5).integers(0, 256, (_N, 3, size_px, size_px), np.uint8)
    return torch.from_numpy(noise)


def features_of(encoder: Encoder, tiles_NCHW: Tensor) -> NDArray[np.float32]:
    """Return float32 (N, dim) of uint8 tiles (N, 3, T, T), as extraction makes them on a CPU."""
    return TileEncoder(encoder, torch.device("cpu"), "fp32").encode_tiles(tiles_NCHW)


def gives_one_finite_vector_per_tile(build: Build) -> None:
    """Check shape, type and values, and that two tiles are told apart."""
    encoder = build()
    found = features_of(encoder, some_tiles())
    _hold(found.shape == (_N, encoder.spec.dim), f"expected features {(_N, encoder.spec.dim)}, found {found.shape}")
    _hold(bool(np.isfinite(found).all()), "features are not finite")
    _hold(found.std(0).max() > 0, "all tiles have the same features")


def depends_on_the_tile_alone(build: Build) -> None:
    """Check that neither the rest of the batch nor the time of asking changes a row."""
    encoder = build()
    together = features_of(encoder, some_tiles())
    alone = np.concatenate([features_of(encoder, tile[None]) for tile in some_tiles()])
    np.testing.assert_allclose(together, alone, atol=1e-5, err_msg="a row depends on the other tiles of its batch")
    np.testing.assert_array_equal(together, features_of(encoder, some_tiles()), "asked again, features differ")


def takes_no_tiles(build: Build) -> None:
    """Check that it is asked for nothing without harm."""
    encoder = build()
    _hold(features_of(encoder, some_tiles()[:0]).shape == (0, encoder.spec.dim), "expected no rows for no tiles")


def pickles(build: Build) -> None:
    """Check that a copy in another process would be the same."""
    encoder = build()
    copy = pickle.loads(pickle.dumps(encoder))
    _hold(copy.spec == encoder.spec, "its copy has another spec")
    np.testing.assert_array_equal(
        features_of(copy, some_tiles()), features_of(encoder, some_tiles()), "its copy differs"
    )


def is_built_twice_the_same(build: Build) -> None:
    """Check that every process that builds it gets the same one."""
    one, other = build(), build()
    _hold(one.spec == other.spec, "built twice, its spec differs")
    np.testing.assert_array_equal(
        features_of(one, some_tiles()), features_of(other, some_tiles()), "built twice, it differs"
    )


def tells_what_it_is(build: Build) -> None:
    """Check the spec: the weights' hash, the licence, and that what shapes features can be recorded."""
    spec = build().spec
    _hold(len(spec.weights_sha256) == 64, "weights_sha256: expected 64 hexadecimal digits")
    _hold(bool(spec.licence and spec.description), "expected a licence and a description")
    _hold(set(spec.recipe()) <= set(spec.as_dict()), "the recipe holds what the spec does not tell")


CHECKS: tuple[Callable[[Build], None], ...] = (
    gives_one_finite_vector_per_tile,
    depends_on_the_tile_alone,
    takes_no_tiles,
    pickles,
    is_built_twice_the_same,
    tells_what_it_is,
)


def check_encoder(build: Build) -> None:
    """Hold an encoder to all of them: ``check_encoder(lambda: build_encoder("ours:big"))``."""
    for check in CHECKS:
        check(build)


def _hold(condition: bool, broken: str) -> None:
    if not condition:
        raise AssertionError(broken)
