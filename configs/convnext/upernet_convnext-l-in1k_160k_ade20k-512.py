"""UperNet, ConvNeXt-L (ImageNet-1k), 160k, ADE20K 512 x 512.

torchrun --nproc_per_node 8 tools/train.py configs/convnext/upernet_convnext-l-in1k_160k_ade20k-512.py \
    --launcher pytorch
"""
_base_ = ['../_base_/models/upernet.py', '../_base_/datasets/ade20k_512.py', '../_base_/schedules/ade20k_160k.py',
          '../_base_/optimizers/convnext.py', '../_base_/hooks.py', '../_base_/runtime_seg.py']
card = dict(
    paper='https://arxiv.org/abs/2301.00808', table='Table 7', source=None, init='convnext-l-in1k', batch=16,
    per_gpu=2, schedule='160000 iterations, poly 1.0 to 0', warmup='1500 iterations from 1e-06', lr=1e-4,
    weight_decay=0.05, no_weight_decay='convnext', decay='stage_wise 0.9, 12 layers', drop_path=0.4, precision='fp32',
    train='2048 x 512 times 0.5..2.0, crop 512 x 512', test='2048 x 512, slide 512 x 512 by 341 x 341', params='235M',
    flops='1573G at 512 x 2048', score=dict(mIoU_ms=50.5),
    note=(
        'Printed in the ConvNeXt V2 paper, without values: these are those of ConvNeXt-B with the precision '
        'of L. Averaged (EMA) weights, the only ones published. --tta: scales 0.75 to 1.25, as that paper; '
        'it does not mention flips.'))
checkpoint = 'convnext-l-in1k'
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        type='backbones.ConvNeXt', arch='large', drop_path_rate=0.4, layer_scale_init_value=1.0,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    decode_head=dict(in_channels=[192, 384, 768, 1536]), auxiliary_head=dict(in_channels=768),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)))
tta_scales = [(int(2048 * r), int(512 * r)) for r in (0.75, 0.875, 1.0, 1.125, 1.25)]
optim_wrapper = dict(optimizer=dict(lr=1e-4), paramwise_cfg=dict(decay_type='stage_wise', decay_rate=0.9))
