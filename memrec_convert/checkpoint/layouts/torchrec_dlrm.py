"""torchrec's `models.dlrm.DLRM`: sparse_arch, dense_arch and over_arch; tables by name, in the order of the keys."""

from __future__ import annotations

import re

from memrec_convert.checkpoint.layouts.interaction import DOT
from memrec_convert.checkpoint.layouts.layout import KIND, NUMBER, Layout, TableForm, Unsupported
from memrec_convert.checkpoint.source import PLAIN

TORCHREC_DLRM = Layout(
    name="torchrec-dlrm",
    tables=(
        TableForm(
            PLAIN,
            re.compile(r"sparse_arch\.embedding_bag_collection\.embedding_bags\.(?P<table>.+)\.weight"),
        ),
    ),
    bottom=(re.compile(rf"dense_arch\.model\._mlp\.{NUMBER}\._linear\.{KIND}"),),
    top=(
        re.compile(rf"over_arch\.model\.0\._mlp\.{NUMBER}\._linear\.{KIND}"),
        re.compile(rf"over_arch\.model\.1\.{KIND}"),
    ),
    layer_step=1,
    numbered=False,
    interactions=(DOT,),
    pairs="upper",
    assumed=(
        "pairs in the order of the upper triangle, as torchrec takes them",
        "ReLU after every layer but the last",
        "one feature per table, in the order of the tables, and bags are summed",
        "dense features enter as log(1 + x)",
    ),
    unsupported=(
        Unsupported(re.compile(r"inter_arch\.crossnet\..+"), "the low-rank cross layers of a DLRM_DCN"),
        Unsupported(re.compile(r"inter_arch\.interaction\..+"), "the learned interaction of a DLRM_Projection"),
    ),
)
