"""What is compiled for inference: whole graphs, one per shape; by a backend that only looks at the graphs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from backbones.convnext import ConvNeXt
from backbones.inference import compile_for_inference, prepare_for_inference
from backbones.vit import VisionTransformer

VIT = dict(arch=dict(embed_dim=32, depth=2, num_heads=2), patch_size=8)
FAMILIES = {
    'ConvNeXt V2': lambda: ConvNeXt(dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)), use_grn=True),
    'ViTDet': lambda: VisionTransformer(
        **VIT, with_cls_token=False, window_size=3, global_attn_indexes=(1,), rel_pos='decomposed', img_size=64),
    'BEiT': lambda: VisionTransformer(
        **VIT, position='none', rel_pos='bias_table', qkv_bias='qv', layer_scale_init_value=0.5, img_size=64),
}


class Looking:
    """A backend of torch.compile that counts graphs and runs them as they are."""

    def __init__(self) -> None:
        torch._dynamo.reset()
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list) -> object:
        self.graphs += 1
        return graph.forward


@torch.no_grad()
@pytest.mark.parametrize('family', FAMILIES)
def test_a_backbone_is_one_graph_per_shape_and_a_repeated_shape_compiles_nothing(family):
    looking = Looking()
    model = compile_for_inference(FAMILIES[family](), backend=looking)
    graphs = []
    for height in (64, 64, 96, 64, 96):
        model(torch.randn(1, 3, height, 64))
        graphs.append(looking.graphs)
    assert graphs == [1, 1, 2, 2, 2]


@torch.no_grad()
@pytest.mark.parametrize('family', FAMILIES)
def test_a_compiled_backbone_gives_what_the_plain_one_gives(family):
    model, x = FAMILIES[family]().eval(), torch.randn(1, 3, 96, 64)
    expected = model(x)
    for output, plain in zip(compile_for_inference(model, 'fp32', backend=Looking())(x), expected, strict=True):
        torch.testing.assert_close(output, plain, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_of_a_whole_model_only_the_dense_parts_are_compiled():
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = ConvNeXt(dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)), out_indices=(0,))
            self.neck, self.roi_head = nn.Sequential(nn.Conv2d(8, 4, 1)), nn.Sequential(nn.Conv2d(4, 4, 1))

        def forward(self, x):
            return self.roi_head(self.neck(self.backbone(x)[0]))

    looking = Looking()
    model = compile_for_inference(Whole(), 'fp32', backend=looking)
    model(torch.randn(1, 3, 64, 64))
    assert looking.graphs == 2
    assert 'forward' not in vars(model.roi_head)


def test_a_model_prepared_with_packed_layers_is_refused_and_one_without_is_taken():
    backend = Looking()
    with pytest.raises(ValueError, match='plain model'):
        compile_for_inference(prepare_for_inference(FAMILIES['ViTDet']()), backend=backend)
    model = prepare_for_inference(FAMILIES['ViTDet'](), pack=False)
    assert compile_for_inference(model, backend=backend) is model
