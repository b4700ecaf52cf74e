"""Compressed tables in torchrec's models: what its own collections would give, under all that it is served with."""

from __future__ import annotations

import pytest
import torch
from tiny_networks import make_table, save_network
from torch import Tensor, nn

from memrec_convert.errors import ArtifactError, ModelError
from memrec_convert.lookup import hold_table

torchrec = pytest.importorskip("torchrec", exc_type=ImportError)
pytestmark = [
    pytest.mark.usefixtures("operators"),
    pytest.mark.torchrec,
    pytest.mark.filterwarnings("ignore"),  # torchrec's own, at import and in its modules
]
KeyedJaggedTensor = torchrec.KeyedJaggedTensor
FEATURES = {"t0": ["user"], "t1": ["seen", "bought"], "t2": ["tag", "user"]}
KEYS = ["user", "seen", "bought", "tag"]
DIM = 8


def make_tables(*, bag: bool) -> dict[str, nn.Module]:
    """A compressed table per name, that takes foreign ids."""
    return {name: make_table(number, DIM, bag=bag, mode="sum") for number, name in enumerate(FEATURES)}


def make_configs(tables, kind, **facts) -> list:
    """torchrec's configs of these tables."""
    return [
        kind(name=name, num_embeddings=table.spec.rows, embedding_dim=DIM, feature_names=FEATURES[name], **facts)
        for name, table in tables.items()
    ]


def make_bags(tables, *, weighted=False, pooling="SUM"):
    """A collection of torchrec whose weights are the compressed tables."""
    configs = make_configs(tables, torchrec.EmbeddingBagConfig, pooling=torchrec.PoolingType[pooling])
    made = torchrec.EmbeddingBagCollection(tables=configs, is_weighted=weighted)
    for name, table in tables.items():
        made.embedding_bags[name].weight = hold_table(table, torch.float32)
    return made


def make_features(samples, *, keys=KEYS, seed=0):
    """Up to three ids per feature and sample, each with a weight; the same ids for a key in whatever order."""
    parts = {}
    for number, key in enumerate([*KEYS, "other"]):
        draw = torch.Generator().manual_seed(100 * seed + number)
        lengths = torch.randint(0, 4, (samples,), generator=draw)
        ids = torch.randint(-3, 60, (int(lengths.sum()),), generator=draw)
        parts[key] = (ids, lengths, torch.rand(len(ids), generator=draw))
    ids, lengths, weights = (torch.cat([parts[key][n] for key in keys]) for n in range(3))
    return KeyedJaggedTensor(keys=list(keys), values=ids, lengths=lengths, weights=weights)


class Pooling(nn.Module):
    """A model around a collection of bags."""

    def __init__(self, collection):
        super().__init__()
        self.bags = collection

    def forward(self, features: KeyedJaggedTensor) -> Tensor:
        """Twice what the collection gives."""
        return 2 * self.bags(features).values()


@pytest.mark.parametrize(("weighted", "pooling"), [(False, "SUM"), (True, "SUM"), (False, "MEAN")])
def test_bags_give_what_torchrec_gives(weighted, pooling):
    """The same keys and lengths, and vectors to the bit, of features in any order and with others among them."""
    from memrec_convert.torchrec import MemrecEmbeddingBagCollection

    theirs = make_bags(make_tables(bag=True), weighted=weighted, pooling=pooling)
    ours = MemrecEmbeddingBagCollection.from_float(theirs)
    for samples, keys in ((1, KEYS), (9, KEYS), (9, KEYS[::-1]), (5, ["tag", "other", "bought", "seen", "user"])):
        features = make_features(samples, keys=keys)
        found, expected = ours(features), theirs(features)
        assert found.keys() == expected.keys()
        assert found.length_per_key() == expected.length_per_key()
        assert torch.equal(found.values(), expected.values())
    assert ours.is_weighted() == weighted
    assert ours.embedding_bag_configs() == theirs.embedding_bag_configs()
    assert ours.device == torch.device("cpu")


@pytest.mark.parametrize("need_indices", [True, False])
def test_rows_give_what_torchrec_gives(need_indices):
    """Each feature's rows to the bit, a feature of two tables too, and the ids beside them on request."""
    from memrec_convert.torchrec import MemrecEmbeddingCollection

    tables = make_tables(bag=False)
    theirs = torchrec.EmbeddingCollection(
        tables=make_configs(tables, torchrec.EmbeddingConfig), need_indices=need_indices
    )
    for name, table in tables.items():
        theirs.embeddings[name].weight = hold_table(table, torch.float32)
    ours = MemrecEmbeddingCollection.from_float(theirs)
    scripted = torch.jit.script(ours)
    for samples, keys in ((4, KEYS), (9, KEYS[::-1]), (3, ["tag", "other", "bought", "seen", "user"])):
        features = make_features(samples, keys=keys)
        expected = theirs(features)
        for found in (ours(features), scripted(features)):
            assert found.keys() == expected.keys()
            for name, rows in expected.items():
                assert torch.equal(found[name].values(), rows.values())
                assert torch.equal(found[name].lengths(), rows.lengths())
                if need_indices:
                    assert torch.equal(found[name].weights(), rows.weights())
    assert ours.embedding_configs() == theirs.embedding_configs()
    assert ours.embedding_names_by_table() == [["user@t0"], ["seen", "bought"], ["tag", "user@t2"]]
    assert (ours.embedding_dim(), ours.need_indices()) == (DIM, need_indices)
    assert ours.device == torch.device("cpu")


def test_a_model_is_compiled_exported_and_scripted():
    """In one piece each, for batches of other sizes, and the same to the bit."""
    from memrec_convert.torchrec import MemrecEmbeddingBagCollection

    model = Pooling(MemrecEmbeddingBagCollection.from_float(make_bags(make_tables(bag=True)))).eval()

    class FromTensors(nn.Module):
        """The model, fed with plain tensors."""

        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
            """Vectors of features."""
            return self.model(KeyedJaggedTensor(keys=KEYS, values=ids, lengths=lengths))

    features = make_features(6)
    ids, samples = torch.export.Dim("ids"), torch.export.Dim("samples")
    shapes = ({0: ids}, {0: len(KEYS) * samples})
    with torch.no_grad():
        exported = torch.export.export(FromTensors(), (features.values(), features.lengths()), dynamic_shapes=shapes)
        whole = torch.export.export(model, (features,)).module()
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        scripted = torch.jit.script(model)
        assert torch.equal(whole(features), model(features))
        for count in (6, 9):
            features = make_features(count, seed=count)
            assert torch.equal(compiled(features), model(features))
            assert torch.equal(scripted(features), model(features))
            assert torch.equal(exported.module()(features.values(), features.lengths()), model(features))
    called = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert "memrec.look_up_bags.default" in called


def test_an_artifacts_tables_in_a_model(tmp_path):
    """`swap` and the mapping put them in place; both give the artifact's vectors."""
    from torchrec.inference.modules import quantize_inference_model

    from memrec_convert import load
    from memrec_convert.torchrec import MemrecEmbeddingBagCollection, make_mapping, swap

    path = save_network("dlrm, lower", tmp_path)
    source = load(path).tables
    names = {name: f"table {number}" for number, name in enumerate(FEATURES)}
    configs = [
        torchrec.EmbeddingBagConfig(name=name, num_embeddings=table.spec.rows, embedding_dim=3, feature_names=features)
        for (name, features), table in zip(FEATURES.items(), source, strict=False)
    ]
    features = make_features(7)
    parts = features.to_dict()
    expected = torch.cat(
        [
            source[number](parts[key].values(), parts[key].offsets()[:-1])
            for number, keys in enumerate(FEATURES.values())
            for key in keys
        ],
        dim=1,
    )
    model = Pooling(torchrec.EmbeddingBagCollection(tables=configs)).eval()
    assert swap(model, path, names=names) is model
    assert type(model.bags).__name__ == "MemrecEmbeddingBagCollection"
    assert torch.equal(model(features), 2 * expected)
    alone = swap(torchrec.EmbeddingBagCollection(tables=configs), path, names=names)
    assert isinstance(alone, MemrecEmbeddingBagCollection)
    quantised = quantize_inference_model(
        Pooling(torchrec.EmbeddingBagCollection(tables=configs)).eval(),
        quantization_mapping=make_mapping(path, names=names),
    )
    assert torch.equal(quantised(features), 2 * expected)


def test_what_does_not_fit_is_named(tmp_path):
    """Missing tables, tables of another shape or not compressed, models without collections, weights of means."""
    from memrec_convert.torchrec import MemrecEmbeddingBagCollection, swap

    path = save_network("dlrm, lower", tmp_path)
    rows = {"table 0": 30, "table 3": 33}
    configs = [
        torchrec.EmbeddingBagConfig(name=name, num_embeddings=count + 900, embedding_dim=3)
        for name, count in rows.items()
    ]
    model = Pooling(torchrec.EmbeddingBagCollection(tables=configs))
    bags = model.bags
    with pytest.raises(ModelError, match=r"table 0: found \d+ x 3, expected 930 x 3"):
        swap(model, path)
    with pytest.raises(ModelError, match="has no table 'none'"):
        swap(model, path, names={"table 0": "none"})
    assert model.bags is bags
    with pytest.raises(ModelError, match="no compressed table 't0'"):
        swap(Pooling(make_bags(make_tables(bag=True))), path)
    with pytest.raises(ModelError, match="has no EmbeddingBagCollection"):
        swap(nn.Linear(2, 2), path)
    with pytest.raises(ArtifactError):
        swap(model, tmp_path / "none.safetensors")
    with pytest.raises(ModelError, match="is not compressed"):
        MemrecEmbeddingBagCollection.from_float(bags)
    with pytest.raises(ModelError, match="takes the mean"):
        MemrecEmbeddingBagCollection.from_float(make_bags(make_tables(bag=True), weighted=True, pooling="MEAN"))
