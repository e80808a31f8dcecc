"""A whole model in bf16 or fp16: which tensors are low precision, and which stay fp32: docs/precision.md.

`compute.py` is the switch; `copies.py` holds the low-precision copies of the weights, `islands.py` what stays fp32.
"""
