"""Work done side by side, results in order, a bounded number under way: memory does not grow with the job."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def ordered(work: Callable[[Job], Result], jobs: Iterable[Job], threads: int) -> Iterator[Result]:
    """Yield ``work(job)`` for each job in the jobs' order, computed by threads, at most two per thread ahead.

    The first error is raised where its result would stand; what is under way ends first.
    """
    with ThreadPoolExecutor(threads) as pool:
        flying: deque[Future[Result]] = deque()
        try:
            for job in jobs:
                flying.append(pool.submit(work, job))
                if len(flying) > 2 * threads:
                    yield flying.popleft().result()
            while flying:
                yield flying.popleft().result()
        finally:
            for future in flying:
                future.cancel()
