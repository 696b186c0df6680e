"""What a hub's answers may do: be no longer than told, come no slower than a floor, and send no token elsewhere.

huggingface_hub makes all of its requests with one client, which tells of each request and answer. In a `with` block of
`bounded`
1. a request that carries an access token goes to the hub's own host, or not at all;
2. answers come uncompressed, so that a few bytes cannot become many; one that is compressed all the same is refused;
3. an answer is read up to its largest size, and as long as enough of it comes: over any `slow_after` seconds, and over
   the connections that a download is resumed on, `slowest` bytes a second;
4. 408 and 429 are errors at once. huggingface_hub would wait as long as they ask, which may be years; `Hub` waits
   instead, within its own bounds;
5. a file's commit is the one that was asked for, and its ETag, which names it in the cache, is no path.
What hf_xet downloads in its own way is not seen here: that is compared with the listing once it is there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import get_session, hf_raise_for_status

from gated_lpi._common.entries import is_file_name, quoted
from gated_lpi.errors import FetchError

LARGEST_ANSWER = 1 << 26  # bytes of a listing, an index or an error
_WAITED_FOR = {408, 429}
_now = threading.local()


@dataclass
class AnswerLimits:
    """What holds for the requests of one question.

    Attributes:
        what: what is asked for, in words.
        address: the hub's.
        commit: of the file that is downloaded, "" for a listing.
        largest: bytes of an answer, at most.
        slowest: bytes a second, at least, over each `slow_after` seconds.
        slow_after: seconds.
    """

    what: str
    address: str
    commit: str = ""
    largest: int = LARGEST_ANSWER
    slowest: float = 0.0
    slow_after: float = 60.0
    _since: float = field(default_factory=time.monotonic)
    _bytes: int = 0

    def came(self, count: int) -> None:
        """Count bytes that came.

        Raises:
            FetchError: too few came in the time since this was last looked at.
        """
        self._bytes += count
        seconds = time.monotonic() - self._since
        if seconds < self.slow_after:
            return
        if self._bytes < self.slowest * seconds:
            raise FetchError(
                f"{self.address} sent {self._bytes:,} bytes of {self.what} in {seconds:.0f} seconds, less than "
                f"{self.slowest:,.0f} a second, and was not waited for. Try again later, from another network, or "
                "allow less (Hub(slowest=…))."
            )
        self._since, self._bytes = time.monotonic(), 0


@contextmanager
def bounded(limits: AnswerLimits) -> Iterator[None]:
    """Hold this thread's requests to limits until the `with` block ends."""
    hooks = get_session().event_hooks
    if _before not in hooks["request"]:
        get_session().event_hooks = {
            "request": [*hooks["request"], _before],
            "response": [*hooks["response"], _after],
        }
    _now.limits = limits
    try:
        yield
    finally:
        _now.limits = None


def _before(request: Any) -> None:
    limits: AnswerLimits | None = getattr(_now, "limits", None)
    if limits is None:
        return
    limits.came(0)
    url = str(request.url)
    if "authorization" in request.headers and not _is_of(url, limits.address):
        raise FetchError(
            f"{limits.address} sent the request for {limits.what} on to {quoted(url)}, another host, which would have "
            "been given your access token. It was not: tell whoever runs that hub."
        )
    request.headers["accept-encoding"] = "identity"


def _after(response: Any) -> None:
    limits: AnswerLimits | None = getattr(_now, "limits", None)
    if limits is None:
        return
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise FetchError(
            f"{limits.address} answered for {limits.what} in a compressed form ({quoted(coding)}) that was not asked "
            "for, and that may be far larger unpacked. Check that it is the address of a hub ($HF_ENDPOINT)."
        )
    told = response.headers.get("content-length", "")
    if response.request.method != "HEAD" and told.isdecimal() and (len(told) > 18 or int(told) > limits.largest):
        raise _too_long(limits)
    response.stream = _within(response.stream, limits)
    if limits.commit and response.status_code < 400:
        _refuse_misplaced(response, limits)
    if response.status_code in _WAITED_FOR:
        response.read()
        hf_raise_for_status(response)


def _refuse_misplaced(response: Any, limits: AnswerLimits) -> None:
    """Refuse headers that would put a file elsewhere in the cache, or outside of it."""
    commit = response.headers.get("x-repo-commit", limits.commit)
    etags = [response.headers.get(name, "") for name in ("x-linked-etag", "etag")]
    names = [etag.removeprefix("W/").strip('"') for etag in etags if etag]
    if commit != limits.commit:
        raise FetchError(
            f"{limits.address} answered for {limits.what} with a file of {quoted(commit)}, another commit. List the "
            "series again; if that does not help, the hub serves wrong files."
        )
    odd = [name for name in names if not is_file_name(name)]
    if odd:
        raise FetchError(
            f"{limits.address} answered for {limits.what} with the ETag {quoted(odd[0])}, which cannot name a file in "
            "the cache. Check that it is the address of a hub ($HF_ENDPOINT)."
        )


def _is_of(url: str, address: str) -> bool:
    """Whether a request goes to the host of an address, by its own protocol or, better than that, by https."""
    there, hub = urlsplit(url), urlsplit(address)
    if (there.scheme, there.hostname, there.port) == (hub.scheme, hub.hostname, hub.port):
        return True
    return there.hostname == hub.hostname and there.scheme == "https" and there.port in (None, 443)


def _too_long(limits: AnswerLimits) -> FetchError:
    return FetchError(
        f"{limits.address} answered for {limits.what} with more than the {limits.largest:,} bytes that it may have. "
        "Check that it is the address of a hub ($HF_ENDPOINT); if it is, it serves another file than it lists."
    )


class _Pieces:
    """The bytes of an answer as they come, within limits."""

    def __init__(self, stream: Any, limits: AnswerLimits) -> None:
        self._stream, self._limits = stream, limits

    def __iter__(self) -> Iterator[bytes]:
        total = 0
        for piece in self._stream:
            total += len(piece)
            if total > self._limits.largest:
                raise _too_long(self._limits)
            self._limits.came(len(piece))
            yield piece

    def close(self) -> None:
        """Close what the bytes come from."""
        self._stream.close()


@cache
def _pieces_for(client_streams: type) -> type[_Pieces]:
    """`_Pieces` as a kind of the client's own streams, which it asks for."""
    return type("_ClientPieces", (_Pieces, client_streams), {})


def _within(stream: Any, limits: AnswerLimits) -> Any:
    base = next(kind for kind in type(stream).__mro__ if kind.__name__ == "SyncByteStream")
    return _pieces_for(base)(stream, limits)
