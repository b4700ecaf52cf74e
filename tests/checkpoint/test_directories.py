"""Checkpoints that are directories: read whole, and what is missing or forged in them is named."""

from __future__ import annotations

import io
import json
import pickle

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch.distributed import checkpoint as dcp

from memrec_convert.checkpoint import read_source, verify_storage
from memrec_convert.checkpoint.inspect import inspect
from memrec_convert.errors import CheckpointError, IncompleteCheckpointError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def check_same(path, state, prefix="emb_l"):
    """The tables at a path are those of the state dict, and its bytes are sound."""
    source = read_source(path)
    for number, table in enumerate(source.tables):
        np.testing.assert_array_equal(table.weight.read(), state[f"{prefix}.{number}.weight"].numpy())
    verify_storage(source)
    return source


@pytest.fixture
def distributed(dlrm_state, tmp_path):
    """A directory of torch.distributed.checkpoint, and the state dict in it."""
    state = dlrm_state()
    dcp.save({"model": state, "epoch": 3}, checkpoint_id=tmp_path / "dcp", no_dist=True)
    return tmp_path / "dcp", state


def test_a_distributed_checkpoint_is_read(distributed):
    """torch.distributed.checkpoint's own writer, read without it; values that are no tensors are left."""
    path, state = distributed
    source = check_same(path, state)
    assert source.container == "torch.distributed.checkpoint"
    assert {file.name for file in source.files} == {".metadata", "__0_0.distcp"}
    assert inspect(path).file_bytes == sum(file.stat().st_size for file in path.iterdir())


def test_a_damaged_distributed_checkpoint_is_named(distributed):
    """A flipped byte, a truncated file and a missing one have their own sentences."""
    path, state = distributed
    data = path / "__0_0.distcp"
    content = data.read_bytes()
    needle = state["emb_l.0.weight"].numpy().tobytes()
    place = content.index(needle) + 5
    data.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(CheckpointError, match="CRC-32"):
        verify_storage(read_source(path))
    data.write_bytes(content[: len(content) // 2])
    with pytest.raises(IncompleteCheckpointError, match="it is truncated"):
        read_source(path)
    data.unlink()
    with pytest.raises(IncompleteCheckpointError, match=r"__0_0\.distcp is missing"):
        read_source(path)


@pytest.mark.parametrize(
    ("relative_path", "sentence"),
    [("../../secret", "outside of its directory"), ("/etc/hostname", "outside"), ("absent", "absent is missing")],
)
def test_a_forged_place_is_refused(distributed, relative_path, sentence):
    """Metadata that points out of the directory is not followed."""
    path, _ = distributed
    metadata = (path / ".metadata").read_bytes()
    name, other, forged = b"__0_0.distcp", relative_path.encode(), metadata
    for opcode, length_bytes in ((b"X", 4), (b"\x8c", 1)):  # text as protocol 2 and as protocol 4 writes it
        old, new = (opcode + len(text).to_bytes(length_bytes, "little") + text for text in (name, other))
        forged = forged.replace(old, new)
    assert forged != metadata
    (path / ".metadata").write_bytes(_unframed(forged))
    with pytest.raises(CheckpointError, match=sentence):
        read_source(path)


def _unframed(content: bytes) -> bytes:
    """A protocol 4 pickle without its frames, whose lengths a forgery would have to mend."""
    out, position = io.BytesIO(), 0
    while position < len(content):
        if content[position : position + 1] == b"\x95" and position == 2:
            position += 9
        else:
            out.write(content[position : position + 1])
            position += 1
    return out.getvalue()


@pytest.fixture
def snapshot(dlrm_state, tmp_path):
    """A torchsnapshot directory of two ranks: one table cut by rows, one by columns, the rest in one batch."""
    state = dlrm_state(rows=(8, 6, 3))
    folder = tmp_path / "snapshot"
    (folder / "sharded").mkdir(parents=True)
    manifest, batch = {"0/model": {"type": "OrderedDict", "keys": list(state)}}, b""

    def blob(name, values, byte_range=None):
        return {
            "type": "Tensor",
            "location": name,
            "serializer": "buffer_protocol",
            "dtype": "torch.float32",
            "shape": list(values.shape),
            "replicated": False,
            "byte_range": byte_range,
        }

    def shard(rank, key, place, values):
        name = f"sharded/{key}_{place[0]}_{place[1]}"
        (folder / name).write_bytes(values.contiguous().numpy().tobytes())
        entry = manifest.setdefault(f"{rank}/model/{key}", {"type": "ShardedTensor", "shards": []})
        entry["shards"].append({"offsets": list(place), "sizes": list(values.shape), "tensor": blob(name, values)})

    for key, value in state.items():
        if key == "emb_l.0.weight":
            shard(0, key, (0, 0), value[:5])
            shard(1, key, (5, 0), value[5:])
        elif key == "emb_l.1.weight":
            shard(0, key, (0, 0), value[:, :3])
            shard(1, key, (0, 3), value[:, 3:])
        else:
            manifest[f"0/model/{key}"] = blob("batched", value, [len(batch), len(batch) + 4 * value.numel()])
            batch += value.numpy().tobytes()
    (folder / "batched").write_bytes(batch)
    return folder, state, {"version": "0.1.0", "world_size": 2, "manifest": manifest}


@pytest.mark.parametrize("dump", [json.dumps, yaml.safe_dump])
def test_a_snapshot_is_read(snapshot, dump):
    """Shards of both ranks and tensors in a batch, from JSON or YAML."""
    folder, state, metadata = snapshot
    (folder / ".snapshot_metadata").write_text(dump(metadata))
    source = check_same(folder, state)
    assert source.container == "torchsnapshot"
    assert [table.name for table in source.tables] == ["emb_l.0", "emb_l.1", "emb_l.2"]


def test_a_damaged_snapshot_is_named(snapshot):
    """Missing shards, forged places, truncated blobs and unreadable manifests have their own sentences."""
    folder, _, metadata = snapshot

    def refused(change, sentence):
        (folder / ".snapshot_metadata").write_text(change if isinstance(change, str) else json.dumps(change))
        with pytest.raises(CheckpointError, match=sentence):
            read_source(folder)

    refused("{", "neither JSON nor YAML")
    refused("[1]", "no manifest")
    manifest = metadata["manifest"]
    rank = {name: entry for name, entry in manifest.items() if name != "0/model/emb_l.0.weight"}
    refused(metadata | {"manifest": rank}, "leave a gap at row 0")
    forged = manifest | {"0/model/emb_l.2.weight": manifest["0/model/emb_l.2.weight"] | {"location": "../x"}}
    refused(metadata | {"manifest": forged}, "outside of its directory")
    short = manifest | {"0/model/emb_l.2.weight": manifest["0/model/emb_l.2.weight"] | {"byte_range": [0, 4]}}
    refused(metadata | {"manifest": short}, "truncated or damaged")
    (folder / "batched").write_bytes(b"")
    refused(metadata, "truncated or damaged")


def save_nvidia(folder, order=(0, 1, 2), padding=None, **config):
    """A directory as NVIDIA's DLRM saves it, and its tables."""
    torch.manual_seed(1)
    folder.mkdir()
    rows, dim = (7, 5, 3), 8
    used = dim + 6
    width = -(-used // 8) * 8 if padding is None else used + padding
    tables = [torch.randn(count, dim) for count in rows]
    for number, table in enumerate(tables):
        (folder / f"bottom_model.embeddings.{number}.bin").write_bytes(table.numpy().tobytes())
        torch.save({"shape": table.shape}, folder / f"embeddings.{number}.meta.pt")
    torch.save({"weights": [torch.randn(dim, 4)], "biases": [torch.randn(dim)]}, folder / "bottom_model.mlp.pt")
    torch.save({"weights": [torch.randn(5, width)], "biases": [torch.randn(5)]}, folder / "top_model.mlp.pt")
    torch.save({"weight": torch.randn(1, 5), "bias": torch.randn(1)}, folder / "top_model.out.pt")
    data = {"device_mapping": {"bottom_mlp": 0, "embedding": [list(order[:2]), list(order[2:])]}, "epoch": 0}
    torch.save({"data": data, "config": {"interaction_op": "dot"} | config}, folder / "metadata.pt")
    return tables


def test_an_nvidia_directory_is_read_in_the_order_of_its_device_mapping(tmp_path):
    """Tables come in the mapping's order, while the log's features keep the files' numbers."""
    tables = save_nvidia(tmp_path / "joint", order=(2, 0, 1), hash_indices=True)
    source = read_source(tmp_path / "joint")
    assert [table.name for table in source.tables] == ["embeddings.2", "embeddings.0", "embeddings.1"]
    assert source.architecture["table_inputs"] == [2, 0, 1]
    assert source.architecture["padding"] == 2
    np.testing.assert_array_equal(source.tables[0].weight.read(), tables[2].numpy())
    assert "modulo" in source.warnings[0]
    verify_storage(source)


def test_a_damaged_nvidia_directory_is_named(tmp_path):
    """Missing tables, truncated tables and other widths have their own sentences."""
    folder = tmp_path / "joint"
    save_nvidia(folder)
    table = folder / "bottom_model.embeddings.1.bin"
    content = table.read_bytes()
    table.write_bytes(content[:-4])
    with pytest.raises(IncompleteCheckpointError, match="truncated"):
        read_source(folder)
    table.write_bytes(content[: len(content) // 2])  # as long as half precision would be
    assert read_source(folder).tables[1].dtype == "float16"
    table.unlink()
    with pytest.raises(IncompleteCheckpointError, match=r"embeddings\.1\.bin is missing"):
        read_source(folder)
    save_nvidia(tmp_path / "wide", padding=7)
    with pytest.raises(IncompleteCheckpointError, match="16 wide, but the top MLP's input is 21"):
        read_source(tmp_path / "wide")
    save_nvidia(tmp_path / "twice", order=(0, 1, 1))
    with pytest.raises(CheckpointError, match="does not name each table once"):
        read_source(tmp_path / "twice")


def test_sharded_safetensors_are_read_through_their_index(dlrm_state, tmp_path):
    """The directory, or its index, gives the tensors of all files; a file alone names the directory."""
    state = dlrm_state()
    names, places = list(state), {}
    for number, part in enumerate((names[:4], names[4:]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: state[name] for name in part}, tmp_path / file)
        places |= dict.fromkeys(part, file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert check_same(tmp_path, state).container == check_same(index, state).container == "sharded safetensors"
    with pytest.raises(CheckpointError, match="a part of a checkpoint in shards"):
        read_source(tmp_path / "model-00001-of-00002.safetensors")
    index.write_text(json.dumps({"weight_map": places | {"emb_l.9.weight": file}}))
    with pytest.raises(IncompleteCheckpointError, match=r"does not hold emb_l\.9\.weight"):
        read_source(tmp_path)
    index.write_text(json.dumps({"weight_map": places | {"emb_l.9.weight": "../x"}}))
    with pytest.raises(CheckpointError, match="outside of its directory"):
        read_source(tmp_path)
    index.write_text("{}")
    with pytest.raises(CheckpointError, match="no weight_map"):
        read_source(tmp_path)


def test_rank_files_without_shards_are_the_first_ranks(dlrm_state, tmp_path):
    """Replicated files of several ranks are one model, given as a directory or with commas."""
    state = dlrm_state()
    for rank in (0, 1, 10):
        torch.save({"state_dict": state}, tmp_path / f"model_rank{rank}.pt")
    source = check_same(tmp_path, state)
    assert [file.name for file in source.files] == ["model_rank0.pt", "model_rank1.pt", "model_rank10.pt"]
    pair = f"{tmp_path / 'model_rank0.pt'},{tmp_path / 'model_rank1.pt'}"
    assert len(check_same(pair, state).files) == 2
    (tmp_path / "model_rank1.pt").write_bytes(pickle.dumps({}))
    with pytest.raises(CheckpointError, match=r"not a file of torch\.save"):
        read_source(tmp_path)


@pytest.mark.parametrize("fortran", [False, True])
def test_arrays_of_an_npz_are_tables(tmp_path, fortran):
    """Every matrix of floats is one, whatever its name and order in memory; it is listed, not converted."""
    users = np.arange(12, dtype=np.float64).reshape(4, 3)
    stored = np.asfortranarray(users) if fortran else users
    np.savez(tmp_path / "t.npz", users=stored, items=np.ones((5, 2), np.float16), epoch=np.array(3))
    source = read_source(tmp_path / "t.npz", for_conversion=False)
    assert [(table.name, table.rows, table.dim) for table in source.tables] == [("users", 4, 3), ("items", 5, 2)]
    np.testing.assert_array_equal(source.tables[0].weight.read_rows(1, 3), users[1:3])
    verify_storage(source)
    with pytest.raises(CheckpointError, match="how its network reads these tables"):
        read_source(tmp_path / "t.npz")


def test_an_npz_that_holds_objects_or_is_compressed_is_never_unpickled(tmp_path):
    """Arrays of objects stay unread; a compressed archive says what to do; a click log is sent where it belongs."""
    objects = np.array([[{"a": 1}]], dtype=object)
    np.savez(tmp_path / "o.npz", objects=objects, table=np.ones((3, 2), np.float32), allow_pickle=True)
    tables = inspect(tmp_path / "o.npz").tables
    assert [table["name"] for table in tables] == ["table"]
    np.savez_compressed(tmp_path / "c.npz", table=np.ones((3, 2)))
    with pytest.raises(CheckpointError, match=r"np\.savez_compressed"):
        read_source(tmp_path / "c.npz")
    np.savez(tmp_path / "log.npz", X_int=np.ones((3, 2)), X_cat=np.ones((3, 2)), y=np.ones(3))
    with pytest.raises(CheckpointError, match="click log"):
        read_source(tmp_path / "log.npz")


def test_a_damaged_array_of_an_npz_is_not_passed_over(tmp_path):
    """A header that names another type does not hide its array: the archive's checksum is asked first."""
    np.savez(tmp_path / "t.npz", table=np.ones((3, 2), np.float32), bias=np.ones(3, np.float32))
    content = (tmp_path / "t.npz").read_bytes()
    place = content.rindex(b"<f4")
    (tmp_path / "t.npz").write_bytes(content[:place] + b">" + content[place + 1 :])
    with pytest.raises(CheckpointError, match=r"bias\.npy: the bytes do not match the archive's checksum"):
        inspect(tmp_path / "t.npz")


def test_a_state_dict_in_an_npz_is_its_model(dlrm_state, tmp_path):
    """Names of a known framework are read as that framework's."""
    state = dlrm_state()
    np.savez(tmp_path / "m.npz", **{name: value.numpy() for name, value in state.items()})
    assert check_same(tmp_path / "m.npz", state).layout == "facebookresearch-dlrm"


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_directory_of_hugging_face_is_its_file(dlrm_state, tmp_path, name):
    """config.json and whatever else lies beside the one file of weights."""
    state = dlrm_state()
    (tmp_path / "config.json").write_text("{}")
    if name.endswith(".bin"):
        torch.save(state, tmp_path / name)
    else:
        save_file(state, tmp_path / name)
    assert check_same(tmp_path, state).files == (tmp_path / name,)


def test_sharded_bin_is_read_through_its_index(dlrm_state, tmp_path):
    """Files of torch.save, placed by pytorch_model.bin.index.json; a file alone names the directory."""
    state = dlrm_state()
    names, places = list(state), {}
    for number, part in enumerate((names[:4], names[4:]), start=1):
        file = f"pytorch_model-0000{number}-of-00002.bin"
        torch.save({name: state[name] for name in part}, tmp_path / file)
        places |= dict.fromkeys(part, file)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert check_same(tmp_path, state).container == check_same(index, state).container == "sharded .bin"
    with pytest.raises(CheckpointError, match="a part of a checkpoint in shards"):
        read_source(tmp_path / "pytorch_model-00001-of-00002.bin")
    content = bytearray((tmp_path / file).read_bytes())
    content[content.index(state[names[-2]].numpy().tobytes())] ^= 1
    (tmp_path / file).write_bytes(content)
    with pytest.raises(CheckpointError, match="checksum"):
        verify_storage(read_source(tmp_path))


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_npy_is_one_table(tmp_path, order):
    """The table bears the file's name."""
    rows = np.asarray(np.random.default_rng(0).normal(size=(30, 4)), dtype=np.float32, order=order)
    np.save(tmp_path / "item_factors.npy", rows)
    (table,) = read_source(tmp_path / "item_factors.npy", tables_only=True).tables
    assert table.name == "item_factors"
    np.testing.assert_array_equal(table.weight.read(), rows)


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.ones(5), r"a numpy array \[5\] float64; a table has"),
        (np.ones((5, 2), dtype=np.int64), r"\[5, 2\] int64"),
        (np.array([{"a": 1}], dtype=object), r"array of \|O \(pickled objects\); a table"),
    ],
)
def test_an_npy_that_is_no_table_is_named(tmp_path, array, sentence):
    """Vectors, integers and pickled objects."""
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(CheckpointError, match=sentence):
        read_source(tmp_path / "a.npy", tables_only=True)


def test_an_exported_program_says_how_to_save_its_state(tmp_path):
    """.pt2 is a graph; the sentence has the line to write."""
    module = torch.nn.Linear(3, 2)
    torch.export.save(torch.export.export(module, (torch.ones(1, 3),)), tmp_path / "m.pt2")
    with pytest.raises(CheckpointError, match=r"torch\.export\.load\(FILE\)\.state_dict"):
        read_source(tmp_path / "m.pt2")
