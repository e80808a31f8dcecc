"""Heads that mmsegmentation lacks. It is imported only when one of them is built."""
