"""Fetching a checkpoint to this machine, verified, and removing again what was fetched.

1. The commit's files are listed (`Hub.inventory`); shards that the index names and the listing lacks end it here.
2. Weights as safetensors, the config and the tokenizer are downloaded into huggingface_hub's cache, at that commit.
   Pickles never are. A connection that breaks within a file is resumed by huggingface_hub where it broke. A process
   that is killed leaves the file that was on its way as a half one, which huggingface_hub neither goes on with nor
   deletes: `sweep` does that.
3. Each file is read and its hash compared with the listing. One that differs is removed and named.
4. From its first file on until it is evicted, or the process ends, a checkpoint is held: no other process evicts it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from filelock import FileLock, Timeout
from huggingface_hub import constants, scan_cache_dir, try_to_load_from_cache
from huggingface_hub.errors import CacheNotFound

from gated_lpi._common.weight_files import (
    BESIDE_WEIGHTS,
    CONFIG_NAME,
    INDEX_NAME,
    file_names,
    holds_tokenizer,
    is_pickle,
)
from gated_lpi.checkpoints.holding import deciding, hold, is_held, release
from gated_lpi.checkpoints.hub import Hub, require_commit
from gated_lpi.checkpoints.inventory import DISTRIBUTED, Inventory, RemoteFile, folder_listing
from gated_lpi.checkpoints.types import Checkpoint, WeightFile
from gated_lpi.checkpoints.weights import file_sha256
from gated_lpi.errors import CheckpointError, WeightsError

_BESIDE_WEIGHTS = (CONFIG_NAME, "generation_config.json", INDEX_NAME, *BESIDE_WEIGHTS)
_CODE = "*.py"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Fetched:
    """A checkpoint on this machine.

    Attributes:
        path: its folder.
        downloaded_files: files in it that this call brought; what was there before is not among them.
        bytes: how much that was.
        weights: the files that were verified against the hub's listing.
    """

    path: Path
    downloaded_files: tuple[Path, ...] = ()
    bytes: int = 0
    weights: tuple[WeightFile, ...] = ()


def fetch(
    checkpoint: Checkpoint,
    cache_dir: str | Path | None = None,
    *,
    offline: bool = False,
    hub: Hub | None = None,
    remote_code: bool = False,
) -> Fetched:
    """Bring a checkpoint to this machine at its pinned commit, and verify its weights.

    Args:
        checkpoint: one of a series; a local one is returned as it is, unread.
        cache_dir: where to keep it, by default the hub's (huggingface_hub's own cache).
        offline: use what is in the cache only.
        hub: how to reach the hub.
        remote_code: bring the Python files that some models need, too, whatever the checkpoint says. They are not run
            here.

    Returns:
        Where it is, and what this call brought.

    Raises:
        WeightsError: pickled weights only, missing shards, or bytes that are not those of the listing.
        CheckpointError: the hub does not answer, or, offline, a file is not in the cache. Files that were complete
            before stay in the cache, so that the next try goes on from there.
    """
    if checkpoint.path is not None:
        return Fetched(checkpoint.path)
    hub = Hub() if hub is None else hub
    hub = dataclasses.replace(
        hub, cache_dir=hub.cache_dir if cache_dir is None else cache_dir, offline=hub.offline or offline
    )
    require_commit(checkpoint.repo, checkpoint.commit)
    inventory = _listing(checkpoint, hub)
    _refuse_incomplete(checkpoint, inventory)
    wanted = _wanted(inventory, remote_code or checkpoint.remote_code)
    storage = _storage(checkpoint.repo, hub)
    hold(storage, _held(checkpoint.commit, checkpoint.folder))
    brought: list[Path] = []
    size = 0
    paths: dict[str, Path] = {}
    verified: dict[str, WeightFile] = {}
    for file in wanted:  # each is verified before the next is asked for, so that no wrong one stays in the cache
        there = _cached(checkpoint, file.name, hub) is not None
        fresh = not there and not (storage / "blobs" / (file.digest or "-")).exists()
        paths[file.name] = _downloaded(checkpoint, file, hub)
        if paths[file.name].exists():
            verified[file.name] = _verified(paths[file.name], file, checkpoint, hub)
        if not there:
            brought.append(paths[file.name])
        size += file.size if fresh else 0
    with deciding(storage):  # what another process deleted meanwhile, since no checkpoint of its own had it any more
        gone = [file for file in wanted if file.name not in verified or not paths[file.name].exists()]
    for file in gone:
        verified[file.name] = _verified(_downloaded(checkpoint, file, hub), file, checkpoint, hub)
    weights = tuple(verified[file.name] for file in inventory.weights)
    return Fetched(paths[inventory.weights[0].name].parent, tuple(brought), size, weights)


def fetch_tokenizer(repo: str, revision: str = "main", *, hub: Hub | None = None, remote_code: bool = False) -> Path:
    """Bring a repository's tokenizer to this machine, verified; a few files, which stay in the cache.

    Args:
        repo: the repository, as owner/name.
        revision: branch, tag or commit.
        hub: how to reach the hub.
        remote_code: bring Python files, too.

    Returns:
        The folder that holds it.

    Raises:
        CheckpointError: the hub does not answer or does not show it, or its files are not in the cache when offline.
        WeightsError: bytes that are not those of the listing, or a repository without a tokenizer.
    """
    hub = Hub() if hub is None else hub
    commit = hub.commit(repo, revision)
    checkpoint = Checkpoint(None, revision, 0, None, "", commit, repo, revision)
    inventory = _listing(checkpoint, hub)
    wanted = [file for file in _wanted(inventory, remote_code) if file not in inventory.weights]
    if not holds_tokenizer(file.name for file in wanted):
        raise WeightsError(
            f"{repo} holds no tokenizer at {revision} ({commit[:8]}). Name a folder or another repository that does."
        )
    for file in wanted:
        if file.name == INDEX_NAME:
            continue
        path = _downloaded(checkpoint, file, hub)
        _verified(path, file, checkpoint, hub)
    return path.parent


def evict(fetched: Fetched, cache_dir: str | Path | None = None, *, hub: Hub | None = None) -> int:
    """Delete the files that the call to `fetch` brought, and nothing else.

    A file's bytes stay as long as another checkpoint in the cache has the same file, and all of them as long as another
    process that fetched the checkpoint still works with it. Files that are gone already are no error.

    Args:
        fetched: what `fetch` returned.
        cache_dir: the cache that `fetch` was given.
        hub: how `fetch` was to reach the hub.

    Returns:
        The bytes that this frees.
    """
    hub = Hub() if hub is None else hub
    hub = hub if cache_dir is None else dataclasses.replace(hub, cache_dir=cache_dir)
    storage, held = _place(fetched.path)
    release(storage, held)
    if not fetched.downloaded_files or not storage.is_dir():
        return 0
    with deciding(storage):
        if is_held(storage, held):
            return 0
        _drop_dead_links(storage)
        try:
            cache = scan_cache_dir(hub.cache)
        except (CacheNotFound, ValueError):  # no such folder, or a file in its place
            return 0
        brought = set(fetched.downloaded_files)
        doomed = [f for repo in cache.repos for r in repo.revisions for f in r.files if f.file_path in brought]
        strategy = cache.delete_files(*doomed)
        strategy.execute()
        return strategy.expected_freed_size


def sweep(checkpoint: Checkpoint, hub: Hub) -> int:
    """Delete the half files that interrupted downloads of a checkpoint left in the cache.

    A file that another process is downloading right now, and so holds the lock of, is left alone.

    Returns:
        The bytes that this frees.
    """
    storage, freed = _storage(checkpoint.repo, hub), 0
    for file in _wanted(hub.inventory(checkpoint.repo, checkpoint.commit, checkpoint.folder), remote_code=True):
        halves = list((storage / "blobs").glob(f"{file.digest}.*.incomplete")) if file.digest else []
        if not halves:
            continue
        with suppress(Timeout), FileLock(hub.cache / ".locks" / storage.name / f"{file.digest}.lock", timeout=0):
            for half in halves:
                freed += half.stat().st_size
                half.unlink()
    return freed


def _downloaded(checkpoint: Checkpoint, file: RemoteFile, hub: Hub) -> Path:
    path = hub.download(checkpoint.repo, checkpoint.commit, _within(checkpoint, file.name), file.size)
    if (path.parents[1] if checkpoint.folder else path.parent).name != checkpoint.commit:
        raise WeightsError(
            f"{file.name} of {checkpoint.repo} came to {path}, which is not of the commit {checkpoint.commit[:8]} that "
            "was asked for: the hub serves wrong files. Try again later, or leave this checkpoint out."
        )
    return path


def _listing(checkpoint: Checkpoint, hub: Hub) -> Inventory:
    """The hub's listing of the commit or, offline and never listed, what the cache itself tells of it."""
    try:
        return hub.inventory(checkpoint.repo, checkpoint.commit, checkpoint.folder)
    except WeightsError:
        raise
    except CheckpointError:
        snapshot = _storage(checkpoint.repo, hub) / "snapshots" / checkpoint.commit / checkpoint.folder
        if not hub.is_offline or not snapshot.is_dir():
            raise
    return folder_listing(snapshot, tuple(_cached_file(snapshot / name) for name in file_names(snapshot)))


def _cached_file(path: Path) -> RemoteFile:
    """A file of the cache. What it links to is named by the file's SHA-256 (or git id, for small files)."""
    name = path.readlink().name if path.is_symlink() else ""
    size = path.stat().st_size
    return RemoteFile(path.name, size, name if len(name) == 64 else "", name if len(name) == 40 else "")


def _refuse_incomplete(checkpoint: Checkpoint, inventory: Inventory) -> None:
    where = f"{checkpoint.key} of {checkpoint.repo}"
    odd = "".join(f"; its listing has {line}, which was left out" for line in inventory.left_out[:4])
    if inventory.format == "safetensors" and inventory.objection:
        raise WeightsError(
            f"{where} {inventory.objection}{odd}. Leave it out of the series, or download it by other means and "
            "rename the file that holds the weights to model.safetensors."
        )
    if inventory.format == DISTRIBUTED:
        raise WeightsError(
            f"{where} is {inventory.objection}. Download its folder by other means (hf download), give that to "
            "gated-lpi import, and take the folder that it writes (docs/importing.md)."
        )
    if inventory.format == "pickle":
        raise WeightsError(
            f"{where} has pickled weights only, which can run code when opened, so they are not downloaded. Take a "
            "repository with safetensors, or convert them where you trust the source: load the model with "
            "transformers' from_pretrained and write it with save_pretrained to a folder step-N."
        )
    if inventory.missing:
        raise WeightsError(
            f"{where} lacks {len(inventory.missing)} shards that its index or the other shards name: "
            f"{', '.join(inventory.missing[:8])}{odd}. Its publisher has to add them; leave it out of the series until "
            "then."
        )
    if not inventory.weights:
        raise WeightsError(f"{where} holds no weights{odd}. Leave it out of the series, or give another branch.")


def _wanted(inventory: Inventory, remote_code: bool) -> list[RemoteFile]:
    patterns = (*_BESIDE_WEIGHTS, _CODE) if remote_code else _BESIDE_WEIGHTS
    beside = [file for file in inventory.files if any(fnmatchcase(file.name, pattern) for pattern in patterns)]
    plain = [file for file in beside if "/" not in file.name and not is_pickle(file.name)]
    return [*(file for file in plain if file not in inventory.weights), *inventory.weights]


def _storage(repo: str, hub: Hub) -> Path:
    return hub.cache / f"models{constants.REPO_ID_SEPARATOR}{repo.replace('/', constants.REPO_ID_SEPARATOR)}"


def _within(checkpoint: Checkpoint, name: str) -> str:
    """A file's path in the repository."""
    return f"{checkpoint.folder}/{name}" if checkpoint.folder else name


def _place(folder: Path) -> tuple[Path, str]:
    """The repository's folder in the cache that a checkpoint's folder is in, and by what name that one is held."""
    inner = "" if folder.parent.name == "snapshots" else folder.name
    snapshot = folder.parent if inner else folder
    return snapshot.parent.parent, _held(snapshot.name, inner)


def _held(commit: str, folder: str) -> str:
    return f"{commit}+{folder}" if folder else commit


def _cached(checkpoint: Checkpoint, name: str, hub: Hub) -> str | None:
    name = _within(checkpoint, name)
    found = try_to_load_from_cache(checkpoint.repo, name, cache_dir=hub.cache, revision=checkpoint.commit)
    return found if isinstance(found, str) else None


def _verified(path: Path, expected: RemoteFile, checkpoint: Checkpoint, hub: Hub) -> WeightFile:
    """Compare a file with the listing; remove it if it differs, as long as it can be fetched again."""
    sha256 = file_sha256(path)
    size = path.stat().st_size
    wrong = [
        f"its {name} is {found}, not {wanted}"
        for name, found, wanted in (
            ("size", size, expected.size),
            ("SHA-256", sha256, expected.sha256),
            ("git id", "" if expected.sha256 else _git_oid(path, size), "" if expected.sha256 else expected.git_oid),
        )
        if wanted and found != wanted
    ]
    if not wrong:
        return WeightFile(path.name, size, sha256)
    if hub.is_offline:
        advice = "Delete it, and fetch the checkpoint again while online."
    else:
        _discard(path)
        advice = "It was removed: fetch the checkpoint again. If that happens twice, the hub serves wrong bytes."
    raise WeightsError(
        f"{path} is not the file that {checkpoint.repo} lists at {checkpoint.commit[:8]}: {'; '.join(wrong)}. {advice}"
    )


def _git_oid(path: Path, size: int) -> str:
    """Git's id of a file: the hash of a small header and the bytes."""
    digest = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _discard(path: Path) -> None:
    """Remove a file of the cache and all that it links to, so that nothing brings the same bytes back."""
    storage, _ = _place(path.parent)
    while path.is_symlink():
        target = path.parent / path.readlink()
        path.unlink()
        path = target
    path.unlink(missing_ok=True)
    _drop_dead_links(storage)


def _drop_dead_links(storage: Path) -> None:
    """Remove links to what is gone: of a repository that has one, nothing would be found to be deleted any more."""
    for link in storage.glob("snapshots/*/**/*"):
        if link.is_symlink() and not link.exists():
            link.unlink(missing_ok=True)
