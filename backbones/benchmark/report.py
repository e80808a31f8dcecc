"""The report of `compare.benchmark` as text."""

from __future__ import annotations

from typing import Any

from backbones.budget import table

HEAD = ['what', 'ours', 'against', 'pairs', 'ours ms', 'peer ms', 'ratio', '(25-75 %)', 'max abs', 'max rel', 'GFLOP',
        'GFLOP/s', '% of peak', 'ours +MB', 'peer +MB']


def format_report(report: dict[str, Any]) -> str:
    """Where it was measured, the table, what the differences are, what was left out."""
    machine = report['machine']
    peaks = ', '.join(f'{value / 1e9:,.0f} GFLOP/s {name}' for name, value in report['matrix_peak'].items())
    lines = [report['config'],
             f'{machine["device"]}, {machine["threads"]} of {machine["cores"]} threads, load before {machine["load"]}, '
             f'torch {machine["torch"]}'
             + (f', matrix product at best {peaks}' if peaks else '')]
    if report['rows']:
        lines += ['', table([HEAD, *map(_cells, report['rows'])]), '', *_legend(report)]
    else:
        lines += ['', 'nothing was compared']
    lines += [f'skipped: {line}' for line in report['skipped']]
    lines += [f'remark: {line}' for line in report['remarks']]
    return '\n'.join(lines)


def _cells(row: dict[str, Any]) -> list[str]:
    h, w = row['size']
    return [
        f'{row["what"]} {row["batch"]} x {h} x {w}', row['ours'], row['against'], str(row['pairs']),
        f'{row["ours_ms"]:,.1f}', f'{row["peer_ms"]:,.1f}', f'{row["ratio"]:.3f}',
        f'({row["ratio_25"]:.3f}-{row["ratio_75"]:.3f})', f'{row["max_abs"]:.1e}', f'{row["max_rel"]:.1e}',
        f'{row["flops"] / 1e9:,.1f}', f'{row["flops_per_second"] / 1e9:,.1f}', f'{100 * row["share_of_peak"]:.1f}',
        _megabytes(row['ours_added_bytes']), _megabytes(row['peer_added_bytes'])]


def _megabytes(count: int | None) -> str:
    return '-' if count is None else f'{count / 1e6:,.0f}'


def _legend(report: dict[str, Any]) -> list[str]:
    rows = report['rows']
    lines = [
        'ratio: time of the peer / time of ours, median of the pairs (above 1: ours is faster). max abs, max rel: '
        'largest difference of the results,',
        'also as a share of the largest value. GFLOP: of the model (a multiply-add is two; training: three forward '
        'passes). +MB: what a run adds at its peak']
    totals = [row['ours_peak_bytes'] for row in rows if row['ours_peak_bytes'] is not None]
    if totals:
        lines[-1] += f'; the process with both sides had {max(totals) / 1e6:,.0f} MB at most in a run of ours.'
    else:
        lines[-1] += ' (this system does not tell: -).'
    lines += [f'{row["what"]}, {row["ours"]} and {row["against"]}: {row["detail"]}' for row in rows if row['detail']]
    if report['score_threshold'] is not None:
        lines.append(f'random weights: the score threshold is {report["score_threshold"]:.4g} on both sides, so that a '
                     'few hundred class scores pass, as with trained ones')
    return lines
