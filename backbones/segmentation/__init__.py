"""Heads that mmsegmentation lacks, or computes at greater cost. It is imported only when one of them is built."""
