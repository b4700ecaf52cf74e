"""Match a torch optimizer's state to the tables: Adagrad's accumulators tell how much each row was trained."""

from __future__ import annotations

from memrec_convert.checkpoint.state_dict import StateDict
from memrec_convert.checkpoint.tensor_ref import FLOATING, StoredTensor

_OPTIMIZER_KEYS = ("opt_state_dict", "optimizer", "optimizer_state_dict")
_ACCUMULATORS = (("sum", "adagrad"), ("momentum", "rowwise-adagrad"))


def find_optimizer(root: object, state: StateDict) -> tuple[str | None, dict[str, StoredTensor], list[str]]:
    """The optimizer's name, each parameter's accumulator by parameter name, and warnings.

    State i belongs to parameter i in the order of the state dict (torch.optim numbers parameters so). The kind is that
    of the first parameter, a table in all layouts: MLPs have a full `sum` beside row-wise tables.
    """
    states = _find_states(root)
    parameters = [(name, value) for name, value in state.items() if isinstance(value, StoredTensor)]
    if not states:
        return None, {}, []
    kind: str | None = None
    found: dict[str, StoredTensor] = {}
    for place, (name, parameter) in enumerate(parameters):
        entry = states.get(place)
        own = entry if isinstance(entry, dict) else {}
        for key, optimizer in _ACCUMULATORS:
            accumulator = own.get(key)
            if isinstance(accumulator, StoredTensor) and accumulator.dtype in FLOATING:
                if accumulator.shape not in (parameter.shape, parameter.shape[:1]):
                    return None, {}, ["the optimizer state does not fit the parameters' shapes and is not used"]
                kind, found[name] = kind or optimizer, accumulator
                break
    return kind, found, []


def _find_states(root: object) -> dict[object, object]:
    """The `state` of the first torch optimizer's state dict in a file; empty where there is none."""
    if not isinstance(root, dict):
        return {}
    for key in _OPTIMIZER_KEYS:
        stored = root.get(key)
        if isinstance(stored, dict) and isinstance(stored.get("state"), dict):
            states: dict[object, object] = stored["state"]
            return states
    return {}
