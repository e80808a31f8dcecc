"""Attention against an explicit softmax, and windows against their definition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from backbones import attention, positions
from backbones.attention import Attention, decomposed_attention, window_merge, window_partition


def filled(module: nn.Module) -> nn.Module:
    """Give every parameter random values, so that each one matters."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module


def naive_decomposed(q, k, v, rows, columns):
    """Build the logits entry by entry, as the paper states them: the unscaled query meets the tables."""
    h, w = rows.shape[0], columns.shape[0]
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # (B, K, L, L)
    for query in range(h * w):
        for key in range(h * w):
            table = rows[query // w, key // w] + columns[query % w, key % w]
            logits[:, :, query, key] += (q[:, :, query] * table).sum(-1)
    return logits.softmax(-1) @ v


# Windows


@pytest.mark.parametrize('grid', [(4, 4), (5, 7), (3, 2), (8, 4)])
def test_merging_windows_undoes_partition_at_any_size(grid):
    x = torch.randn(2, *grid, 3)
    assert torch.equal(window_merge(window_partition(x, 4), 4, grid), x)


def test_windows_lie_in_row_major_order_and_are_padded_at_the_bottom_and_the_right():
    x = torch.arange(1.0, 16.0).reshape(1, 3, 5, 1)
    windows = window_partition(x, 2)[..., 0]
    assert windows.tolist()[:3] == [[1, 2, 6, 7], [3, 4, 8, 9], [5, 0, 10, 0]]
    assert windows.tolist()[5] == [15, 0, 0, 0]


def test_padding_takes_the_given_value():
    windows = window_partition(torch.zeros(1, 1, 1, 2), 2, fill=torch.tensor([3.0, 4.0]))
    assert windows[0].tolist() == [[0, 0], [3, 4], [3, 4], [3, 4]]


# Decomposed relative positions


@pytest.mark.parametrize('one_hot', [True, False, None])
@pytest.mark.parametrize('grid', [(4, 4), (3, 5), (1, 6)])
def test_both_forms_of_decomposed_attention_equal_an_explicit_softmax(one_hot, grid):
    h, w = grid
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, h * w, 8, dtype=torch.double) for _ in range(3))
    rows, columns = torch.randn(h, h, 8).double(), torch.randn(w, w, 8).double()
    output = decomposed_attention(q, k, v, rows, columns, one_hot)
    torch.testing.assert_close(output, naive_decomposed(q, k, v, rows, columns), atol=1e-12, rtol=1e-12)


def test_both_forms_of_decomposed_attention_have_equal_gradients():
    gradients = []
    for one_hot in (True, False):
        torch.manual_seed(0)
        inputs = [torch.randn(*shape, dtype=torch.double, requires_grad=True) for shape in
                  ((2, 2, 6, 4), (2, 2, 6, 4), (2, 2, 6, 4), (2, 2, 4), (3, 3, 4))]  # fmt: skip
        decomposed_attention(*inputs, one_hot).sin().sum().backward()
        gradients.append([value.grad for value in inputs])
    for first, second in zip(*gradients, strict=True):
        assert first.abs().max() > 0
        torch.testing.assert_close(first, second, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize('one_hot', [True, False])
def test_decomposed_attention_in_bfloat16_stays_near_float32(one_hot):
    torch.manual_seed(0)
    inputs = [
        torch.randn(*shape) for shape in ((1, 2, 16, 8), (1, 2, 16, 8), (1, 2, 16, 8), (4, 4, 8), (4, 4, 8))
    ]
    exact = decomposed_attention(*inputs, one_hot)
    half = decomposed_attention(*(value.bfloat16() for value in inputs), one_hot)
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).abs().max() < 0.1


# The module


def test_global_attention_equals_an_explicit_softmax():
    attention = filled(Attention(12, 3))
    x = torch.randn(2, 7, 12)
    q, k, v = attention.qkv(x).reshape(2, 7, 3, 3, 4).permute(2, 0, 3, 1, 4)
    y = (q @ k.transpose(-1, -2) / 2).softmax(-1) @ v
    expected = attention.proj(y.transpose(1, 2).reshape(2, 7, 12))
    torch.testing.assert_close(attention(x, (7, 1)), expected)


@pytest.mark.parametrize('rel_pos', ['none', 'decomposed'])
def test_padded_tokens_attend_with_the_bias_of_the_projection_as_in_vitdet(rel_pos):
    attention = filled(Attention(12, 3, window_size=4, rel_pos=rel_pos, table_grid=(4, 4)))
    x = torch.randn(2, 30, 12)
    output = attention(x, (5, 6))
    # ViTDet: pad the input with zeros, then attend in each window as if all its tokens were real
    windows = window_partition(x.unflatten(1, (5, 6)), 4)
    attention.window_size = 0
    expected = window_merge(attention(windows, (4, 4)), 4, (5, 6)).flatten(1, 2)
    torch.testing.assert_close(output, expected)


@pytest.mark.parametrize('rel_pos', ['none', 'decomposed'])
def test_a_window_as_large_as_the_grid_is_global_attention(rel_pos):
    attention = filled(Attention(12, 3, window_size=6, rel_pos=rel_pos, table_grid=(6, 6)))
    x = torch.randn(2, 36, 12)
    windowed = attention(x, (6, 6))
    attention.window_size = 0
    torch.testing.assert_close(windowed, attention(x, (6, 6)))


def test_the_bias_table_is_added_to_the_logits():
    attention = filled(Attention(12, 3, rel_pos='bias_table', table_grid=(2, 3), qkv_bias='qv'))
    x = torch.randn(2, 7, 12)
    index = positions.bias_index((2, 3))
    output = attention(x, (2, 3), bias_index=index)
    bias = torch.cat([attention.q_bias, torch.zeros(12), attention.v_bias])
    qkv = x @ attention.qkv.weight.t() + bias
    q, k, v = qkv.reshape(2, 7, 3, 3, 4).permute(2, 0, 3, 1, 4)
    logits = q @ k.transpose(-1, -2) / 2
    for query in range(7):
        for key in range(7):
            logits[:, :, query, key] += attention.relative_position_bias_table[index[query, key]]
    expected = attention.proj((logits.softmax(-1) @ v).transpose(1, 2).reshape(2, 7, 12))
    torch.testing.assert_close(output, expected)


def test_windows_run_under_autocast():
    attention = filled(Attention(12, 3, window_size=4, rel_pos='decomposed', table_grid=(4, 4)))
    x = torch.randn(1, 30, 12)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        output = attention(x, (5, 6))
    assert output.dtype == torch.bfloat16
    assert (output.float() - attention(x, (5, 6))).abs().mean() < 0.1


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('chunk_bytes', [1, 1000, 10**9])
def test_attention_in_chunks_equals_the_whole_for_any_size_of_chunk(monkeypatch, chunk_bytes, dtype):
    monkeypatch.setattr(attention, 'CHUNK_BYTES', chunk_bytes)
    torch.manual_seed(0)
    grid, heads, head_dim = (5, 7), 3, 8
    q, k, v = torch.randn(3, 2, heads, 35, head_dim).to(dtype)
    rows, columns = torch.randn(5, 5, head_dim).to(dtype), torch.randn(7, 7, head_dim).to(dtype)
    row_logits, column_logits = (
        torch.einsum(equation, q.unflatten(2, grid), table)
        for equation, table in (('bkhwd,hyd->bkhwy', rows), ('bkhwd,wxd->bkhwx', columns)))
    bias = (row_logits[..., :, None] + column_logits[..., None, :]).flatten(4).flatten(2, 3)
    expected = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), bias.float())
    tolerance = dict(atol=1e-5, rtol=1e-5) if dtype == torch.float32 else dict(atol=0.1, rtol=0.1)
    for given in (dict(row_logits=row_logits, column_logits=column_logits), dict(mask=bias), dict(mask=bias[:, :1])):
        if given.get('mask') is not None and given['mask'].shape[1] == 1:
            expected = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), given['mask'].float())
        y = attention.attention_in_chunks(q, k, v, head_dim**-0.5, **given).transpose(1, 2)
        torch.testing.assert_close(y.float(), expected, **tolerance)


def test_without_gradients_decomposed_attention_gives_what_it_gives_with_them():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 18 * 17, 8)
    rows, columns = torch.randn(18, 18, 8), torch.randn(17, 17, 8)
    expected = decomposed_attention(q.requires_grad_(), k, v, rows, columns)
    with torch.no_grad():
        torch.testing.assert_close(decomposed_attention(q, k, v, rows, columns), expected, atol=1e-5, rtol=1e-5)
