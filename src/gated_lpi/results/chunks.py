"""Reading and writing the chunks of a store of results so that none is used that is not what was written.

`Recorder` notes size and digest of each chunk that zarr writes. `Verifier` gives zarr a chunk only if it is what was
noted: one that is missing, cut short or changed is an error, where zarr alone would fill in zeros or take it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from typing import TYPE_CHECKING, Any, Self

from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.storage import LocalStore, WrapperStore

from gated_lpi._common.folders import Folder, is_remote, zarr_store
from gated_lpi.errors import DamagedError
from gated_lpi.results.commit import META, Commit, StoredChunk, stored

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer, BufferPrototype


def opened(folder: Folder, *, read_only: bool) -> Store:
    """What zarr reads and writes at a folder or address."""
    return zarr_store(folder, read_only=read_only) if is_remote(folder) else LocalStore(folder, read_only=read_only)


class Recorder(WrapperStore[Store]):
    """A store that notes what is written to it, by name, in `noted`."""

    def __init__(self, store: Store, noted: dict[str, StoredChunk] | None = None) -> None:
        super().__init__(store)
        self.noted: dict[str, StoredChunk] = {} if noted is None else noted

    def _with_store(self, store: Store) -> Self:
        return type(self)(store, self.noted)

    async def set(self, key: str, value: Buffer) -> None:
        """Note a value and write it."""
        self.noted[key] = stored(value.to_bytes())
        await self._store.set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write a value where there is none; zarr does so with metadata only, which is not noted."""
        await self._store.set_if_not_exists(key, value)

    async def _set_many(self, values: Iterable[tuple[str, Buffer]]) -> None:
        for key, value in values:
            await self.set(key, value)


class Verifier(WrapperStore[Store]):
    """A store as it was when `commit` was read, in which every chunk is what was written.

    Stores of format 1 have no digests: of them, only what is complete is fixed.
    """

    def __init__(self, store: Store, commit: Commit, what: str) -> None:
        super().__init__(store)
        self._commit = commit
        self._what = what
        self._expected = {name: (row, stored) for name, row, stored in commit.expected()}

    def _with_store(self, store: Store) -> Self:
        return type(self)(store, self._commit, self._what)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """A value, whole and verified, or the asked part of it.

        Raises:
            DamagedError: it is missing, cut short or changed.
        """
        if key == META:
            return _part(prototype.buffer.from_bytes(self._commit.text().encode()), byte_range)
        value = await self._store.get(key, prototype)
        if key in self._expected:
            row, known = self._expected[key]
            reason = difference(None if value is None else value.to_bytes(), known)
            if reason:
                whose = "what all checkpoints share" if row is None else str(self._commit.records[row]["key"])
                raise DamagedError(f"{self._what} is damaged: {key} of {whose} {reason}. {MEND}")
        return None if value is None else _part(value, byte_range)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Parts of values, each of which is verified whole.

        Raises:
            DamagedError: one is missing, cut short or changed.
        """
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def _get_many(
        self, requests: Iterable[tuple[str, BufferPrototype, ByteRequest | None]]
    ) -> AsyncGenerator[tuple[str, Buffer | None], None]:
        for key, prototype, byte_range in requests:
            yield key, await self.get(key, prototype, byte_range)


MEND = "Run the same experiment again: what does not verify is computed again. `gated-lpi verify` lists all of it"


def difference(content: bytes | None, known: StoredChunk) -> str:
    """How a chunk differs from what was written, in words; "" if it does not."""
    if content is None:
        return "is missing"
    if len(content) != known[0]:
        return f"has {len(content):,} bytes, not {known[0]:,}"
    return "" if stored(content) == tuple(known) else "is not what was written (its SHA-256 differs)"


def _part(value: Buffer, byte_range: ByteRequest | None) -> Buffer:
    selection: Any = slice(None)
    if isinstance(byte_range, RangeByteRequest):
        selection = slice(byte_range.start, byte_range.end)
    elif isinstance(byte_range, OffsetByteRequest):
        selection = slice(byte_range.offset, None)
    elif isinstance(byte_range, SuffixByteRequest):
        selection = slice(max(0, len(value) - byte_range.suffix), None)
    return value[selection]
