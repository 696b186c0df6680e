"""Fuzz targets for names, folders, hub listings and weights: each input is taken, left out, or an error of the tree."""

import dataclasses
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from answers import ADDRESS, answering
from fuzzing import fuzzed_bytes, fuzzed_json, mutated_bytes, mutated_value
from gated_lpi._common.entries import LARGEST, is_commit, is_count, is_file_path
from gated_lpi.checkpoints import (
    Hub,
    check_weights,
    inspect_series,
    list_series,
    parse_count,
    parse_name,
    reason_against,
    scan_local,
    select,
    weight_files,
)
from gated_lpi.checkpoints.inventory import Inventory
from gated_lpi.checkpoints.names import SCHEMES, repository_tokens, stage_order
from gated_lpi.errors import CheckpointError, GatedLPIError, OptionError, WeightsError

INDEX = "model.safetensors.index.json"
PIECES = (
    *("step", "-", "_", "tokens", "stage1", "stage2-ingredient3", "ckpt", "lc-4k", "checkpoint", "T", "B", "k", "."),
    *("0", "7", "12", "9" * 18, "9" * 19, "9" * 22, "9" * 5000, "0" * 5000, "\u0661", "²", "\u212a", "½", "\n", "\0"),
    *(
        str(LARGEST),
        str(LARGEST + 1),
        "main",
        "it-",
        "iter",
        "a/b",
        "\ud800",
        "\u017ftep",
        "1.5",
        "0.000000000000000001",
    ),
)


def odd_name(chance: random.Random) -> str:
    """A name of the schemes with bytes changed, or one put together of pieces."""
    if chance.random() < 0.5:
        content = chance.choice([*(scheme.example for scheme in SCHEMES), "Ling-mini-base-2.0-5T"]).encode()
        return mutated_bytes(chance, content).decode("utf-8", "surrogateescape")
    return "".join(chance.choice(PIECES) for _ in range(chance.randint(1, 8)))


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returns, or the error of the tree that it raises, which can be shown; any other escapes."""
    try:
        return call()
    except GatedLPIError as error:
        can_be_shown(str(error))
        return error


def can_be_shown(*texts: str) -> None:
    for text in texts:
        text.encode()


def names(_folder: Path, first: int, count: int) -> Iterator[str]:
    """Names of checkpoints: read, or not, with the reason."""
    orders = []
    for seed in range(first, first + count):
        name = odd_name(random.Random(seed))
        parsed = parse_name(name)
        orders.append(stage_order(name))
        if parsed is None:
            assert reason_against(name)
        else:
            assert all(n is None or is_count(n) for n in (parsed.step, parsed.tokens, parsed.index))
            assert (parsed.step is None) != (parsed.index is None)
            assert name.isascii()
        tokens = repository_tokens(name)
        assert tokens is None or is_count(tokens)
        yield "refused" if parsed is None else "taken"
    assert sorted(orders)


def counts(_folder: Path, first: int, count: int) -> Iterator[str]:
    """Counts as they are written on the command line."""
    for seed in range(first, first + count):
        name = odd_name(random.Random(seed))
        number = outcome(lambda name=name: parse_count(name))
        assert is_count(number) or isinstance(number, OptionError)
        yield "taken" if is_count(number) else "refused"


def possible(name: str) -> str:
    """The name, cut to what a folder can hold."""
    content = os.fsencode(name.encode("utf-8", "surrogateescape" if name.isprintable() else "replace"))
    content = content.replace(b"\0", b"0").replace(b"/", b"-")[:250]
    return os.fsdecode(content if content.strip(b".") else b"x")


def put(root: Path, chance: random.Random, record: bytes) -> None:
    """One entry: mostly a folder with a record, also a file, a dead link or a link to itself."""
    name = chance.choice(("step-5", "checkpoint-5", "step-6-tokens1B", "", "")) or possible(odd_name(chance))
    path = root / name
    if os.path.lexists(path):
        return
    kind = chance.randrange(10)
    if kind == 0:
        path.write_bytes(record)
    elif kind == 1:
        path.symlink_to(chance.choice(("absent", path.name, ".")))
    else:
        path.mkdir()
        (path / "checkpoint.json").write_bytes(record)


def local_listings(folder: Path, first: int, count: int) -> Iterator[str]:
    """Folders of checkpoints, some of which claim the same step."""
    samples = [{"step": 5, "tokens": 10**9, "stage": "stage1"}, {"step": 6}, {"tokens": None, "stage": ""}]
    root = folder / "series"
    for seed, record in enumerate(fuzzed_json(samples, count, first), first):
        root.mkdir()
        chance = random.Random(seed)
        for _ in range(chance.randint(1, 3)):
            put(root, chance, record)
        listing = outcome(lambda: scan_local(root))
        if isinstance(listing, CheckpointError):
            assert "all claim step" in str(listing)
        else:
            shown = [path for path in root.iterdir() if not path.name.startswith(".")]
            assert len(listing.checkpoints) + len(listing.excluded) == len(shown)
            assert all(item.reason for item in listing.excluded)
            can_be_shown(*listing.left_out, *listing.ignored)
            for found in listing.checkpoints:
                assert is_count(found.step)
                assert found.tokens is None or is_count(found.tokens)
                can_be_shown(found.key, found.stage)
            if listing.checkpoints:
                assert select(listing.checkpoints).checkpoints == listing.checkpoints
        shutil.rmtree(root)
        yield "refused" if isinstance(listing, CheckpointError) else "taken" if listing.checkpoints else "empty"


def hub_in(folder: Path, **options) -> Hub:
    return Hub(endpoint=ADDRESS, cache_dir=folder, token=False, attempts=1, **options)


def branches(*names: str) -> dict:
    """What a hub says of branches."""
    listed = [
        {"name": name, "ref": f"refs/heads/{name}", "targetCommit": f"{i + 1:040x}"} for i, name in enumerate(names)
    ]
    return {"branches": listed, "converts": [], "tags": []}


def hub_branches(folder: Path, first: int, count: int) -> Iterator[str]:
    """What a hub answers when it is asked for branches."""
    samples = [
        branches("main", "step1-tokens2B", "step2-tokens4B", "ckpt_3"),
        branches("stage1-step7", "stage2-ingredient1-step8-tokens9T"),
    ]
    bodies = {}
    with answering(lambda path: (200, {}, bodies[path])):
        for seed, body in enumerate(fuzzed_json(samples, count, first), first):
            repo = ("a/b", "LLM360/Amber", "EleutherAI/pythia-70m")[seed % 3]
            bodies[f"/api/models/{repo}/refs"] = body
            hub = hub_in(folder / "cache")
            series = outcome(lambda hub=hub, repo=repo: list_series(repo, hub=hub))
            if not isinstance(series, CheckpointError):
                assert all(is_commit(found.commit) and is_count(found.step) for found in series.checkpoints)
                assert all(found.tokens is None or is_count(found.tokens) for found in series.checkpoints)
                can_be_shown(*series.left_out)
                assert list_series(repo, hub=hub, offline=True) == series, "what was kept is not what was listed"
            shutil.rmtree(folder / "cache", ignore_errors=True)
            yield "refused" if isinstance(series, CheckpointError) else "taken"


def hub_inventories(folder: Path, first: int, count: int) -> Iterator[str]:
    """What a hub answers when it is asked for the files of a commit."""
    commit = f"{1:040x}"
    large = {"sha256": "a" * 64, "size": 700, "pointerSize": 134}
    files = [
        {"rfilename": "config.json", "size": 3, "blobId": "b" * 40},
        {"rfilename": "tokenizer.json", "size": 3, "blobId": "b" * 40},
        {"rfilename": "model-00001-of-00002.safetensors", "size": 700, "blobId": "c" * 40, "lfs": large},
        {"rfilename": "model-00002-of-00002.safetensors", "size": 700, "blobId": "d" * 40, "lfs": large},
    ]
    info = {"_id": "1", "id": "a/b", "modelId": "a/b", "sha": commit}
    index = {"rfilename": INDEX, "size": 90, "blobId": "e" * 40}
    samples = [{**info, "siblings": [*files, index]}, {**info, "siblings": files}]
    text = json.dumps({"weight_map": {f"layer.{i}": f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}}).encode()
    refs = json.dumps(branches("step1")).encode()
    bodies = {"/api/models/a/b/refs": refs, f"/a/b/resolve/{commit}/{INDEX}": text}
    with answering(lambda path: (200, {}, bodies[path])):
        for body in fuzzed_json(samples, count, first):
            bodies[f"/api/models/a/b/revision/{commit}"] = body
            hub = hub_in(folder / "cache")
            series = list_series("a/b", hub=hub)
            report = outcome(lambda hub=hub, series=series: inspect_series(series, hub=hub))
            if not isinstance(report, CheckpointError):
                can_be_shown(*report.flags["step1"])
                if "step1" in report.sizes:
                    found = hub.inventory("a/b", commit)
                    assert Inventory.from_json(json.loads(json.dumps(dataclasses.asdict(found)))) == found
                    assert all(is_file_path(file.name) and is_count(file.size) for file in found.files)
            shutil.rmtree(folder / "cache", ignore_errors=True)
            yield "refused" if isinstance(report, CheckpointError) or report.unusable else "taken"


def kept_records(folder: Path, first: int, count: int) -> Iterator[str]:
    """A damaged record is as good as none: offline it is an error that says so, and never a wrong listing."""
    commit = f"{1:040x}"
    file = {"name": "model.safetensors", "size": 9, "sha256": "a" * 64, "git_oid": ""}
    samples = [{"files": [file], "shards": None, "left_out": []}, {"step1": commit, "main": commit}]
    hub = hub_in(folder / "cache", offline=True)
    kept = folder / "cache" / ".gated-lpi" / "127-0-0-1-9" / "a--b"
    kept.mkdir(parents=True)
    for record in fuzzed_json(samples, count, first):
        (kept / "branches.json").write_bytes(record)
        (kept / f"{commit}.json").write_bytes(record)
        found = outcome(lambda: hub.branches("a/b"))
        if isinstance(found, CheckpointError):
            assert "never listed" in str(found)
        else:
            assert all(value == "" or is_commit(value) for value in found.values())
        inventory = outcome(lambda: hub.inventory("a/b", commit))
        if isinstance(inventory, CheckpointError):
            assert "never listed" in str(inventory)
        else:
            assert all(is_file_path(file.name) and is_count(file.size) for file in inventory.files)
        yield "refused" if all(isinstance(one, CheckpointError) for one in (found, inventory)) else "taken"


def shards(folder: Path) -> dict:
    """Two shards in a folder, and the content of their index."""
    placed = {}
    for i, name in enumerate(("a", "b")):
        save_file({name: torch.full((2,), float(i))}, folder / f"model-{name}.safetensors")
        placed[name] = f"model-{name}.safetensors"
    return {"metadata": {"total_size": 16}, "weight_map": placed}


def weight_indexes(folder: Path, first: int, count: int) -> Iterator[str]:
    """The index that says which tensors are in which file."""
    index = shards(folder)
    (folder / "model.bin").write_bytes(b"a pickle that must not be opened")
    single = {"weight_map": {"a": "model-a.safetensors"}}
    for text in fuzzed_json([index, single], count, first):
        (folder / INDEX).write_bytes(text)
        chosen = outcome(lambda: weight_files(folder))
        if isinstance(chosen, WeightsError):
            yield "refused"
            continue
        assert chosen.paths
        assert all(path.parent == folder and path.suffix == ".safetensors" for path in chosen.paths)
        names = {path.name for path in chosen.paths} | set(chosen.aside)
        assert names == {"model-a.safetensors", "model-b.safetensors"}
        report = outcome(lambda: check_weights(folder))
        if isinstance(report, WeightsError):
            assert "index promises" in str(report)
        else:
            assert {file.name for file in report.files} == {path.name for path in chosen.paths}
        yield "refused" if isinstance(report, WeightsError) else "taken"


def weight_files_of_bytes(folder: Path, first: int, count: int) -> Iterator[str]:
    """Whole safetensors files with odd bytes."""
    path = folder / "model.safetensors"
    save_file({"a": torch.ones(3), "b": torch.zeros(2, dtype=torch.bfloat16)}, path)
    for content in fuzzed_bytes([path.read_bytes()], count, first):
        path.write_bytes(content)
        yield _weights_outcome(folder)


def weight_headers(folder: Path, first: int, count: int) -> Iterator[str]:
    """Headers of safetensors files with odd values in place of names, types, shapes and offsets."""
    path = folder / "model.safetensors"
    save_file({"a": torch.ones(3), "b": torch.zeros(2, dtype=torch.bfloat16)}, path, {"format": "pt"})
    sound = path.read_bytes()
    end = 8 + int.from_bytes(sound[:8], "little")
    header = json.loads(sound[8:end])
    for seed in range(first, first + count):
        chance = random.Random(seed)
        text = json.dumps(mutated_value(chance, header)).encode()
        length = chance.choice((len(text),) * 8 + (0, len(text) - 1, len(text) + 1, 2**32, 2**63))
        path.write_bytes(length.to_bytes(8, "little") + text + sound[end:])
        yield _weights_outcome(folder)


def _weights_outcome(folder: Path) -> str:
    report = outcome(lambda: check_weights(folder))
    assert isinstance(report, WeightsError) or report.parameters >= 0
    return "refused" if isinstance(report, WeightsError) else "taken"


TARGETS = (
    *(names, counts, local_listings, hub_branches, hub_inventories, kept_records),
    *(weight_indexes, weight_files_of_bytes, weight_headers),
)
