"""Training checkpoints by others: pickles that would run code, files elsewhere, sizes that lie."""

import dataclasses
import io
import os
import pickle

import pytest
import torch

from gated_lpi.errors import WeightsError
from gated_lpi.importing import import_checkpoint
from gated_lpi.importing.metadata import read_metadata
from training_checkpoints import SETTINGS, load_metadata, megatron, save_metadata, write, write_in_parts

NAME = "output_layer.weight"


class Runs:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def source(tmp_path):
    return write_in_parts(tmp_path / "iter", megatron())


def refused(source, words):
    with pytest.raises(WeightsError, match=words):
        import_checkpoint(source, source.parent / "out", settings=SETTINGS)
    assert not (source.parent / "out").exists()
    assert [path.name for path in source.parent.iterdir()] == ["iter"], "nothing was run, and nothing left behind"


def test_metadata_that_would_run_code(source):
    ran = source.parent / "ran"
    for content in (Runs(ran), {"a": [Runs(ran)]}, dataclasses.replace(load_metadata(source), planner_data=Runs(ran))):
        save_metadata(source, content)
        refused(source, r"asks for 'posix.mkdir', which no metadata .* Nothing of it was run")


@pytest.mark.parametrize(
    "code",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cos\nsystem\n(S'true'\ntR.",
        b"ctorch\nload\n(S'x'\ntR.",
        b"ctorch.serialization\nload\n(S'x'\ntR.",
        b"ctorch.distributed.checkpoint.metadata\nos.system\n(S'true'\ntR.",
        b"\x80\x04\x8c\x05torch\x8c\x09hub.load_\x93.",
        b"cbuiltins\ngetattr\n(S'x'\nS'y'\ntR.",
        b"ccopyreg\n_reconstructor\n(tR.",
    ],
)
def test_names_that_no_metadata_needs(source, code):
    (source / ".metadata").write_bytes(code)
    refused(source, "which no metadata of a checkpoint needs")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be read as the metadata"),
        (b"not a pickle", "cannot be read as the metadata"),
        (pickle.dumps({"a": 1}), "it holds 'dict'"),
        (pickle.dumps(5), "it holds 'int'"),
        (b"\x80\x04P0\n.", "cannot be read|refers to an object"),
    ],
)
def test_other_files_in_its_place(source, content, words):
    (source / ".metadata").write_bytes(content)
    refused(source, words)


def test_a_tensor_that_would_run_code(source):
    """Parts are loaded as weights only: a pickle in place of one ends in an error and does nothing."""
    found = load_metadata(source)
    content = io.BytesIO()
    torch.save(Runs(source.parent / "ran"), content)
    bad = content.getvalue()
    path = source / "__0_0.distcp"
    start = path.stat().st_size
    with path.open("ab") as file:
        file.write(bad)
    index = next(index for index in found.storage_data if index.fqn == NAME and not any(index.offset))
    found.storage_data[index] = dataclasses.replace(found.storage_data[index], offset=start, length=len(bad))
    save_metadata(source, found)
    refused(source, f"does not hold {NAME} as a plain tensor")


def changed(source, **fields):
    found = load_metadata(source)
    for index, info in found.storage_data.items():
        if index.fqn == NAME:
            found.storage_data[index] = dataclasses.replace(info, **fields)
    save_metadata(source, found)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"relative_path": "../iter/__0_0.distcp"}, "no file right beside it"),
        ({"relative_path": "/etc/passwd"}, "no file right beside it"),
        ({"relative_path": 5}, "no file right beside it"),
        ({"relative_path": "__9_0.distcp"}, "is missing"),
        ({"offset": 10**12}, "it is cut short"),
        ({"length": -1}, "it is cut short"),
        ({"offset": 1}, "as a plain tensor"),
        ({"transform_descriptors": ["zstd"]}, "compressed or encrypted"),
    ],
)
def test_places_that_lie(source, fields, words):
    changed(source, **fields)
    refused(source, words)


def test_shapes_that_lie(source):
    found = load_metadata(source)
    entry = found.state_dict_metadata[NAME]
    found.state_dict_metadata[NAME] = dataclasses.replace(entry, size=torch.Size([10**6, 10**6]))
    save_metadata(source, found)
    refused(source, "its tensors have .* bytes, and the files that hold them")
    found.state_dict_metadata[NAME] = dataclasses.replace(entry, size=torch.Size([65, 32]))
    save_metadata(source, found)
    refused(source, f"lacks parts of {NAME}")
    first, second = entry.chunks
    found.state_dict_metadata[NAME] = dataclasses.replace(entry, chunks=[first, first])
    save_metadata(source, found)
    refused(source, "each value once")
    found.state_dict_metadata[NAME] = dataclasses.replace(
        entry, chunks=[first, dataclasses.replace(second, offsets=torch.Size([40, 0]))]
    )
    save_metadata(source, found)
    refused(source, "lies outside of it or in no file")


def test_a_file_that_is_cut_short(source):
    path = source / "__1_0.distcp"
    path.write_bytes(path.read_bytes()[:-1000])
    refused(source, "it is cut short")


def test_objects_are_listed_and_never_opened(tmp_path):
    source = write(tmp_path / "iter", {**megatron(), "rng_state": [1], "common": {"args": object}})
    contents = read_metadata(source)
    assert set(contents.objects) >= {"rng_state"} or any("rng_state" in name for name in contents.objects)
    assert NAME in contents.tensors
