"""Calls that have nothing to do with each other, in order, several at a time on the threads that PyTorch was given.

What attribution does of a block is thousands of operations on tiles that fit a processor's cache. Cut over all threads
each of them is too small to gain much; two blocks, with half of the threads each, gain nearly twice. Results are the
same but for rounding, as with any number of threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Generic, TypeVar

import torch

MOST = 4  # calls at a time: Python itself runs one at a time, and would not keep up with many more

Result = TypeVar("Result")
Left = TypeVar("Left")
Right = TypeVar("Right")


def at_a_time(device_type: str) -> int:
    """How many calls to make at a time on this kind of device with the threads that PyTorch has now."""
    return min(MOST, torch.get_num_threads()) if device_type == "cpu" else 1


def side_by_side(calls: Iterator[Callable[[], Result]], count: int) -> Iterator[Result]:
    """The results of all calls, in order.

    Args:
        calls: what to call; the next is asked for when fewer than `count` are going on, in the caller's thread.
        count: of calls at a time; 1 makes each in the caller's thread. Calls in other threads do not track gradients.
    """
    if count == 1:
        for call in calls:
            result = call()
            del call  # which may hold much, before the next is asked for
            yield result
        return
    threads = torch.get_num_threads()
    going_on: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(count, "side-by-side", torch.set_num_threads, (max(1, threads // count),)) as pool:
        try:
            for call in calls:
                going_on.append(pool.submit(_without_gradients, call))
                del call
                while sum(not future.done() for future in going_on) >= count:
                    yield going_on.popleft().result()
            while going_on:
                yield going_on.popleft().result()
        finally:
            for future in going_on:
                future.cancel()
            torch.set_num_threads(threads)


def _without_gradients(call: Callable[[], Result]) -> Result:
    with torch.no_grad():  # which is of a thread
        return call()


class Pairing(Generic[Left, Right]):
    """Brings what one call leaves together with what the next one has, whichever of them is there first."""

    def __init__(self) -> None:
        self._left: dict[int, Left] = {}
        self._right: dict[int, Right] = {}
        self._changing = Lock()

    def meet(self, number: int, left: Left, right: Right) -> list[tuple[int, Left, Right]]:
        """What a call leaves to the next one, and what it has for the one before.

        Args:
            number: of the call; the first is 0, for which there is none before.
            left: for call `number` + 1.
            right: for what call `number` − 1 left.

        Returns:
            The pairs that are complete now, each given out once: the number of the call that left something, what it
                left, and what the next one has for it.
        """
        with self._changing:
            self._left[number] = left
            if number:
                self._right[number - 1] = right
            complete = [i for i in (number - 1, number) if i in self._left and i in self._right]
            return [(i, self._left.pop(i), self._right.pop(i)) for i in complete]
