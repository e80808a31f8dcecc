"""What a backbone does when somebody else loads a whole model: MMEngine, mmdet, plain torch.

MMEngine loads a detector with what fits and only warns about the rest, so a backbone whose names are those of another
code base would stay random. Each backbone therefore looks at what it is given.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from backbones.weights.advice import refusal
from backbones.weights.load import survey


def accept_published(backbone: nn.Module) -> None:
    """Let `load_state_dict()` of the backbone, or of a model around it, take any known layout.

    Names below the backbone's prefix that are not its own are converted where they are of a known layout. If none is
    its own, and the layout is known but does not fit, that is a ValueError. Anything else is left to the caller.
    """
    backbone.register_load_state_dict_pre_hook(_convert)


def _convert(module: nn.Module, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
    """Replace the foreign names below `prefix` by the backbone's own, in place."""
    given = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
    own = module.state_dict()
    if set(given) <= set(own) or set(own) <= set(given):
        return  # its own names, perhaps not all of them: nothing to convert
    try:
        coverage, native, hint = survey(module, 'given to load_state_dict()', given, ())
    except ValueError:
        return  # nothing that we know: the caller tells what is missing
    if not coverage.complete:
        if set(given).isdisjoint(own):
            raise ValueError(refusal(coverage, native, hint))
        return
    for name in given:
        del state[prefix + name]
    state.update({prefix + name: native.get(name, own[name]) for name in own})
