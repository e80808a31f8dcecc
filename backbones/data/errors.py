"""What is wrong with data, in a form that can be raised at the first fault or collected."""

from __future__ import annotations

from typing import Any


class DataError(ValueError):
    """A fault of a user's data; its text is "what stands there; what to do".

    Args:
        message: what was found, without a full stop.
        remedy: what to do about it.
        kind: short name of the fault, the same for every place.
        id: of the entry, where it has one.
        field: key, or path such as 'segmentation[0][3]'.
        value: what stands there.
        places: of the entry in its list, counted from 0; all of them for one that is there several times.
    """

    def __init__(
        self, message: str, remedy: str = '', *, kind: str = '', id: Any = None, field: str | None = None,
        value: Any = None, places: tuple[int, ...] = (),
    ) -> None:
        super().__init__(message, remedy)  # both as arguments: the error travels between processes
        self.message, self.remedy = message, remedy
        self.kind, self.id, self.field, self.value, self.places = kind, id, field, value, places

    def __str__(self) -> str:
        return f'{self.message}; {self.remedy}' if self.remedy else self.message
