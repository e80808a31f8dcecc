"""What a class takes by name: its own arguments and those that it passes on."""

from __future__ import annotations

from torch import nn

from backbones.signatures import argument_names, passes_on


class Base:
    def __init__(self, depth: int, *, width: int = 1) -> None: ...


class Passing(Base):
    def __init__(self, extra: int, **kwargs: int) -> None: ...


class Closed(Base):
    def __init__(self, extra: int) -> None: ...


class Elsewhere:
    def __init__(self, kind: str, **kwargs: int) -> None: ...


class Layer(nn.Module):
    def __init__(self, dim: int, **kwargs: int) -> None: ...


def test_arguments_are_followed_up_the_base_classes_as_far_as_they_are_passed_on() -> None:
    assert argument_names(Passing) == {'extra', 'depth', 'width'}
    assert argument_names(Closed) == {'extra'}


def test_only_a_class_that_passes_arguments_on_to_no_base_class_is_open() -> None:
    assert passes_on(Elsewhere)
    assert not passes_on(Passing)
    assert not passes_on(Closed)


def test_arguments_that_end_in_a_base_class_that_drops_them_are_not_passed_on() -> None:
    assert not passes_on(Layer)


def test_a_function_is_taken_as_it_is() -> None:
    assert argument_names(lambda image, *, size: None) == {'image', 'size'}
