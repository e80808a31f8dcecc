"""The class behind `backbones.LinearHead`; linear_head.py states what it does and checks what it is given."""

from __future__ import annotations

from collections.abc import Sequence

from mmcv.cnn import build_norm_layer
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor

from .decode_heads import UpsampledLoss


class LinearHead(UpsampledLoss, BaseDecodeHead):
    """Batch norm and a 1x1 convolution; arguments are those of mmseg's `BaseDecodeHead`."""

    def __init__(self, *, in_channels: Sequence[int], norm_cfg: dict, **settings) -> None:
        super().__init__(in_channels=in_channels, norm_cfg=norm_cfg, **settings)
        self.map_channels = tuple(in_channels)
        self.bn = build_norm_layer(norm_cfg, self.channels)[1]

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Map the backbone's maps (N, C_i, H_i, W_i) to scores (N, classes, H, W), H W those of the first chosen one.

        Raises:
            ValueError: if a chosen map is not there or has another number of channels.
        """
        self._check(inputs)
        x = self._transform_inputs(inputs)  # (N, C, H, W), C the sum of C_i
        if self.dropout is not None:
            x = self.dropout(x)
        return self.conv_seg(self.bn(x))  # (N, classes, H, W)

    def _check(self, inputs: Sequence[Tensor]) -> None:
        if not all(-len(inputs) <= i < len(inputs) for i in self.in_index):
            raise ValueError(
                f'LinearHead takes the maps in_index={self.in_index}, but the backbone gives {len(inputs)}; set '
                "the backbone's out_indices or in_index so that they fit")
        got = tuple(inputs[i].shape[1] for i in self.in_index)
        if got != self.map_channels:
            raise ValueError(f'LinearHead got maps of {got} channels but was built for {self.map_channels}; set '
                             f'in_channels={list(got)}')
