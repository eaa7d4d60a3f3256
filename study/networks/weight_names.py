"""Names of weights as other programs write them: prefixes, old names, and the weights that do not fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from study.errors import UserError

PREFIXES = ("module.", "_orig_mod.", "model.")
"""What torch's parallel wrappers, ``torch.compile`` and training programs put before each name."""
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$")
_QUOTED = 3


def plain_names(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by the names of a backbone, where they have these names behind prefixes that all of them share.

    ``backbone.`` is the prefix of a ``MultiExitNetwork``, whose heads are left out.
    """
    found = {_OLD_DENSENET.sub(r"\1\2", name): tensor for name, tensor in given.items()}
    while not found.keys() & expected.keys():
        prefix = next((one for one in PREFIXES if found and all(name.startswith(one) for name in found)), None)
        own = "backbone."
        if prefix is not None:
            found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
        elif any(name.startswith(own) for name in found):
            found = {name.removeprefix(own): tensor for name, tensor in found.items() if name.startswith(own)}
        else:
            return found
    return found


def refuse_misfit(
    what: str, expected: Mapping[str, Tensor], given: Mapping[str, Tensor], *, may_lack: Callable[[str], bool]
) -> None:
    """Refuse ``given`` tensors, by name, that are not the ``expected`` ones of the network ``what``.

    Raises:
        UserError: a tensor is unexpected, has another shape, or is missing and not one that the network may lack.
    """
    for name, tensor in expected.items():
        if name in given and given[name].shape != tensor.shape:
            raise UserError(f"the weights do not fit the {what}: {other_shape(name, given[name], tensor)}")
    missing = [name for name in expected if name not in given and not may_lack(name)]
    unexpected = [name for name in given if name not in expected]
    if missing and unexpected:
        lacking = f"they lack {_first(missing)}; they hold {', '.join(unexpected[:_QUOTED])}"
        more = f" and {len(unexpected) - _QUOTED} more" if len(unexpected) > _QUOTED else ""
        raise UserError(f"the weights do not fit the {what}: {lacking}{more}")
    for problem, names in (("lack", missing), ("have an unexpected", unexpected)):
        if names:
            raise UserError(f"the weights do not fit the {what}: they {problem} {_first(names)}")


def other_shape(name: str, given: Tensor, expected: Tensor) -> str:
    """What is wrong with the shape of a tensor; of a first layer, which colours would be right."""
    told = f"{name} has shape {list(given.shape)}, this network's is {list(expected.shape)}"
    if given.dim() == expected.dim() == 4 and {given.shape[1], expected.shape[1]} == {1, 3}:
        told += f": the weights are for images of {given.shape[1]} channels, set data.channels to {given.shape[1]}"
    return told


def _first(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
