"""What a Hugging Face hub tells of a repository without downloading weights, asked for patiently, kept for later.

huggingface_hub itself retries the requests of a download, but neither its listing of branches nor that of a revision's
files (with their hashes), and it gives those no time limit. `Hub` adds both: exponential backoff on 408, 429, 5xx and
broken connections, for as long as a `Retry-After` header asks. What the hub said is kept beside the cache (file lists
belong to a commit and never change), so that a series is listed again without a request, offline too.
"""

from __future__ import annotations

import email.utils
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
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

from gated_lpi.checkpoints.inventory import Inventory, RemoteFile, index_of, shards_of
from gated_lpi.errors import CheckpointError, FetchError

# The client's own base class of errors: timeouts and broken connections derive from it as HfHubHTTPError does.
_HTTP_ERROR: type[Exception] = HfHubHTTPError.__mro__[1]
_WAIT_CODES = {408, 429}
T = TypeVar("T")


class RepositoryMissingError(CheckpointError):
    """The hub knows no such repository, or does not show it."""


@dataclass(frozen=True)
class Hub:
    """A hub, and how to ask it.

    endpoint: its address, by default that of $HF_ENDPOINT or https://huggingface.co. token: access token, True or None
    for the one that is logged in, False for none. cache_dir: where downloads are kept, by default huggingface_hub's
    own cache. offline: ask nothing, use what is on this machine (as $HF_HUB_OFFLINE=1 does). timeout: seconds to wait
    for an answer. attempts, base_delay: how often to ask, and seconds before the second time, doubling after.
    longest_wait: the most seconds to wait between two attempts; a hub that asks for more ends in an error.
    """

    endpoint: str | None = None
    token: str | bool | None = None
    cache_dir: str | Path | None = None
    offline: bool = False
    timeout: float = 30.0
    attempts: int = 6
    base_delay: float = 1.0
    longest_wait: float = 310.0
    _shards: dict[str, tuple[str, ...]] = field(default_factory=dict, repr=False, compare=False)

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
        """The commit of each branch of a repository.

        Raises RepositoryMissingError, or CheckpointError if the hub does not answer or nothing is known offline.
        """
        if self.is_offline:
            return self._known_branches(repo)
        api = HfApi(endpoint=self.address, token=self.token)

        def ask() -> dict[str, str]:
            with _time_limit(self.timeout):
                return {branch.name: branch.target_commit for branch in api.list_repo_refs(repo).branches}

        found = self.patiently(f"the branches of {repo}", ask)
        self._keep(repo, "branches", found)
        return found

    def inventory(self, repo: str, commit: str) -> Inventory:
        """The files of a commit with their hashes, and the shards that its weights' index names.

        One request, two if there is an index that no commit before had; none if it was asked before.
        Raises CheckpointError as `branches` does.
        """
        kept = self._kept(repo, commit)
        if isinstance(kept, dict):
            return Inventory.from_json(kept)
        if self.is_offline:
            raise CheckpointError(
                f"The files of {repo} at {commit[:8]} were never listed on this machine, and the hub may not be asked "
                "(offline). List the series with its integrity once while online."
            )
        api = HfApi(endpoint=self.address, token=self.token)
        what = f"the files of {repo} at {commit[:8]}"
        info = self.patiently(
            what, lambda: api.model_info(repo, revision=commit, files_metadata=True, timeout=self.timeout)
        )
        files = tuple(
            RemoteFile(
                name=sibling.rfilename,
                size=sibling.size or 0,
                sha256="" if sibling.lfs is None else sibling.lfs.sha256,
                git_oid=sibling.blob_id or "",
            )
            for sibling in info.siblings or []
        )
        found = Inventory(files, self._index(repo, commit, files))
        self._keep(repo, commit, asdict(found))
        return found

    def download(self, repo: str, commit: str, name: str) -> Path:
        """One file of a commit, from the cache or the hub: its path in the cache's snapshot of that commit.

        Raises CheckpointError as `branches` does, or if it is not in the cache when offline.
        """
        what = f"{name} of {repo} at {commit[:8]}"
        try:
            return Path(self.patiently(what, lambda: self._download(repo, commit, name)))
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

    def patiently(self, what: str, ask: Callable[[], T]) -> T:
        """Ask until the hub answers.

        Raises CheckpointError when it refuses (RepositoryMissingError where that is why), FetchError after the last
        attempt or where what it said cannot be kept.
        """
        for attempt in range(1, self.attempts + 1):
            try:
                return ask()
            except (_HTTP_ERROR, OSError, HFValidationError) as error:
                wait = _asked_wait(error)
                wait = self.base_delay * 2.0 ** (attempt - 1) if wait is None else wait
                if not is_transient(error) or attempt == self.attempts or wait > self.longest_wait:
                    raise self._explained(what, error, attempt) from error
                time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _index(self, repo: str, commit: str, files: tuple[RemoteFile, ...]) -> tuple[str, ...] | None:
        """The shards that the index of the weights names; indexes with one git id are one file, read once."""
        index = index_of(files)
        if index is None:
            return None
        if index.git_oid not in self._shards or not index.git_oid:
            url = hf_hub_url(repo, index.name, revision=commit, endpoint=self.address)

            def ask() -> Any:
                headers = build_hf_headers(token=self.token)
                response = get_session().get(url, headers=headers, timeout=self.timeout, follow_redirects=True)
                hf_raise_for_status(response)
                return response.text

            text = self.patiently(f"{index.name} of {repo} at {commit[:8]}", ask)
            self._shards[index.git_oid] = shards_of(text, f"{index.name} of {repo} at {commit[:8]}")
        return self._shards[index.git_oid]

    def _known_branches(self, repo: str) -> dict[str, str]:
        kept = self._kept(repo, "branches")
        if isinstance(kept, dict) and kept:
            return {str(name): str(commit) for name, commit in kept.items()}
        with suppress(CacheNotFound):
            for cached in scan_cache_dir(self.cache).repos:
                if cached.repo_type == "model" and cached.repo_id.lower() == repo.lower() and cached.refs:
                    return {name: revision.commit_hash for name, revision in cached.refs.items()}
        raise CheckpointError(
            f"{repo} was never listed on this machine (looked in {self.cache}), and the hub may not be asked "
            "(offline). List it once while online, or give the cache that holds it."
        )

    def _record(self, repo: str, name: str) -> Path:
        root = Path(constants.HF_ASSETS_CACHE) / "gated-lpi" if self.cache_dir is None else self.cache / ".gated-lpi"
        place = re.sub(r"\W+", "-", self.address.split("://", 1)[-1])
        return root / place / repo.replace("/", "--") / (re.sub(r"\W", "-", name) + ".json")

    def _kept(self, repo: str, name: str) -> Any:
        with suppress(OSError, ValueError):
            return json.loads(self._record(repo, name).read_text(encoding="utf-8"))
        return None

    def _keep(self, repo: str, name: str, value: Mapping[str, Any]) -> None:
        """Write a record in one step; a cache that cannot be written to is no obstacle to listing."""
        path = self._record(repo, name)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
                json.dump(value, file)
            Path(file.name).replace(path)

    def _explained(self, what: str, error: Exception, attempts: int) -> CheckpointError:
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
            return FetchError(
                f"{hub} refuses further requests for now (429, asked {attempts} times for {what}). Wait some minutes, "
                "or log in with `hf auth login`, which allows more requests; what was listed is kept."
            )
        if isinstance(error, OSError) and error.errno is not None:
            return FetchError(
                f"{what} could not be written below {self.cache}: {error}. Free space, or give another cache folder."
            )
        said = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
        short = str(said).strip().split("\n")[0].rstrip(".") or type(said).__name__
        if not is_transient(error):
            return CheckpointError(f"{hub} refused {what} ({short}). Check its name, and that you may read it.")
        return FetchError(
            f"{hub} did not answer for {what} (asked {attempts} times; {short}). Check the connection and try again, "
            "or work offline with what is on this machine."
        )


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


def _status(error: BaseException) -> int | None:
    code = getattr(getattr(error, "response", None), "status_code", None)
    return code if isinstance(code, int) else None


def _asked_wait(error: BaseException) -> float | None:
    """Seconds that the answer's Retry-After (a number or a date) or RateLimit header asks to wait."""
    headers: Mapping[str, str] = getattr(getattr(error, "response", None), "headers", None) or {}
    after = headers.get("Retry-After", "").strip()
    if after.isdigit():
        return float(after)
    if after:
        with suppress(ValueError, TypeError):
            return max(0.0, email.utils.parsedate_to_datetime(after).timestamp() - time.time())
    limit = re.search(r"\br=0\s*;\s*t=(\d+)", headers.get("RateLimit", "").replace(" ", ""))
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
