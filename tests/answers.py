"""A hub within the process: huggingface_hub's own client over answers that a function makes, without a socket.

    with answering(lambda path: (200, {}, b"{}")):
        Hub(…).branches("a/b")

Where `hub_server` speaks as a hub does, this says anything at all, and thousands of times a second.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from unittest.mock import patch

import httpx2
from huggingface_hub import constants

Answer = tuple[int, Mapping[str, str], bytes]
ADDRESS = "http://127.0.0.1:9"


@contextmanager
def answering(answer: Callable[[str], Answer]) -> Iterator[list[str]]:
    """Answer every request for a path with (status, headers, body); yields the paths that were asked for."""
    asked: list[str] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.url.path)
        status, headers, body = answer(request.url.path)
        return httpx2.Response(status, headers=headers, content=body)

    client = httpx2.Client(transport=httpx2.MockTransport(handle))
    with (
        patch("huggingface_hub.utils._http._GLOBAL_CLIENT", client),
        patch.object(constants, "HF_HUB_OFFLINE", False),
        patch.object(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True),
        client,
    ):
        yield asked
