"""Files of torch.save's old form whose parts disagree."""

from __future__ import annotations

import pickle
import struct

from hostile.building import Case, file_of, name, ops, storage, tensor

_MAGIC, _SYSTEM = 0x1950A86A20F9469CFC6C, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}


def _legacy(
    *,
    magic: object = _MAGIC,
    protocol: object = 1001,
    system: object = _SYSTEM,
    value: bytes | None = None,
    keys: object = ("0",),
    count: int = 6,
    data: bytes = bytes(24),
) -> bytes:
    kept = storage()[:-2] + b"NtQ"
    state = b"\x80\x02}" + ops("emb_l.0.weight") + (tensor(kept) if value is None else value) + b"s."
    heads = b"".join(pickle.dumps(one, 2) for one in (magic, protocol, system))
    listed = pickle.dumps(list(keys) if isinstance(keys, tuple) else keys, 2)
    return heads + state + listed + struct.pack("<Q", count) + data


GOOD = _legacy()
_WIDE = storage(elements=2**61)[:-2] + b"NtQ"
_VIEW = storage()[:-2] + ops(("0", 0, 3)) + b"tQ"
_HEAD, _KEYS, _CUT = "head is damaged|damaged", "not the storages that the object uses", "truncated or damaged"
CASES: dict[str, Case] = {
    "another protocol": file_of(_legacy(protocol=1000), _HEAD),
    "a system that is a list": file_of(_legacy(system=[1]), _HEAD),
    "big-endian": file_of(_legacy(system=_SYSTEM | {"little_endian": False}), "not little-endian"),
    "byte order of one": file_of(_legacy(system=_SYSTEM | {"little_endian": 1}), "not little-endian"),
    "a head of two thousand parts": file_of(_legacy(system=[[]] * 2000), "more than 1,000 opcodes"),
    "a head that calls": file_of(
        pickle.dumps(_MAGIC, 2) + b"\x80\x02" + name("os", "system") + b"(" + ops("true") + b"tR." + GOOD[16:],
        "damaged",
    ),
    "no storages listed": file_of(_legacy(keys=()), _KEYS),
    "another storage listed": file_of(_legacy(keys=("1",)), _KEYS),
    "a storage listed twice": file_of(_legacy(keys=("0", "0")), "listed twice"),
    "storages that are numbers": file_of(_legacy(keys=(0,)), _KEYS),
    "a mapping of storages": file_of(_legacy(keys={"0": 1}), _KEYS),
    "a list of storages of 5,000 parts": file_of(_legacy(keys=("0",) * 5000), "opcodes"),
    "a count one too high": file_of(_legacy(count=7), "the file says 7"),
    "a count of 2^64 - 1": file_of(_legacy(count=2**64 - 1), _CUT),
    "a storage cut short": file_of(_legacy(data=bytes(23)), _CUT),
    "a storage of 2^61 elements": file_of(_legacy(value=tensor(_WIDE), count=2**61), _CUT),
    "a storage that is a view": file_of(_legacy(value=tensor(_VIEW)), "views of each other"),
    "a tensor past its storage": file_of(_legacy(value=tensor(storage()[:-2] + b"NtQ", shape=(4, 2))), "reaches to"),
    "cut in the object": file_of(GOOD[:150], "damaged"),
    "cut before the list": file_of(GOOD[: GOOD.rindex(b"\x80\x02]")], "damaged"),
}
