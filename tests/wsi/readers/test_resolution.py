"""Which um/px is believed."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi.errors import ResolutionError
from wsi.readers.protocol import Level, MppClaim
from wsi.readers.resolution import MAX_ANISOTROPY, PLAUSIBLE_MPP, resolve_mpp
from wsi.tiling.scaling import choose_scaling
from wsi.units import YX

PLACEHOLDER = MppClaim((1000.0, 1000.0), "TIFF resolution")
TRUE = MppClaim((0.499, 0.499), "aperio.MPP")


def test_the_manifest_comes_first() -> None:
    assert resolve_mpp([TRUE], manifest_mpp=0.25).source == "manifest"


def test_a_placeholder_is_not_believed_and_is_named() -> None:
    found = resolve_mpp([PLACEHOLDER], assume_mpp=0.5)
    assert (found.mpp, found.source) == (0.5, "assumed")
    assert "1000" in found.rejected[0]


def test_a_plausible_claim_beats_the_assumption() -> None:
    assert resolve_mpp([PLACEHOLDER, TRUE], assume_mpp=0.25).mpp == 0.499


def test_objective_power_beats_the_assumption() -> None:
    assert resolve_mpp([PLACEHOLDER], objective_power=20, assume_mpp=0.25).mpp == 0.5


def test_nothing_plausible_is_refused_with_the_way_out() -> None:
    with pytest.raises(ResolutionError, match=r"1000.*--assume-mpp"):
        resolve_mpp([PLACEHOLDER])


@given(st.lists(st.tuples(st.floats(1e-4, 1e4), st.floats(1e-4, 1e4)), max_size=4))
def test_only_plausible_values_are_ever_believed(pairs: list[tuple[float, float]]) -> None:
    low, high = PLAUSIBLE_MPP
    first = next((p for p in pairs if low <= min(p) and max(p) <= high), (1.0, 1.0))
    claims = [MppClaim(pair, "tag") for pair in pairs]
    if max(first) / min(first) > MAX_ANISOTROPY:
        with pytest.raises(ResolutionError, match="not square"):
            resolve_mpp(claims, assume_mpp=0.5)
        return
    found = resolve_mpp(claims, assume_mpp=0.5)
    assert low <= found.mpp <= high
    believed = [p for p in pairs if found.source == "tag" and math.isclose(found.mpp, math.sqrt(p[0] * p[1]))]
    assert found.source == "assumed" or max(believed[0]) / min(believed[0]) <= 1.0101


values = st.one_of(st.floats(1e-4, 1e4), st.just(math.nan), st.just(math.inf), st.just(0.0))
given_mpp = st.one_of(st.none(), st.floats(0.05, 100))


@given(
    st.lists(st.one_of(st.tuples(values, values), st.floats(0.05, 20).map(lambda v: (v, v))), max_size=3),
    st.one_of(st.none(), st.floats(0.01, 1e5)),
    given_mpp,
    given_mpp,
)
def test_the_first_plausible_source_in_the_order_of_trust_wins(
    pairs: list[tuple[float, float]], power: float | None, manifest: float | None, assumed: float | None
) -> None:
    low, high = PLAUSIBLE_MPP

    def plausible(y: float, x: float) -> bool:
        return low <= y <= high and low <= x <= high

    claims = [MppClaim(pair, f"tag {i}") for i, pair in enumerate(pairs)]
    expected = ["manifest"] if manifest is not None else []
    expected += [claim.source for claim in claims if plausible(*claim.mpp_yx)]
    expected += [f"objective power {power:g}"] if power and plausible(10 / power, 10 / power) else []
    expected += ["assumed"] if assumed is not None else []
    if not expected:
        with pytest.raises(ResolutionError, match="--assume-mpp") as caught:
            resolve_mpp(claims, objective_power=power)
        assert all(claim.source in str(caught.value) for claim in claims)
        return
    believed = {claim.source: max(claim.mpp_yx) / min(claim.mpp_yx) for claim in claims if plausible(*claim.mpp_yx)}
    if believed.get(expected[0], 1.0) > MAX_ANISOTROPY:
        with pytest.raises(ResolutionError, match="not square"):
            resolve_mpp(claims, objective_power=power, manifest_mpp=manifest, assume_mpp=assumed)
        return
    found = resolve_mpp(claims, objective_power=power, manifest_mpp=manifest, assume_mpp=assumed)
    assert found.source == expected[0]
    assert math.isfinite(found.mpp)
    assert found.mpp > 0
    before = [c for c in claims if c.source == expected[0]] or claims
    skipped = claims[: claims.index(before[0])] if expected[0].startswith("tag") else claims
    wanted = [] if expected[0] == "manifest" else [claim.source for claim in skipped]
    assert [line.split(" says ")[0] for line in found.rejected if " says " in line] == wanted


@pytest.mark.parametrize("dpi", [72, 96, 25.4, 300])
def test_screen_and_print_resolutions_are_never_believed(dpi: float) -> None:
    claim = MppClaim((25_400 / dpi, 25_400 / dpi), "TIFF resolution")
    assert resolve_mpp([claim], assume_mpp=0.5).source == "assumed"


def test_pixels_that_are_not_square_are_refused_and_a_hundredth_is_told() -> None:
    found = resolve_mpp([MppClaim((0.5, 0.504), "tag")])
    assert found.mpp == pytest.approx(math.sqrt(0.5 * 0.504))
    assert "differ by 0.8%" in found.rejected[0]
    assert not resolve_mpp([MppClaim((0.5, 0.5002), "tag")]).rejected
    with pytest.raises(ResolutionError, match=r"0.5405 x 0.5 um/px .* differ by 8.1%"):
        resolve_mpp([MppClaim((0.5, 0.5405), "tag"), TRUE], objective_power=20, assume_mpp=0.5)
    assert resolve_mpp([MppClaim((0.5, 0.5405), "tag")], manifest_mpp=0.5).mpp == 0.5


@pytest.mark.parametrize(
    ("claims", "power", "told"),
    [
        ([TRUE], 40.0, ["objective power 40 would mean 0.25 um/px, aperio.MPP gives 0.499: aperio.MPP is believed"]),
        ([TRUE], 20.0, []),
        (
            [TRUE, MppClaim((0.25, 0.25), "tag")],
            None,
            ["tag gives 0.25 um/px, aperio.MPP 0.499: aperio.MPP is believed"],
        ),
        ([TRUE, MppClaim((0.5, 0.5), "tag")], None, []),
    ],
)
def test_what_does_not_fit_is_told(claims: list[MppClaim], power: float | None, told: list[str]) -> None:
    found = resolve_mpp(claims, objective_power=power)
    assert found.mpp == pytest.approx(0.499)
    assert list(found.rejected) == told


def levels(*downsamples: float) -> list[Level]:
    return [Level(YX(int(8000 / d), int(12000 / d)), d, None) for d in downsamples]


@pytest.mark.parametrize(
    ("mpp", "target", "level", "factor", "true_mpp"),
    [
        (0.499, 0.5, 0, 1, 0.499),
        (0.25, 0.5, 0, 2, 0.5),
        (0.2525, 1.0, 1, 1, 1.01),
        (0.5, 0.8, 0, 1.6, 0.8),
        (0.25, 2.125, 1, 2.125, 2.125),
        (0.55, 0.5, 0, 0.5 / 0.55, 0.5),
    ],
)
def test_scaling(mpp: float, target: float, level: int, factor: float, true_mpp: float) -> None:
    chosen = choose_scaling(levels(1, 4), mpp, target)
    assert chosen.level == level
    assert chosen.factor == pytest.approx(factor)
    assert chosen.mpp == pytest.approx(true_mpp)
    assert chosen.l0_per_s * mpp == pytest.approx(chosen.mpp)


def test_a_slide_coarser_than_the_target_is_refused() -> None:
    with pytest.raises(ResolutionError, match="coarser"):
        choose_scaling(levels(1), 1.0, 0.5)
