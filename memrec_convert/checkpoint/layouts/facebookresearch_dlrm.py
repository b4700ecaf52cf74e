"""facebookresearch/dlrm (`dlrm_s_pytorch.py --save-model`): emb_l.N, bot_l.0, .2, ..., top_l.0, .2, ..."""

from __future__ import annotations

import re

from memrec_convert.checkpoint.layouts.interaction import CAT, DOT, DOT_ITSELF
from memrec_convert.checkpoint.layouts.layout import KIND, NUMBER, Layout, TableForm, Unsupported
from memrec_convert.checkpoint.source import PLAIN

_TABLE = r"emb_l\.(?:module\.)?(?P<table>0|[1-9][0-9]{0,5})\."

FACEBOOKRESEARCH_DLRM = Layout(
    name="facebookresearch-dlrm",
    tables=(
        TableForm(PLAIN, re.compile(_TABLE + "weight")),
        TableForm(
            "quotient-remainder",
            re.compile(_TABLE + "(?P<tail>weight_q)"),
            parts=("weight_r",),
            refusal="stored in quotient-remainder form (weight_q, weight_r)",
        ),
        TableForm(
            "mixed-dimension",
            re.compile(_TABLE + r"(?P<tail>embs\.weight)"),
            parts=("proj.weight",),
            refusal="stored in mixed dimensions (embs, proj)",
        ),
    ),
    table_prefix="emb_l.",
    bottom=(re.compile(rf"bot_l\.(?:module\.)?{NUMBER}\.{KIND}"),),
    top=(re.compile(rf"top_l\.(?:module\.)?{NUMBER}\.{KIND}"),),
    layer_step=2,
    numbered=True,
    interactions=(DOT, DOT_ITSELF, CAT),
    pairs="lower",
    assumed=(
        "pairs in the order of the lower triangle, as facebookresearch/dlrm takes them",
        "ReLU after every layer but the last",
        "bags are summed",
        "dense features enter as log(1 + x)",
    ),
    unsupported=(
        Unsupported(re.compile(r"v_W_l\.(?:module\.)?[0-9]{1,6}"), "learned weights per row (weighted pooling)"),
    ),
)
