"""Places where a write can be made to fail on purpose.

Whoever writes files calls `reach` before each step that a kill or an error could come before. Nothing happens unless
somebody listens: `backbones.training.inject` does for `--inject`, tests do to look at the folder in every gap.
"""

from __future__ import annotations

from collections.abc import Callable

Listener = Callable[[str, float, str], None]
_listeners: list[Listener] = []


def listen(listener: Listener) -> Callable[[], None]:
    """Call `listener(place, fraction, step)` at every step from now on; returns what ends that."""
    _listeners.append(listener)
    return lambda: _listeners.remove(listener)


def listening() -> bool:
    """Whether anybody listens; writers then take smaller chunks, so that a fraction is met closely."""
    return bool(_listeners)


def reach(place: str, fraction: float, step: str) -> None:
    """Tell the listeners that `step` of `place` comes next.

    Args:
        place: 'save', 'last', 'best', 'export', 'rotate' or 'unpack'.
        fraction: share of the bytes of this place that lie on the disk already, 0 to 1.
        step: what comes next: 'write', 'fsync', 'rename', ...
    """
    for listener in tuple(_listeners):
        listener(place, fraction, step)
