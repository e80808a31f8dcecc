"""Timing a config against what a user would run instead: same process, same batch, same weights, turn by turn.

`compare.benchmark` does it, `report.format_report` prints it. To add a peer, write a function from our backbone to
theirs with the same weights and name it in `peers.PEERS`; to add a way of running ours (a precision, compilation),
register a function in `variants`.
"""
