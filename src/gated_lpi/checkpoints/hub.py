"""What a Hugging Face hub tells of a repository without downloading weights, asked for patiently, kept for later.

huggingface_hub itself retries the requests of a download, but neither its listing of branches nor that of a revision's
files (with their hashes), and it gives those no time limit. `Hub` adds both: exponential backoff on 408, 429, 5xx and
broken connections, for as long as a `Retry-After` header asks. What the hub said is kept beside the cache (file lists
belong to a commit and never change), so that a series is listed again without a request, offline too. Neither what the
hub says nor what was kept is believed: it is checked entry by entry, and what cannot be used is left out with the
reason.
"""

from __future__ import annotations

import email.utils
import json
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, TypeVar

from huggingface_hub import (
    HfApi,
    constants,
    get_session,
    hf_hub_download,
    hf_hub_url,
    hf_raise_for_status,
    is_offline_mode,
    scan_cache_dir,
)
from huggingface_hub.errors import (
    CacheNotFound,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, but not declared

from gated_lpi._common.entries import LARGEST, is_commit, is_file_path, printable, quoted, writable
from gated_lpi._common.foreign import parse_json
from gated_lpi.checkpoints.inventory import Inventory, RemoteFile, index_of, listed_files, shards_of
from gated_lpi.checkpoints.limits import LARGEST_ANSWER, AnswerLimits, bounded
from gated_lpi.errors import CheckpointError, FetchError

# The client's own base class of errors: timeouts and broken connections derive from it as HfHubHTTPError does.
_HTTP_ERROR: type[Exception] = HfHubHTTPError.__mro__[1]
_WAIT_CODES = {408, 429}
# What reading an answer of another shape raises, in the client's code and in Python's reader of JSON.
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError, RecursionError, ArithmeticError)
NO_COMMIT = "the hub tells no commit of it, or several"
_NO_END = LARGEST  # bytes of a file whose size is not known
_TELLING = 10.0  # seconds, from which on a wait is told of
UNRESOLVED = 2  # attempts at a listing of a hub whose name cannot be resolved: most likely there is no network
_LOG = logging.getLogger("gated_lpi")
_MOST_DOUBLINGS = 60  # of the wait between two attempts: more than any wait that anyone takes
T = TypeVar("T")
_Listing = tuple[tuple[RemoteFile, ...], tuple[str, ...]]


class RepositoryMissingError(CheckpointError):
    """The hub knows no such repository, or does not show it."""


@dataclass(frozen=True)
class Hub:
    """A hub, and how to ask it. Whatever is waited for is written to the log `gated_lpi`.

    Attributes:
        endpoint: its address, by default that of $HF_ENDPOINT or https://huggingface.co.
        token: access token, True or None for the one that is logged in, False for none.
        cache_dir: where downloads are kept, by default huggingface_hub's own cache.
        offline: ask nothing, use what is on this machine (as $HF_HUB_OFFLINE=1 does).
        timeout: seconds to wait for an answer.
        attempts: how often to ask.
        base_delay: seconds before the second attempt, doubling after.
        longest_wait: the most seconds to wait between two attempts; a hub that asks for more ends in an error.
        slowest, slow_after: a download of which fewer bytes a second come, over any so many seconds, ends in an error;
            by default 10,000 over 60.
    """

    endpoint: str | None = None
    token: str | bool | None = None
    cache_dir: str | Path | None = None
    offline: bool = False
    timeout: float = 30.0
    attempts: int = 6
    base_delay: float = 1.0
    longest_wait: float = 310.0
    slowest: float = 10_000.0
    slow_after: float = 60.0
    _shards: dict[str, tuple[str, ...]] = field(default_factory=dict, repr=False, compare=False)
    _listings: dict[tuple[str, str], _Listing] = field(default_factory=dict, repr=False, compare=False)

    @property
    def address(self) -> str:
        """The hub's address, without a slash at the end."""
        return (self.endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")

    @property
    def cache(self) -> Path:
        """The folder that downloads are kept in."""
        return Path(constants.HF_HUB_CACHE if self.cache_dir is None else self.cache_dir).expanduser().resolve()

    @property
    def is_offline(self) -> bool:
        """Whether nothing may be asked."""
        return self.offline or is_offline_mode()

    def branches(self, repo: str) -> dict[str, str]:
        """The commit of each branch of a repository, "" for one of which the hub tells no commit, or several.

        Raises:
            RepositoryMissingError: the hub knows no such repository, or does not show it.
            CheckpointError: the hub does not answer, or nothing is known offline.
        """
        if self.is_offline:
            return self._known_branches(repo)
        api = HfApi(endpoint=self.address, token=self.token)

        def ask() -> dict[str, str]:
            with _time_limit(self.timeout):
                return _commits((branch.name, branch.target_commit) for branch in api.list_repo_refs(repo).branches)

        found = self.patiently(f"the branches of {repo}", ask)
        self._keep(repo, "branches", found)
        return found

    def commit(self, repo: str, revision: str) -> str:
        """The commit that a branch, a tag or a commit's id stands for now; offline, when it was last asked for.

        Raises:
            RepositoryMissingError: the hub knows no such repository, or does not show it.
            CheckpointError: the hub does not answer or tells no commit, or nothing is known offline.
        """
        if is_commit(revision):
            return revision
        if self.is_offline:
            kept = self._kept(repo, f"commit of {revision}")
            kept = kept if isinstance(kept, dict) else {}
            found = kept.get(revision) or self._known_branches(repo).get(revision)
        else:
            api = HfApi(endpoint=self.address, token=self.token)
            what = f"{quoted(revision)} of {repo}"
            found = self.patiently(what, lambda: api.model_info(repo, revision=revision, timeout=self.timeout).sha)
        if not is_commit(found):
            raise CheckpointError(
                f"{self.address} tells no commit of {quoted(revision)} of {writable(repo)}. Check the branch or tag, "
                "or give a commit's full id."
            )
        self._keep(repo, f"commit of {revision}", {revision: found})
        return found

    def inventory(self, repo: str, commit: str, folder: str = "") -> Inventory:
        """The files of a commit with their hashes, and the shards that its weights' index names.

        One request, two if there is an index that no commit before had; none if it was asked before.

        Args:
            repo: the repository.
            commit: the commit's id.
            folder: a folder of it, whose files are listed by their names within it; "" for the whole commit.

        Raises:
            RepositoryMissingError: the hub knows no such repository, or does not show it.
            CheckpointError: the hub does not answer, nothing is known offline, or `commit` is no commit's id.
            WeightsError: the index cannot be used.
        """
        require_commit(repo, commit)
        record = f"{commit} {folder}" if folder else commit
        kept = Inventory.from_json(self._kept(repo, record))
        if kept is not None:
            return kept
        if self.is_offline:
            raise CheckpointError(
                f"The files of {repo} at {commit[:8]} were never listed on this machine, and the hub may not be asked "
                "(offline). List the series with its integrity once while online."
            )
        listed = self._listings.get((repo, commit))
        files, left_out = self._listed(repo, commit) if listed is None else listed
        if folder:
            start = f"{folder}/"
            inside = (file for file in files if file.name.startswith(start))
            files = tuple(replace(file, name=file.name.removeprefix(start)) for file in inside)
        found = Inventory(files, self._index(repo, commit, files, folder), left_out)
        self._keep(repo, record, asdict(found))
        return found

    def folders(self, repo: str, commit: str) -> tuple[str, ...]:
        """The folders of a commit that hold files themselves, in order; none where nothing is known offline.

        Raises:
            RepositoryMissingError: the hub knows no such repository, or does not show it.
            CheckpointError: the hub does not answer, or `commit` is no commit's id.
        """
        require_commit(repo, commit)
        record = f"folders of {commit}"
        kept = self._kept(repo, record)
        kept = kept.get("folders") if isinstance(kept, dict) else None
        if isinstance(kept, list) and all(is_file_path(name) for name in kept):
            return tuple(kept)
        if self.is_offline:
            return ()
        self._listings[repo, commit] = self._listed(repo, commit)  # for each folder's own files
        found = sorted({file.name.rpartition("/")[0] for file in self._listings[repo, commit][0]} - {""})
        self._keep(repo, record, {"folders": found})
        return tuple(found)

    def _listed(self, repo: str, commit: str) -> _Listing:
        """All files of a commit, and lines about entries of the listing that cannot be used."""
        api = HfApi(endpoint=self.address, token=self.token)
        what = f"the files of {repo} at {commit[:8]}"
        info = self.patiently(
            what, lambda: api.model_info(repo, revision=commit, files_metadata=True, timeout=self.timeout)
        )
        return listed_files(
            (sibling.rfilename, sibling.size, None if sibling.lfs is None else sibling.lfs.sha256, sibling.blob_id)
            for sibling in info.siblings or []
        )

    def download(self, repo: str, commit: str, name: str, size: int = 0) -> Path:
        """One file of a commit, from the cache or the hub.

        Args:
            repo: the repository.
            commit: the commit's id.
            name: the file's path in the repository.
            size: its bytes, as far as they are known; a hub that sends more is not listened to.

        Returns:
            Its path in the cache's snapshot of that commit.

        Raises:
            RepositoryMissingError: the hub knows no such repository, or does not show it.
            CheckpointError: the hub does not answer; the file is not in the cache when offline; or, before anything is
                asked or written, `name` would leave the folder of the snapshot or `commit` is no commit's id.
        """
        require_commit(repo, commit)
        if not is_file_path(name):
            raise CheckpointError(
                f"{quoted(name)} of {repo} was to be downloaded, which is not the name of a file that could be kept in "
                "a folder. Leave this checkpoint out, or tell its publisher."
            )
        what = f"{name} of {repo} at {commit[:8]}"
        try:
            largest = max(size, LARGEST_ANSWER) if size else _NO_END
            return Path(self.patiently(what, lambda: self._download(repo, commit, name), commit, largest))
        except CheckpointError as error:
            if not self.is_offline:
                raise
            raise CheckpointError(
                f"{what} is not on this machine (looked in {self.cache}), and the hub may not be asked (offline). "
                "Fetch the checkpoint once while online, or give the cache that holds it."
            ) from error

    def _download(self, repo: str, commit: str, name: str) -> str:
        return hf_hub_download(
            repo,
            name,
            revision=commit,
            cache_dir=self.cache,
            endpoint=self.address,
            token=self.token,
            etag_timeout=self.timeout,
            local_files_only=self.is_offline,
        )

    def patiently(self, what: str, ask: Callable[[], T], commit: str = "", largest: int = LARGEST_ANSWER) -> T:
        """Ask until the hub answers, within `limits`.

        Args:
            what: what is asked for, in words.
            ask: asks once.
            commit: of the file that is asked for, "" for a listing.
            largest: bytes of the answer, at most.

        Raises:
            RepositoryMissingError: the hub refuses, as it knows no such repository or does not show it.
            CheckpointError: it refuses for another reason.
            FetchError: it did not answer at the last attempt, said what cannot be understood, or that could not be
                kept.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                with bounded(AnswerLimits(what, self.address, commit, largest, self.slowest, self.slow_after)):
                    return ask()
            except (_HTTP_ERROR, OSError, HFValidationError) as error:
                wait = _asked_wait(error)
                wait = self.base_delay * 2.0 ** min(attempt - 1, _MOST_DOUBLINGS) if wait is None else wait
                most = UNRESOLVED if not commit and is_unresolved(error) else self.attempts
                if not is_transient(error) or attempt >= most or wait > self.longest_wait:
                    raise self._explained(what, error, attempt, wait) from error
                if wait >= _TELLING:
                    told = f"waiting {wait:.0f} seconds before asking {self.address} again for {what}: {_short(error)}"
                    _LOG.warning(printable(told))
                time.sleep(wait)
            except _MALFORMED as error:
                raise FetchError(
                    f"{self.address} answered for {what} with what is not understood ({type(error).__name__}: "
                    f"{_short(error)}). Check that it is the address of a hub ($HF_ENDPOINT), and try again."
                ) from error

    def _index(self, repo: str, commit: str, files: tuple[RemoteFile, ...], folder: str) -> tuple[str, ...] | None:
        """The shards that the index of the weights names; indexes with one git id are one file, read once."""
        index = index_of(files)
        if index is None:
            return None
        if index.git_oid not in self._shards or not index.git_oid:
            url = hf_hub_url(repo, index.name, subfolder=folder or None, revision=commit, endpoint=self.address)

            def ask() -> Any:
                headers = build_hf_headers(token=self.token)
                response = get_session().get(url, headers=headers, timeout=self.timeout, follow_redirects=True)
                hf_raise_for_status(response)
                return response.text

            text = self.patiently(f"{index.name} of {repo} at {commit[:8]}", ask)
            self._shards[index.git_oid] = shards_of(text, index.name, f"{index.name} of {repo} at {commit[:8]}")
        return self._shards[index.git_oid]

    def _known_branches(self, repo: str) -> dict[str, str]:
        kept = self._kept(repo, "branches")
        if isinstance(kept, dict) and kept and all(commit == "" or is_commit(commit) for commit in kept.values()):
            return _commits(kept.items())
        with suppress(CacheNotFound, ValueError):  # no such folder, or a file in its place
            for cached in scan_cache_dir(self.cache).repos:
                if cached.repo_type == "model" and cached.repo_id.lower() == repo.lower() and cached.refs:
                    return _commits((name, revision.commit_hash) for name, revision in cached.refs.items())
        raise CheckpointError(
            f"{repo} was never listed on this machine (looked in {self.cache}), and the hub may not be asked "
            "(offline). List it once while online, or give the cache that holds it."
        )

    def _record(self, repo: str, name: str) -> Path:
        root = Path(constants.HF_ASSETS_CACHE) / "gated-lpi" if self.cache_dir is None else self.cache / ".gated-lpi"
        place = re.sub(r"\W+", "-", self.address.split("://", 1)[-1])
        return root / place / repo.replace("/", "--") / (re.sub(r"\W", "-", name) + ".json")

    def _kept(self, repo: str, name: str) -> Any:
        """What was kept under a name; None where there is nothing that can be read, as if it had not been."""
        with suppress(OSError, ValueError):
            return parse_json(self._record(repo, name).read_text(encoding="utf-8"))
        return None

    def _keep(self, repo: str, name: str, value: Mapping[str, Any]) -> None:
        """Write a record in one step; a cache that cannot be written to is no obstacle to listing."""
        path = self._record(repo, name)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
                json.dump(value, file)
            Path(file.name).replace(path)

    def _explained(self, what: str, error: Exception, attempts: int, wait: float) -> CheckpointError:
        hub = self.address
        if isinstance(error, RepositoryNotFoundError):
            kind = (
                "shows only to those who were granted access" if isinstance(error, GatedRepoError) else "does not show"
            )
            return RepositoryMissingError(
                f"{hub} {kind} {what}. Check the repository's name; for a private or gated one, ask for access on "
                "its page and log in with `hf auth login`."
            )
        if isinstance(error, OfflineModeIsEnabled):
            return CheckpointError(f"{what} would have to be asked of {hub}, but HF_HUB_OFFLINE is set. Unset it.")
        if isinstance(error, HFValidationError):
            return CheckpointError(f"{what}: {error}. Expected a repository as owner/name.")
        if _status(error) == 429:
            asked = f"; it asks to wait {wait:,.0f} seconds" if self.longest_wait < wait < LARGEST else ""
            return FetchError(
                f"{hub} refuses further requests for now (429, asked {attempts} times for {what}{asked}). Wait some "
                "minutes, or log in with `hf auth login`, which allows more requests; what was listed is kept."
            )
        if isinstance(error, OSError) and error.errno is not None:
            return FetchError(
                f"{what} could not be written below {self.cache}: {error}. Free space, or give another cache folder."
            )
        said = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
        short = _short(said)
        if not is_transient(error):
            return CheckpointError(f"{hub} refused {what} ({short}). Check its name, and that you may read it.")
        return FetchError(
            f"{hub} did not answer for {what} (asked {attempts} times; {short}). Check the connection and try again, "
            "or work offline with what is on this machine."
        )


def _commits(branches: Iterable[tuple[Any, Any]]) -> dict[str, str]:
    """The commit of each branch that a listing names, "" where that is no commit's id or the listing tells two."""
    found: dict[str, str] = {}
    for given, commit in branches:
        name = given if isinstance(given, str) else quoted(given)
        commit = commit if is_commit(commit) else ""
        found[name] = commit if found.get(name, commit) == commit else ""
    return found


def require_commit(repo: str, commit: str) -> None:
    """Refuse what is no commit's id, as it is also the name of a folder of the cache.

    Raises:
        CheckpointError: names what was given as a commit of which repository.
    """
    if not is_commit(commit):
        raise CheckpointError(
            f"{quoted(commit)} was given as a commit of {writable(repo)}. Expected its full id, 40 or 64 hexadecimal "
            "digits, as list_series tells it."
        )


def _short(error: BaseException) -> str:
    """The first line of what an error says."""
    return writable(str(error)).strip().split("\n")[0][:300].rstrip(".") or type(error).__name__


def is_transient(error: BaseException) -> bool:
    """Whether asking again may help: rate limits, errors of the server, timeouts and broken connections."""
    if isinstance(error, LocalEntryNotFoundError):
        return error.__cause__ is not None and is_transient(error.__cause__)
    status = _status(error)
    if status is not None:
        return status in _WAIT_CODES or status >= 500
    if isinstance(error, HfHubHTTPError | OfflineModeIsEnabled | HFValidationError):
        return False
    return isinstance(error, _HTTP_ERROR) or "Consistency check failed" in str(error)


def is_unresolved(error: BaseException) -> bool:
    """Whether the hub's name could not be resolved to an address."""
    chain: list[BaseException] = []
    while error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__ or error
    return any(isinstance(one, socket.gaierror) for one in chain)


def _answer(error: BaseException) -> Any:
    """The hub's answer that an error is about; None without one."""
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    return getattr(error, "response", None)


def _status(error: BaseException) -> int | None:
    code = getattr(_answer(error), "status_code", None)
    return code if isinstance(code, int) else None


def _asked_wait(error: BaseException) -> float | None:
    """Seconds that the answer's Retry-After (a number or a date) or RateLimit header asks to wait."""
    headers: Mapping[str, str] = getattr(_answer(error), "headers", None) or {}
    after = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]+", after):
        return float(after)  # infinity, where it has hundreds of digits
    if after:
        with suppress(ValueError, LookupError, TypeError, ArithmeticError, OSError):
            return max(0.0, email.utils.parsedate_to_datetime(after).timestamp() - time.time())
    limit = re.search(r"\br=0\s*;\s*t=([0-9]+)", headers.get("RateLimit", "").replace(" ", ""))
    return float(limit[1]) if limit and _status(error) == 429 else None


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Give requests that set no time limit of their own one; what was set before comes back after."""
    session = get_session()
    before = session.timeout
    session.timeout = seconds
    try:
        yield
    finally:
        session.timeout = before
