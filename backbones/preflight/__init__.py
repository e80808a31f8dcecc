"""What can be known wrong before the first step: one finding per fault, with its place and its remedy.

`run.py` says which checks there are; each looks at one thing and gives an `Outcome` (backbones/findings.py).
"""
