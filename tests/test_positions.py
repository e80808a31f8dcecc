"""Position tables: what resizing must keep, and the published formulas written out naively."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from backbones import positions


def table(length: int, width: int = 8) -> torch.Tensor:
    """Make a random table (1, length, width), the same one each time."""
    return torch.randn(1, length, width, generator=torch.Generator().manual_seed(0))


# Absolute


@pytest.mark.parametrize('rule', positions.INTERPOLATIONS)
def test_an_equal_grid_returns_the_very_same_absolute_table(rule):
    values = table(1 + 12)
    assert positions.resize_absolute(values, (3, 4), (3, 4), rule) is values


@pytest.mark.parametrize('rule', positions.INTERPOLATIONS)
@pytest.mark.parametrize('grid', [(7, 2), (2, 9), (1, 1), (33, 20)])
def test_an_absolute_table_takes_any_grid_and_keeps_the_prefix_row(rule, grid):
    values = table(1 + 16)
    resized = positions.resize_absolute(values, (4, 4), grid, rule)
    assert resized.shape == (1, 1 + grid[0] * grid[1], 8)
    assert torch.equal(resized[:, 0], values[:, 0])


def test_rows_and_columns_of_an_absolute_table_are_not_swapped():
    by_row = torch.arange(4.0).repeat_interleave(4).reshape(1, 16, 1)
    resized = positions.resize_absolute(by_row, (4, 4), (4, 8), num_prefix=0).reshape(4, 8)
    assert torch.allclose(resized, torch.arange(4.0)[:, None].expand(4, 8), atol=1e-5)


def test_the_rules_differ_from_each_other_also_where_the_grid_grows():
    resized = [
        positions.resize_absolute(table(17), (4, 4), (6, 5), rule) for rule in positions.INTERPOLATIONS
    ]
    for i, one in enumerate(resized):
        assert all((one - other).abs().max() > 1e-3 for other in resized[:i])


def test_the_rule_of_dino_samples_as_if_the_grid_were_a_tenth_of_a_patch_larger():
    resized = positions.resize_absolute(table(16), (4, 4), (6, 5), 'bicubic_offset', num_prefix=0)
    grid = table(16).reshape(1, 4, 4, 8).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, scale_factor=(6.1 / 4, 5.1 / 4), mode='bicubic')
    torch.testing.assert_close(resized, expected.flatten(2).transpose(1, 2))


def test_a_half_precision_table_is_resized_in_float32():
    values = table(17).half()
    resized = positions.resize_absolute(values, (4, 4), (6, 6))
    assert resized.dtype == torch.half
    assert torch.equal(resized, positions.resize_absolute(values.float(), (4, 4), (6, 6)).half())


def test_a_table_that_is_not_of_the_stated_grid_is_refused():
    with pytest.raises(ValueError, match='does not hold 1 prefix rows and a grid of 4 x 4'):
        positions.resize_absolute(table(16), (4, 4), (5, 5))


def test_an_unknown_rule_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'nearest' is unknown; choose one of \['bicubic'"):
        positions.resize_absolute(table(17), (4, 4), (5, 5), 'nearest')


# Relative, decomposed


def test_an_equal_size_returns_the_very_same_relative_table():
    values = torch.randn(7, 8)
    assert positions.resize_relative(values, 4) is values


def test_relative_rows_depend_on_the_offset_of_query_and_key_alone():
    values = torch.arange(7.0)[:, None]
    rows = positions.relative_rows(values, 4)
    for q in range(4):
        for k in range(4):
            assert rows[q, k] == q - k + 3


def test_a_relative_table_is_resized_linearly():
    resized = positions.resize_relative(torch.arange(7.0)[:, None], 6)
    expected = F.interpolate(torch.arange(7.0)[None, None], size=11, mode='linear')[0, 0]
    assert torch.equal(resized[:, 0], expected)


# Relative, BEiT


def test_bias_index_gives_each_offset_its_row_and_the_class_token_the_last_three():
    h, w = 3, 2
    index = positions.bias_index((h, w))
    assert index.max() == positions.bias_table_length((h, w)) - 1
    for q in range(h * w):
        for k in range(h * w):
            offset = (q // w - k // w + h - 1) * (2 * w - 1) + q % w - k % w + w - 1
            assert index[1 + q, 1 + k] == offset
    last = positions.bias_table_length((h, w))
    assert index[0, 1:].unique().tolist() == [last - 3]
    assert index[1:, 0].unique().tolist() == [last - 2]
    assert index[0, 0] == last - 1


def test_an_equal_grid_returns_the_very_same_bias_table():
    values = torch.randn(positions.bias_table_length((4, 3)), 2)
    assert positions.resize_bias_table(values, (4, 3), (4, 3)) is values


@pytest.mark.parametrize(('old', 'new'), [(4, 6), (14, 24), (7, 5), (3, 9)])
def test_the_bias_table_follows_the_bicubic_spline_of_fitpack(old, new):
    interpolate = pytest.importorskip('scipy.interpolate')  # interp2d called the same FITPACK routine
    values = torch.randn(positions.bias_table_length((old, old)), 1)
    resized = positions.resize_bias_table(values, (old, old), (new, new))
    source = positions._geometric_offsets(2 * old - 1, 2 * new - 1)
    spline = interpolate.RectBivariateSpline(source, source, values[:-3, 0].reshape(2 * old - 1, -1).numpy())
    wanted = np.arange(-(new - 1), new)
    expected = torch.from_numpy(spline(wanted, wanted)).float().flatten()
    torch.testing.assert_close(resized[:-3, 0], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(resized[-3:], values[-3:])


@pytest.mark.parametrize(
    ('old', 'new'), [((1, 1), (4, 4)), ((2, 2), (3, 3)), ((4, 4), (3, 8)), ((2, 5), (7, 1))]
)
def test_a_constant_bias_stays_constant_on_any_grid(old, new):
    values = torch.full((positions.bias_table_length(old), 2), 3.0)
    resized = positions.resize_bias_table(values, old, new)
    assert resized.shape == (positions.bias_table_length(new), 2)
    torch.testing.assert_close(resized, torch.full_like(resized, 3.0))


def test_gradients_pass_through_a_resized_bias_table():
    values = torch.randn(positions.bias_table_length((3, 3)), 2, requires_grad=True)
    positions.resize_bias_table(values, (3, 3), (5, 4)).square().sum().backward()
    assert (values.grad.abs().sum(dim=1) > 0).all()


def test_a_bias_table_that_is_not_of_the_stated_grid_is_refused():
    with pytest.raises(ValueError, match='does not belong to a grid of 4 x 4, which has 52 rows'):
        positions.resize_bias_table(torch.randn(50, 2), (4, 4), (5, 5))


# Rotary


def test_rope_turns_pairs_by_the_angles_of_the_published_formula():
    head_dim, (h, w) = 8, (2, 3)
    x = torch.randn(1, 1, h * w, head_dim)
    turned = positions.rotate(x, positions.rope_table(positions.rope_periods(head_dim), (h, w)))
    for row in range(h):
        for column in range(w):
            centre = (2 * (row + 0.5) / h - 1, 2 * (column + 0.5) / w - 1)
            for i in range(head_dim // 2):
                axis, step = divmod(i, head_dim // 4)
                angle = 2 * math.pi * centre[axis] / 100 ** (2 * step / (head_dim // 2))
                token = x[0, 0, row * w + column]
                expected = token[i] * math.cos(angle) - token[i + head_dim // 2] * math.sin(angle)
                assert turned[0, 0, row * w + column, i] == pytest.approx(expected.item(), abs=1e-5)


def test_rope_leaves_prefix_tokens_and_lengths_alone():
    x = torch.randn(2, 3, 5 + 6, 8)
    turned = positions.rotate(x, positions.rope_table(positions.rope_periods(8), (2, 3)))
    assert torch.equal(turned[:, :, :5], x[:, :, :5])
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert (turned[:, :, 5:] - x[:, :, 5:]).abs().max() > 0.1


def test_a_patch_that_grows_with_its_projection_gives_the_same_token():
    weight, patch = torch.randn(5, 3, 14, 14), torch.randn(2, 3, 14, 14)
    grown = F.interpolate(patch, size=(16, 16), mode='bilinear', antialias=True)
    token, wanted = (torch.einsum('nchw,dchw->nd', *pair) for pair in (
        (grown, positions.resize_patches(weight, 16)), (patch, weight)))
    torch.testing.assert_close(token, wanted, atol=1e-4, rtol=1e-4)


def test_patches_of_an_equal_size_are_untouched():
    weight = torch.randn(5, 3, 16, 16)
    assert positions.resize_patches(weight, 16) is weight
    assert positions.resize_patches(weight, 16, 'bicubic') is weight
