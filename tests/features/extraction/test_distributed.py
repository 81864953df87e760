"""What ranks share through their store: values, signs of life, one decision on the backend."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from features import distributed
from features.distributed import Group, Place, backend_for, rank_group
from features.started import RankEnd
from wsi.errors import ItemError


def of_each(work: Callable[[Group], Any], world: int = 3) -> list[Any]:
    """Return what each rank's work gives; ranks are threads with clients of their own."""
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    found: dict[int, Any] = {}

    def run(rank: int) -> None:
        store = TCPStore("127.0.0.1", server.port, is_master=False)
        with rank_group(Place(rank, world, rank, world), store) as group:
            found[rank] = work(group)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[rank] for rank in range(world)]


def test_every_rank_gets_what_the_first_one_has_and_what_all_have() -> None:
    large = bytes(range(256)) * (1 << 16)  # 16 MiB, more than the store takes at once

    def work(group: Group) -> tuple[Any, ...]:
        rank = group.place.rank
        told = group.from_first({"bytes": large} if rank == 0 else None)
        return told == {"bytes": large}, group.from_first(rank), group.from_all(f"of {rank}"), group.from_first(None)

    assert of_each(work) == [(True, 0, ["of 0", "of 1", "of 2"], None)] * 3


def test_items_are_given_once_and_the_first_rank_hears_how_the_others_ended() -> None:
    def work(group: Group) -> Any:
        items = [group.next_item() for _ in range(5)]
        if group.place.rank:
            group.leave(f"end of {group.place.rank}")
            return items, None
        return items, list(group.ends())

    found = of_each(work)
    assert sorted(item for items, _ in found for item in items) == list(range(15))
    assert found[0][1] == [(1, "end of 1"), (2, "end of 2")]


def test_a_rank_that_lives_is_waited_for_and_one_that_is_silent_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(distributed, "SILENCE_SECONDS", 0.6)
    monkeypatch.setattr(distributed, "JOINING_SECONDS", 0.6)
    heard = threading.Event()
    begun = threading.Barrier(2)

    def work(group: Group) -> Any:
        if group.place.rank == 0:
            begun.wait()
            heard.wait(2.0)  # three times as long as silence is borne
            return group.from_first("late")
        begun.wait()
        return group.from_first(None)

    assert of_each(work, world=2) == ["late", "late"]

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    alone = Group(Place(1, 2, 1, 2), store)
    with pytest.raises(ItemError, match="rank 0 has given no sign of life"):
        alone.from_first(None)
    assert list(Group(Place(0, 2, 0, 2), store).ends()) == [(1, None)]


@pytest.mark.parametrize(
    ("gpus", "backend"),
    [
        (["", ""], "gloo"),
        (["a/1", "a/2"], "nccl"),
        (["a/1", "a/1"], "gloo"),
        (["a/1", "b/1"], "nccl"),
        (["a/1", "a/2", "b/1", ""], "gloo"),
    ],
)
def test_nccl_is_for_ranks_that_each_have_a_gpu_of_their_own(gpus: list[str], backend: str) -> None:
    assert backend_for(gpus) == backend


def test_how_a_rank_ended_is_told_in_words() -> None:
    assert RankEnd(1, -9, joined=False).told() == (
        "rank 1 was stopped by signal 9 (SIGKILL: out of memory, most likely) while it loaded"
    )
    assert RankEnd(0, -11).told() == "rank 0 was stopped by signal 11 (SIGSEGV)"
    assert RankEnd(0, 3).told() == "rank 0 ended with 3"
    assert not RankEnd(0, 130, stopped=True).died
