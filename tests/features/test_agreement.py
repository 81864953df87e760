"""Ranks on unlike machines are refused in one line, whichever rank is odd; like ones are not."""

import threading
from dataclasses import replace

import pytest
import torch
from torch.distributed import HashStore  # type: ignore[attr-defined]

from features.agreement import RankFacts, agree, disagreement, facts_of
from features.distributed import Group, Place
from wsi.errors import RequestError

CPU = RankFacts("a", "cpu", precision="fp32")
A100 = RankFacts("a", "cuda", "NVIDIA A100", precision="bf16")
V100 = RankFacts("b", "cuda", "Tesla V100", bf16=False, precision="fp16")


@pytest.mark.parametrize("same", [CPU, A100, V100])
def test_like_ranks_agree_on_one_host_or_several(same: RankFacts) -> None:
    assert disagreement([same]) == ""
    assert disagreement([same, replace(same, host="z"), same]) == ""


@pytest.mark.parametrize(
    ("ranks", "told"),
    [
        ([A100, A100, replace(CPU, host="c")], r"^rank 2 \(on c\) would run on cpu, and rank 0 \(on a\) on cuda"),
        ([CPU, A100], r"rank 1 \(on a\) would run on cuda, and rank 0 \(on a\) on cpu"),
        (
            [A100, V100],
            r"rank 1 \(on b\) would compute in fp16 on Tesla V100, .* bf16 on NVIDIA A100: give",
        ),
        ([A100, replace(V100, precision="bf16")], r"rank 1 \(on b\): its GPU \(Tesla V100\) has no bf16"),
        ([replace(V100, precision="bf16"), A100], r"rank 0 \(on b\): its GPU \(Tesla V100\) has no bf16"),
    ],
)
def test_unlike_ranks_are_told_apart(ranks: list[RankFacts], told: str) -> None:
    import re

    assert re.search(told, disagreement(ranks))
    assert "\n" not in disagreement(ranks)


def test_every_rank_comes_to_the_same_answer() -> None:
    store, found = HashStore(), dict[int, str]()

    def rank(number: int, own: RankFacts) -> None:
        try:
            agree(Group(Place(number, 2), store), own)
        except RequestError as error:
            found[number] = str(error)

    threads = [threading.Thread(target=rank, args=(n, own)) for n, own in enumerate([CPU, A100])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found[0] == found[1] == disagreement([CPU, A100])


def test_facts_of_this_process() -> None:
    assert facts_of(torch.device("cpu"), "fp32").kind == "cpu"
