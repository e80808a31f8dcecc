"""Compiled in training, the dense parts compute the same, once per size, with nothing compiled twice."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.compilers import nop

from backbones.compiling import regions
from backbones.compiling.regions import Region, compile_for_training
from backbones.convnext import ConvNeXt

SIZES = [(32, 64), (64, 32), (32, 32)]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """What other tests have compiled does not count."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Segmenter(nn.Module):
    """A backbone, a neck of plain layers, a head that is called as mmseg does."""

    def __init__(self, backbone: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = Toy() if backbone is None else backbone
        self.neck = Levels()
        self.decode_head = nn.Sequential(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4))

    def forward(self, images: Tensor) -> Tensor:
        """One number."""
        maps = self.neck(self.backbone(images))
        found = [self.decode_head.forward(each) for each in maps]
        return sum((each - torch.linspace(-1, 1, each.shape[-1])).abs().mean() for each in found)


class Toy(nn.Module):
    """Two maps, by a depthwise convolution and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8)
        self.down = nn.Conv2d(8, 8, 3, 2, 1, groups=8)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images to maps of strides 4 and 8."""
        x = self.norm0(self.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x, self.down(nn.functional.gelu(x))


class Levels(nn.Module):
    """A 1 x 1 convolution for each map."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(2))

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Map each."""
        return tuple(layer(each) for layer, each in zip(self.layers, maps, strict=True))


def images(size: tuple[int, int], count: int = 2) -> Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(sum(size)))


def gradients(model: nn.Module, batch: Tensor) -> list[Tensor]:
    """Of the fp32 parameters."""
    model.zero_grad()
    model(batch).backward()
    return [value.grad.clone() for value in model.parameters() if value.grad is not None]


def total(found: list[Region], name: str) -> int:
    return sum(getattr(region.counts, name) for region in found)


# --- the same numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('backend', ['eager', 'aot_eager'])
def test_losses_and_gradients_are_those_of_the_plain_model(backend: str) -> None:
    plain = Segmenter()
    model = copy.deepcopy(plain)
    compile_for_training(model, backend=backend)
    batch = images(SIZES[0])
    for one, other in zip(gradients(model, batch), gradients(plain, batch), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_names_of_parameters_stay() -> None:
    model = Segmenter()
    before = list(model.state_dict())
    compile_for_training(model, backend='eager')
    assert list(model.state_dict()) == before


# --- nothing twice ------------------------------------------------------------------------------------------


def test_many_iterations_of_few_sizes_break_no_graph_and_make_none_twice() -> None:
    shape = dict(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8))
    backbone = ConvNeXt(shape, layer_scale_init_value=1.0, drop_path_rate=0.5, out_indices=(0, 1))
    model, chosen = Segmenter(backbone), random.Random(0)
    found = compile_for_training(model, backend='eager')
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(30):
        gradients(model, images(chosen.choice(SIZES)))
        optimizer.step()
        if step % 10 == 5:  # a validation in between
            with torch.no_grad():
                model.eval()(images((64, 64)))
            model.train()
    assert (total(found, 'graph_breaks'), total(found, 'recompiles'), total(found, 'uncompiled')) == (0, 0, 0)
    assert [region.counts.sizes for region in found][:2] == [3, 3]
    assert found[2].counts.sizes <= 6  # the head gets each of the two maps


def test_more_sizes_than_allowed_run_uncompiled_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(regions, 'print_log', lambda text, **_: said.append(text))
    plain = Segmenter()
    model = copy.deepcopy(plain)
    found = compile_for_training(model, most=4, backend='eager')
    for size in [*SIZES, SIZES[0], SIZES[2]]:  # of two maps each
        assert torch.allclose(model(images(size)), plain(images(size)))
    backbone, _, head = found
    assert (backbone.counts.sizes, backbone.counts.uncompiled) == (3, 0)
    assert (head.counts.sizes, head.counts.uncompiled) == (4, 2 + 2)
    (text,) = said
    assert 'decode_head has been compiled for 4 sizes of its input' in text and 'data_preprocessor.buckets' in text
    assert total(found, 'recompiles') == 0


def test_a_graph_made_twice_is_counted() -> None:
    model = Segmenter()
    backbone, *_ = compile_for_training(model, backend='eager')
    gradients(model, images(SIZES[0]))
    model.backbone.requires_grad_(False)  # what a graph was made for no longer holds
    model(images(SIZES[0]))
    assert backbone.counts.recompiles == 1


def test_a_graph_that_breaks_is_counted() -> None:
    class Breaking(nn.Module):
        def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            torch._dynamo.graph_break()
            return tuple(each * 2 for each in maps)

    model = Segmenter()
    model.neck = Breaking()
    _, neck, _ = compile_for_training(model, backend='eager')
    gradients(model, images(SIZES[0]))
    assert neck.counts.graph_breaks == 1


def broken(graph: object, inputs: object) -> None:
    """A compiler."""
    raise RuntimeError('no compiler here')


@pytest.mark.parametrize(
    'backend', [broken, aot_autograd(fw_compiler=nop, bw_compiler=broken)], ids=['all', 'backward'])
def test_a_part_that_cannot_be_compiled_runs_as_it_is(monkeypatch: pytest.MonkeyPatch, backend: Callable) -> None:
    said: list[str] = []
    monkeypatch.setattr(regions, 'print_log', lambda text, **_: said.append(text))
    plain = Segmenter()
    model = copy.deepcopy(plain)
    found = compile_for_training(model, backend=backend)
    for _ in range(2):
        pairs = zip(gradients(model, images(SIZES[0])), gradients(plain, images(SIZES[0])), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
    assert len(said) == 3 and 'backbone cannot be compiled and runs as it is' in said[0] and 'no compiler' in said[0]
    assert found[0].counts.uncompiled == 2


# --- together with other parts ------------------------------------------------------------------------------


def test_evaluation_and_passes_without_gradients_are_not_compiled() -> None:
    model = Segmenter()
    found = compile_for_training(model, backend='eager')
    with torch.no_grad():
        model(images(SIZES[0]))
    model.eval()(images(SIZES[0]))
    assert total(found, 'sizes') == 0


def test_a_copy_of_a_compiled_model_calls_itself_and_is_not_compiled() -> None:
    model = Segmenter()
    found = compile_for_training(model, backend='eager')
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.backbone.norm0.weight.zero_()
        other.backbone.norm0.bias.fill_(3)
    assert not torch.allclose(other(images(SIZES[0])), model(images(SIZES[0])))
    assert [region.counts.sizes for region in found] == [1, 1, 2]


def test_a_restored_model_is_as_it_was() -> None:
    model = Segmenter()
    model.decode_head.forward = kept = (lambda plain: lambda x: plain(x).float())(model.decode_head.forward)
    for region in compile_for_training(model, backend='eager'):
        region.restore()
    assert 'forward' not in vars(model.backbone) and model.decode_head.forward is kept


@pytest.mark.parametrize('backend', ['eager', 'aot_eager'])
def test_low_precision_copies_beside_the_parameters_need_one_graph_per_size(backend: str) -> None:
    model = Segmenter()
    copies = []
    for module in model.modules():
        if not isinstance(module, nn.BatchNorm2d):
            for name, value in module._parameters.items():
                if value is not None:
                    module.__dict__[name] = low = value.to(torch.bfloat16, copy=True)  # autograd knows the cast
                    copies.append((low.detach(), value))
    plain = model.decode_head.forward
    model.decode_head.forward = lambda x: plain(x).float()
    expected = {size: gradients(model, images(size).bfloat16()) for size in SIZES[:2]}
    found = compile_for_training(model, backend=backend)
    for step in range(6):
        size = SIZES[step % 2]
        found_here = gradients(model, images(size).bfloat16())
        assert {value.dtype for value in found_here} == {torch.float32}
        one, other = (torch.cat([value.flatten() for value in values]) for values in (found_here, expected[size]))
        assert (one - other).norm() < 0.05 * other.norm()
        with torch.no_grad():  # once per step, as after an optimiser's
            for low, value in copies:
                low.copy_(value)
    assert (total(found, 'graph_breaks'), total(found, 'recompiles'), total(found, 'uncompiled')) == (0, 0, 0)


# --- mistakes -----------------------------------------------------------------------------------------------


def test_a_model_without_such_parts_and_a_second_time_are_refused() -> None:
    with pytest.raises(ValueError, match='Linear has no part to compile for training; one of backbone, neck'):
        compile_for_training(nn.Linear(1, 1))
    with pytest.raises(ValueError, match='most=0; give the number of sizes'):
        compile_for_training(Segmenter(), most=0)
    model = Segmenter()
    compile_for_training(model, backend='eager')
    with pytest.raises(ValueError, match='backbone of this Segmenter is compiled already'):
        compile_for_training(model, backend='eager')
