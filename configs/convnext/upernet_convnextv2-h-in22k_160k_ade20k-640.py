"""UperNet, ConvNeXt V2-H (FCMAE, then ImageNet-22k and 1k), 160k, ADE20K 640 x 640.

torchrun --nproc_per_node 8 tools/train.py configs/convnext/upernet_convnextv2-h-in22k_160k_ade20k-640.py \
    --launcher pytorch
"""
_base_ = ['../_base_/models/upernet.py', '../_base_/datasets/ade20k_640.py', '../_base_/schedules/ade20k_160k.py',
          '../_base_/optimizers/convnext.py', '../_base_/hooks.py', '../_base_/runtime_seg.py']
card = dict(
    paper='https://arxiv.org/abs/2301.00808', table='Table 7', source=None, init='convnextv2-h-in22k-in1k-512',
    batch=16, per_gpu=2, schedule='160000 iterations, poly 1.0 to 0', warmup='1500 iterations from 1e-06', lr=1e-4,
    weight_decay=0.05, no_weight_decay='convnext', decay='stage_wise 0.9, 12 layers', drop_path=0.4, precision='fp16',
    train='2560 x 640 times 0.5..2.0, crop 640 x 640', test='2560 x 640, whole', params='707M',
    flops='5113G at 640 x 2560', score=dict(mIoU_ms=57.0),
    note=(
        'Learning rate, decay and drop path are our choice from the published sweep (1e-4 to 3e-4; 0.8, '
        '0.9; 0.1 to 0.4); the paper prints none per size. Stage-wise decay, warm-up, poly and precision '
        'are those of ConvNeXt-B, the test sees whole images. --tta: the published scales, 0.75 to 1.25; '
        'the paper does not mention flips. The paper took weights after ImageNet-22k; the published ones '
        'were trained on ImageNet-1k once more.'))
model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(
        type='backbones.ConvNeXt', arch='huge', use_grn=True, drop_path_rate=0.4,
        init_cfg=dict(type='Pretrained', checkpoint='convnextv2-h-in22k-in1k-512')),
    decode_head=dict(in_channels=[352, 704, 1408, 2816]), auxiliary_head=dict(in_channels=1408),
    test_cfg=dict(mode='whole'))
tta_scales = [(int(2560 * r), int(640 * r)) for r in (0.75, 0.875, 1.0, 1.125, 1.25)]
optim_wrapper = dict(
    type='backbones.GuardedAmpOptimWrapper', dtype='float16', optimizer=dict(lr=1e-4),
    paramwise_cfg=dict(decay_type='stage_wise', decay_rate=0.9))
