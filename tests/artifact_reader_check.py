"""A second reader of artifacts, in numpy alone: it does what docs/artifact.md says, and nothing else.

It shares no code with the package. Each function carries the number of the section of the page that it follows.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U8": "<u1",
    "BOOL": "?",
}
FORMATS = (1, 2)
FEATURES: frozenset[str] = frozenset({"compute", "int8-dense", "kept-module", "tied-output", "trellis-rows"})
TYPE_NAMES = {"F": "float", "BF": "bfloat", "I": "int", "U": "uint"}
U64 = np.uint64
Bags = tuple[np.ndarray, np.ndarray, "np.ndarray | None"]
"""Ids, the bags' beginnings, and a weight per id or None (section 9)."""


class Refused(ValueError):
    """Section 11: what a reader must refuse."""


class ArtifactFile:
    """Header, metadata and tensors of a file."""

    def __init__(self, path: Path) -> None:
        """Section 1: length, JSON, tensors."""
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        self.header: dict[str, Any] = json.loads(content[8 : 8 + length])
        self.metadata_text: str = self.header.pop("__metadata__")["memrec_convert"]
        self.metadata: dict[str, Any] = json.loads(self.metadata_text)
        check_format(self.metadata, path)
        self.body = content[8 + length :]

    def tensor(self, name: str) -> np.ndarray:
        """Sections 1 and 2: a tensor by its name or its alias; bf16 as float32."""
        entry = self.header[self.metadata["aliases"].get(name, name)]
        start, stop = entry["data_offsets"]
        flat = np.frombuffer(self.body[start:stop], dtype=DTYPES[entry["dtype"]])
        if entry["dtype"] == "BF16":
            flat = (flat.astype(np.uint32) << 16).view(np.float32)
        return flat.reshape(entry["shape"])

    def digest(self, name: str) -> str:
        """Section 2: the digest of a stored tensor."""
        entry = self.header[name]
        start, stop = entry["data_offsets"]
        letters = entry["dtype"].rstrip("0123456789")
        kind = "bool" if letters == "BOOL" else TYPE_NAMES[letters] + entry["dtype"][len(letters) :]
        return blake(f"torch.{kind} {entry['shape']}\n".encode() + self.body[start:stop])

    def digest_self(self) -> str:
        """Section 2: the digest of the metadata's text."""
        before, own, after = self.metadata_text.rpartition(f'"self":"{self.metadata["self"]}"')
        return blake((before + own.replace(self.metadata["self"], "0" * 32) + after).encode())

    def table(self, path: str) -> dict[str, Any]:
        """Section 3: the description of a table, `same_as` followed."""
        plain = self.metadata["modules"][path]
        return self.table(plain["same_as"]) if "same_as" in plain else plain

    def lookup(self, path: str, ids: np.ndarray) -> np.ndarray:
        """Section 9: rows of any ids, float32 [n, dim], by the table's `oov`; padding is not applied."""
        plain, rows = self.table(path), self.table(path)["rows"]
        outside = (ids < 0) | (ids >= rows)
        if outside.any() and plain["oov"] == "error":
            raise IndexError(path)
        inside = np.mod(ids, rows) if plain["oov"] == "hash" else np.clip(ids, 0, rows - 1)
        found = self.decode(path, inside.astype(np.int64))
        if plain["oov"] == "zero":
            found[outside] = 0
        return found

    def embed(self, path: str, ids: np.ndarray) -> np.ndarray:
        """Section 9, where no `mode` is given: rows of ids, that of `padding_idx` zero."""
        found = self.lookup(path, ids)
        found[is_padding(self.table(path), ids)] = 0
        return found

    def pool(self, path: str, ids: np.ndarray, offsets: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """Section 9: sum or mean over bags that start at `offsets`."""
        plain, found = self.table(path), self.lookup(path, ids)
        counted = ~is_padding(plain, ids)
        if weights is not None:
            found = found * weights[:, None]
        pooled = np.zeros((len(offsets), plain["dim"]), np.float32)
        for bag, (start, stop) in enumerate(zip(offsets, [*offsets[1:], len(ids)], strict=True)):
            own = counted[start:stop]
            for row in found[start:stop][own]:
                pooled[bag] += row
            if plain["mode"] == "mean":
                pooled[bag] /= np.float32(max(1, own.sum()))
        return pooled

    def logits(self, dense: np.ndarray, inputs: list[Bags]) -> np.ndarray:
        """Section 10: logits [B] of raw dense values [B, n] and each input's bags."""
        plain = self.metadata["architecture"]
        if plain["name"] not in NETWORKS:
            raise Refused(f"a network {plain['name']!r}")
        dense = transform_dense(dense, plain.get("dense_transform", "log1p"))
        if plain["name"] == "sample-pooled":
            pooled = self.pool_samples(plain, inputs)
            return self.mlp("top", np.concatenate([self.mlp("bottom", dense, last_relu=True), pooled], axis=1))[:, 0]
        feeds = plain.get("table_inputs", range(len(plain["tables"])))
        for number in plain.get("single_valued", ()):
            ids, offsets, weights = inputs[feeds[number]]
            if weights is not None or not np.array_equal(offsets, np.arange(len(ids))):
                raise Refused(f"a bag of several ids for table {number}")
        vectors = [self.pool(f"tables.{number}", *inputs[feed]) for number, feed in enumerate(feeds)]
        return NETWORKS[plain["name"]](self, plain, dense, vectors)

    def mlp(self, part: str, values: np.ndarray, *, last_relu: bool = False) -> np.ndarray:
        """Section 10: linear layers 0, 2, 4, ... with a ReLU after each, the last one's only where it is said."""
        layer = 0
        while self.has(f"{part}.{layer}.weight"):
            if layer:
                values = np.maximum(values, 0)
            values = self.linear(f"{part}.{layer}.weight", values, positive=layer > 0) + self.tensor(
                f"{part}.{layer}.bias"
            )
            layer += 2
        return np.maximum(values, 0) if last_relu and layer else values

    def linear(self, name: str, values: np.ndarray, *, positive: bool = False) -> np.ndarray:
        """Section 10.8: products of rows with a matrix, in the type that the file says."""
        matrix = self.matrix(name)
        compute = self.metadata.get("compute", "fp32")
        if compute == "fp32" or matrix.shape[0] < 8 or not 32 <= matrix.shape[1] <= 1 << 16:
            return values @ matrix.T
        if compute == "bf16":
            return round_bf16(values) @ round_bf16(matrix).T
        largest = np.abs(matrix).max(axis=1) / np.float32(127)
        scale = (largest.view(np.uint32) + np.uint32(0xFF) & ~np.uint32(0xFF)).view(np.float32)
        whole = np.rint(matrix / scale[:, None])
        levels, most = np.float32(255 if positive else 127), np.abs(values).max(axis=1, keepdims=True)
        rows = np.rint(values * (levels / most))
        sums = (rows.astype(np.int64) @ whole.astype(np.int64).T).astype(np.float32)
        return sums * (most / levels * scale)

    def matrix(self, name: str) -> np.ndarray:
        """Section 10.7: a matrix by its name, from int8 where it is stored so."""
        stored = self.tensor(name)
        if stored.dtype != np.int8:
            return stored
        source = self.metadata["aliases"].get(name, name)
        return stored.astype(np.float32) * self.tensor(f"{source}.scale")[:, None]

    def has(self, name: str) -> bool:
        """Whether there is a tensor of this name or alias."""
        return name in self.header or name in self.metadata["aliases"]

    def dlrm(self, plain: dict[str, Any], dense: np.ndarray, vectors: list[np.ndarray]) -> np.ndarray:
        """Section 10.1."""
        bottom = self.mlp("bottom", dense, last_relu=True)
        if plain["interaction"] == "cat":
            joined = [bottom, *vectors]
        else:
            stacked, itself = np.stack([bottom, *vectors], axis=1), plain.get("self_interaction", False)
            count = stacked.shape[1]
            first = [
                range(one + itself) if plain["pairs"] == "lower" else range(one + 1 - itself, count)
                for one in range(count)
            ]
            products = [
                (stacked[:, one] * stacked[:, other]).sum(axis=1) for one in range(count) for other in first[one]
            ]
            joined = [bottom, *(product[:, None] for product in products)]
        zeros = np.zeros((len(dense), plain.get("padding", 0)), np.float32)
        return self.mlp("top", np.concatenate([*joined, zeros], axis=1))[:, 0]

    def dlrm_dcn(self, plain: dict[str, Any], dense: np.ndarray, vectors: list[np.ndarray]) -> np.ndarray:
        """Section 10.2."""
        first = crossed = np.concatenate([self.mlp("bottom", dense, last_relu=True), *vectors], axis=1)
        for layer in range(plain["cross_layers"]):
            up = self.linear(f"cross.{layer}.up", self.linear(f"cross.{layer}.down", crossed))
            crossed = first * (up + self.tensor(f"cross.{layer}.bias")) + crossed
        return self.mlp("top", crossed)[:, 0]

    def deepfm(self, plain: dict[str, Any], dense: np.ndarray, vectors: list[np.ndarray]) -> np.ndarray:
        """Section 10.3."""
        factors = np.stack(vectors[: plain["fields"]], axis=1)
        rows = np.concatenate(vectors[: plain["fields"]], axis=1)
        logits = self.mlp("top", np.concatenate([rows, dense], axis=1))[:, 0]
        logits = logits + 0.5 * (factors.sum(axis=1) ** 2 - (factors**2).sum(axis=1)).sum(axis=1)
        if plain["linear"] != "none" and self.has("first_order"):
            logits = logits + (rows if plain["linear"] == "rows" else dense) @ self.tensor("first_order")[0]
        return logits + sum(vector[:, 0] for vector in vectors[plain["fields"] :])

    def pool_samples(self, plain: dict[str, Any], inputs: list[Bags]) -> np.ndarray:
        """Section 10.4: z [B, l], one vector per sample."""
        tokens, weights = self.tensor("tokens"), self.tensor("weights")
        vectors = np.zeros((len(inputs[0][1]), plain["l"]), np.float32)
        alpha = np.zeros(len(vectors), np.float32)
        for number, (ids, offsets, own) in enumerate(inputs):
            sample = np.searchsorted(offsets, np.arange(len(ids)), side="right") - 1
            for seed in range(max(plain["K"], plain["kw"])):
                h1, _ = murmur(ids + 430_000_000 * number, seed)
                if seed < plain["K"]:
                    rows = tokens[reduce(h1 >> U64(32), plain["D"])]
                    np.add.at(vectors, sample, rows if own is None else rows * own[:, None])
                if seed < plain["kw"]:
                    np.add.at(alpha, sample, weights[reduce(h1 & U64(0xFFFFFFFF), plain["dw"])])
        return vectors * alpha[:, None] if plain["kw"] else vectors

    def decode(self, path: str, ids: np.ndarray) -> np.ndarray:
        """Sections 4 to 8: rows of ids inside the table."""
        plain = self.table(path)
        if plain["form"] == "kept":
            return self.stored_rows(f"{path}.", plain["codec"], ids, plain["dim"])
        frame, levels = self.tensor(f"{path}.frame"), plain["levels"]
        places = [self.find_places(path, number, level, ids) for number, level in enumerate(levels)]
        codes = self.read_base(path, plain, ids)
        if plain["base_depth"]:
            found = self.decode_codes(path, plain, codes)
        elif "hashing" in plain:
            found = self.decode_hashed(path, plain, ids) + frame[1:]
        else:
            found = np.repeat(frame[None, 1:], len(ids), axis=0)
        for number, (level, place) in enumerate(zip(levels, places, strict=True)):
            member = np.flatnonzero(place >= 0)
            if level["kind"] == "rows":
                found[member] = self.stored_rows(f"{path}.level{number}_", level["codec"], place[member], plain["dim"])
            else:
                more = self.read_level(path, plain, number, place[member])
                found[member] = self.decode_codes(path, plain, [code[member] for code in codes] + more)
        return found

    def stored_rows(self, prefix: str, codec: str, numbers: np.ndarray, dim: int) -> np.ndarray:
        """Section 4: row codecs."""
        if codec.startswith("trellis"):
            rows, scale = self.tensor(prefix + "rows")[numbers], self.tensor(prefix + "scale")[numbers]
            return decode_trellis(rows, scale, int(codec.removeprefix("trellis")), dim)
        rows = self.tensor(prefix + "rows")[numbers].astype(np.float32)
        if codec != "int8":
            return rows
        return rows * self.tensor(prefix + "scale")[numbers].astype(np.float32)[:, None]

    def read_base(self, path: str, plain: dict[str, Any], ids: np.ndarray) -> list[np.ndarray]:
        """Section 5: the code that every row has."""
        if not plain["base_depth"]:
            return []
        return read_fields(self.tensor(f"{path}.base"), ids, stage_bits(plain)[: plain["base_depth"]])

    def read_level(self, path: str, plain: dict[str, Any], number: int, places: np.ndarray) -> list[np.ndarray]:
        """Section 5: the code that the ids of a level have beyond the base."""
        bits = stage_bits(plain)[plain["base_depth"] : plain["levels"][number]["depth"]]
        return read_fields(self.tensor(f"{path}.level{number}_codes"), places, bits)

    def decode_codes(self, path: str, plain: dict[str, Any], codes: list[np.ndarray]) -> np.ndarray:
        """Section 6: Horner in int16, then one product and one sum in float32."""
        frame, codebook = self.tensor(f"{path}.frame"), self.tensor(f"{path}.codebook").astype(np.int16)
        firsts, shifts = np.cumsum([0, *plain["stages"]]), plain["shifts"]
        acc = codebook[firsts[0] + codes[0]]
        for stage in range(1, len(codes)):
            acc = (acc << np.int16(shifts[stage] - shifts[stage - 1])) + codebook[firsts[stage] + codes[stage]]
        unit = np.float32(frame[0] * np.float32(2.0 ** -shifts[len(codes) - 1]))
        return acc.astype(np.float32) * unit + frame[1:]

    def find_places(self, path: str, number: int, level: dict[str, Any], ids: np.ndarray) -> np.ndarray:
        """Section 7: the place of each id in a level, or -1."""
        index, rows = self.tensor(f"{path}.level{number}_index"), self.table(path)["rows"]
        if level["index"] == "bitmap":
            return np.array([find_in_bitmap(index, int(one)) for one in ids], dtype=np.int64)
        return np.array([find_in_keys(index, rows, level, int(one)) for one in ids], dtype=np.int64)

    def decode_hashed(self, path: str, plain: dict[str, Any], ids: np.ndarray) -> np.ndarray:
        """Section 8: hashed tokens, without the centre."""
        hashing, group = plain["hashing"], f"{path}.group."
        h1, h2 = murmur(ids, plain["hash_seed"])
        tokens = self.tensor(group + "tokens")
        picked = [tokens[reduce((h1 + U64(j) * h2) >> U64(32), hashing["rows"])] for j in range(hashing["k"])]
        if hashing["token_codec"] == "int8":
            total = sum(one.astype(np.int32) for one in picked).astype(np.float32) * self.tensor(group + "scale")[0]
        else:
            total = add_in_order(picked)
        if not hashing["k_weights"]:
            return total
        weights = self.tensor(group + "weights").astype(np.float32)
        block = reduce(h1 & U64(0xFFFFFFFF), hashing["blocks"])
        lanes = [(h2 >> U64(4 * j)) & U64(15) for j in range(hashing["k_weights"])]
        return total * add_in_order([weights[16 * block + lane.astype(np.int64)] for lane in lanes])[:, None]


def decode_trellis(rows: np.ndarray, scale: np.ndarray, bits: int, dim: int) -> np.ndarray:
    """Section 4.1: bits of all planes to odd numbers, those to values."""
    found = np.empty((len(rows), dim), np.float32)
    for number, (row, own) in enumerate(zip(rows, scale.tolist(), strict=True)):
        planes = [int.from_bytes(plane.tobytes(), "little") for plane in row.reshape(bits, -1)]
        unit = (8 + own % 8) * 2.0 ** (own // 8 - 25 - 3 * (bits + 1)) if own else 0.0
        for i in range(dim):
            path = [planes[0] >> (i - lag) & 1 if i >= lag else 0 for lag in range(4)]
            j = path[2] + 2 * (path[0] ^ path[1] ^ path[3])
            j += sum((plane >> i & 1) << (p + 1) for p, plane in enumerate(planes) if p)
            c = 2 * j + 1 - 2 ** (bits + 1)
            found[number, i] = np.float32(c * (c * c + 4 ** (bits + 1))) * np.float32(unit)
    return found


NETWORKS = {
    "dlrm": ArtifactFile.dlrm,
    "dlrm-dcn": ArtifactFile.dlrm_dcn,
    "deepfm": ArtifactFile.deepfm,
    "sample-pooled": None,
}
"""What gives logits; "tables" has none (section 10.5)."""


def check_format(plain: dict[str, Any], path: Path) -> None:
    """Section 12: formats 1 and 2, and of format 2 the features that are known."""
    version, requires = plain["format"], plain.get("requires")
    if type(version) is not int or version not in FORMATS or (version == 1) != ("requires" not in plain):
        raise Refused(f"{path}: format {version!r} with {requires!r}")
    if version == 1:
        return
    if not isinstance(requires, list) or not requires or not all(isinstance(name, str) for name in requires):
        raise Refused(f"{path}: requires {requires!r}")
    if requires != sorted(set(requires)):
        raise Refused(f"{path}: requires {requires!r}")
    for name in requires:
        if name not in FEATURES:
            raise Refused(f"{path} requires the feature {name!r}")


def transform_dense(dense: np.ndarray, transform: str) -> np.ndarray:
    """Section 10: what happens to raw dense values first."""
    if transform == "identity":
        return dense
    return np.log1p(dense) if transform == "log1p" else np.log(dense + np.float32(3))


def round_bf16(values: np.ndarray) -> np.ndarray:
    """Section 10.8: to the nearest bf16, ties to even, as float32."""
    bits = values.astype(np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    return (rounded & np.uint32(0xFFFF0000)).view(np.float32)


def is_padding(plain: dict[str, Any], ids: np.ndarray) -> np.ndarray:
    """Section 9: which ids read as nothing; none where the table names no such id, not even -1."""
    return (ids == plain["padding_idx"]) if "padding_idx" in plain else np.zeros(ids.shape, dtype=bool)


def blake(content: bytes) -> str:
    """Section 2: BLAKE2b with 16 bytes."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def stage_bits(plain: dict[str, Any]) -> list[int]:
    """Section 5: bits of a code at each stage."""
    return [size.bit_length() - 1 for size in plain["stages"]]


def read_fields(packed: np.ndarray, entries: np.ndarray, bits: list[int]) -> list[np.ndarray]:
    """Section 5: an entry's fields lie side by side from its lowest bit; one 8-byte load reaches any of them."""
    fields, position = [], entries * sum(bits)
    for width in bits:
        words = [int.from_bytes(packed[p >> 3 : (p >> 3) + 8].tobytes(), "little") >> int(p & 7) for p in position]
        fields.append(np.array([word & ((1 << width) - 1) for word in words], dtype=np.int64))
        position = position + width
    return fields


def find_in_bitmap(index: np.ndarray, one: int) -> int:
    """Section 7.1."""
    line = index[64 * (one // 480) : 64 * (one // 480) + 64].tobytes()
    bits = int.from_bytes(line[4:], "little")
    if not bits >> (one % 480) & 1:
        return -1
    before = bits & ((1 << (one % 480)) - 1)
    return int.from_bytes(line[:4], "little") + bin(before).count("1")


def find_in_keys(index: np.ndarray, rows: int, level: dict[str, Any], one: int) -> int:
    """Section 7.2."""
    key_bits, width = level["key_bits"], max(4, (rows - 1).bit_length())
    buckets = 1 << (width - key_bits)
    groups = buckets // 64 + 1
    keys_start = 4 * groups + 2 * (buckets + 1)
    raw = index.tobytes()

    def start(bucket: int) -> int:
        at, own = 4 * (bucket // 64), 4 * groups + 2 * bucket
        return int.from_bytes(raw[at : at + 4], "little") + int.from_bytes(raw[own : own + 2], "little")

    mixed = mix(one, width)
    for place in range(start(mixed >> key_bits), start((mixed >> key_bits) + 1)):
        (key,) = read_fields(index[keys_start:], np.array([place]), [key_bits])
        if key[0] == mixed & ((1 << key_bits) - 1):
            return place
    return -1


def mix(one: int, width: int) -> int:
    """Section 7.2: the bijection."""
    mask, half = (1 << width) - 1, (width + 1) // 2
    one = one * 0x9E3779B1 & mask
    one ^= one >> half
    one = one * 0x85EBCA6B & mask
    return one ^ one >> half


def murmur(ids: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Section 8: MurmurHash3_x64_128 of 8 bytes."""
    with np.errstate(over="ignore"):
        key = ids.astype(np.int64).view(U64) * U64(0x87C37B91114253D5)
        key = ((key << U64(31)) | (key >> U64(33))) * U64(0x4CF5AD432745937F)
        h1, h2 = key ^ U64(seed) ^ U64(8), np.full(len(ids), seed ^ 8, dtype=U64)
        h1 = h1 + h2
        h2 = h2 + h1
        h1, h2 = finish(h1), finish(h2)
        h1 = h1 + h2
        return h1, h2 + h1


def finish(value: np.ndarray) -> np.ndarray:
    """Section 8: fmix64."""
    value = (value ^ (value >> U64(33))) * U64(0xFF51AFD7ED558CCD)
    value = (value ^ (value >> U64(33))) * U64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> U64(33))


def reduce(hash_32: np.ndarray, size: int) -> np.ndarray:
    """Section 8: 32-bit hashes onto 0..size-1."""
    return ((hash_32 * U64(size)) >> U64(32)).astype(np.int64)


def add_in_order(terms: list[np.ndarray]) -> np.ndarray:
    """Section 8: float32 sums from the first term to the last."""
    total = terms[0].astype(np.float32)
    for term in terms[1:]:
        total = total + term.astype(np.float32)
    return total
