"""Reads what an offline run of W&B kept: Record messages in the format of LevelDB's logs, after 7 bytes of its own.

A log has blocks of 32 KiB; pieces of records have a header of 7 bytes (checksum, length, and whether the record is
whole, begins, goes on or ends here) and do not cross blocks:
https://github.com/google/leveldb/blob/main/doc/log_format.md
"""

import json
import struct

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER = 32_768, 7
FULL, FIRST, _MIDDLE, LAST = 1, 2, 3, 4


def wandb_scalars(folder):
    """Of the one offline run below `folder`: name -> {training step: value}."""
    (kept,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    curves = {}
    for data in _messages(kept.read_bytes()):
        items = Record.FromString(data).history.item
        row = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
        for name, value in row.items():
            curves.setdefault(name, {})[row["train/global_step"]] = value
    return curves


def _messages(log):
    assert log[:4] == b":W&B"
    at, whole = HEADER, b""
    while at + HEADER <= len(log):
        if BLOCK - at % BLOCK < HEADER:  # a header does not fit: zeros up to the next block
            at += BLOCK - at % BLOCK
            continue
        _checksum, length, kind = struct.unpack_from("<IHB", log, at)
        piece = log[at + HEADER : at + HEADER + length]
        at += HEADER + length
        whole = piece if kind in (FULL, FIRST) else whole + piece
        if kind in (FULL, LAST):
            yield whole
