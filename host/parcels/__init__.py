"""What the program carries for its sandboxes: the image, where it lies in the cache, and whether it is whole.

An image's id is the digest of its config, and the config names the digest of every layer: all of them are checked as
the image is unpacked or taken in, and docker does so when it loads it.
"""

from host.parcels.archive import Contents, Walk, contents_of, opened
from host.parcels.intake import take_in
from host.parcels.listing import altered, check_rootfs, is_unpacked
from host.parcels.locks import hold
from host.parcels.rootfs import BUILD_HINT, TAKEN_IN, WAYS_OUT, damaged, no_room, unpack_rootfs, whole_rootfs
from host.parcels.saving import save, verify
from host.parcels.shelf import (
    ID,
    Record,
    carried_image,
    current_image,
    describe,
    parse_record,
    prune,
    record_bytes,
    records,
    settle,
    taken_in,
    workshop,
)
from host.parcels.streams import CHUNK, AlteredError, Percent, Plain, Progress, Xz

__all__ = [
    "BUILD_HINT",
    "CHUNK",
    "ID",
    "TAKEN_IN",
    "WAYS_OUT",
    "AlteredError",
    "Contents",
    "Percent",
    "Plain",
    "Progress",
    "Record",
    "Walk",
    "Xz",
    "altered",
    "carried_image",
    "check_rootfs",
    "contents_of",
    "current_image",
    "damaged",
    "describe",
    "hold",
    "is_unpacked",
    "no_room",
    "opened",
    "parse_record",
    "prune",
    "record_bytes",
    "records",
    "save",
    "settle",
    "take_in",
    "taken_in",
    "unpack_rootfs",
    "verify",
    "whole_rootfs",
    "workshop",
]
