"""UperNet, ConvNeXt V2-B (FCMAE, then ImageNet-1k), 160k, ADE20K 512 x 512.

torchrun --nproc_per_node 8 tools/train.py configs/convnext/upernet_convnextv2-b-in1k_160k_ade20k-512.py \
    --launcher pytorch
"""
_base_ = ['../_base_/models/upernet.py', '../_base_/datasets/ade20k_512.py', '../_base_/schedules/ade20k_160k.py',
          '../_base_/optimizers/convnext.py', '../_base_/hooks.py', '../_base_/runtime_seg.py']
card = dict(
    paper='https://arxiv.org/abs/2301.00808', table='Table 7', source=None, init='convnextv2-b-in1k', batch=16,
    per_gpu=2, schedule='160000 iterations, poly 1.0 to 0', warmup='1500 iterations from 1e-06', lr=1e-4,
    weight_decay=0.05, no_weight_decay='convnext', decay='stage_wise 0.9, 12 layers', drop_path=0.3, precision='fp16',
    train='2048 x 512 times 0.5..2.0, crop 512 x 512', test='2048 x 512, whole', params='122M',
    flops='1170G at 512 x 2048', score=dict(mIoU_ms=52.1),
    note=(
        'Learning rate, decay and drop path are our choice from the published sweep (1e-4 to 3e-4; 0.8, '
        '0.9; 0.1 to 0.4); the paper prints none per size. Stage-wise decay, warm-up, poly and precision '
        'are those of ConvNeXt-B, the test sees whole images. --tta: the published scales, 0.75 to 1.25; '
        'the paper does not mention flips. Weights after supervised fine-tuning, as published.'))
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        type='backbones.ConvNeXt', arch='base', use_grn=True, drop_path_rate=0.3,
        init_cfg=dict(type='Pretrained', checkpoint='convnextv2-b-in1k')),
    decode_head=dict(in_channels=[128, 256, 512, 1024]), auxiliary_head=dict(in_channels=512),
    test_cfg=dict(mode='whole'))
tta_scales = [(int(2048 * r), int(512 * r)) for r in (0.75, 0.875, 1.0, 1.125, 1.25)]
optim_wrapper = dict(
    type='backbones.GuardedAmpOptimWrapper', dtype='float16', optimizer=dict(lr=1e-4),
    paramwise_cfg=dict(decay_type='stage_wise', decay_rate=0.9))
