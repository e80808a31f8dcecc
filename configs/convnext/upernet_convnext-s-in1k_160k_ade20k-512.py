"""UperNet, ConvNeXt-S (ImageNet-1k), 160k, ADE20K 512 x 512.

torchrun --nproc_per_node 8 tools/train.py configs/convnext/upernet_convnext-s-in1k_160k_ade20k-512.py \
    --launcher pytorch
"""
_base_ = ['../_base_/models/upernet.py', '../_base_/datasets/ade20k_512.py', '../_base_/schedules/ade20k_160k.py',
          '../_base_/optimizers/convnext.py', '../_base_/hooks.py', '../_base_/runtime_seg.py']
card = dict(
    paper='https://arxiv.org/abs/2201.03545', table='Table 4',
    source='https://github.com/facebookresearch/ConvNeXt/blob/048efce/semantic_segmentation/configs/convnext/upernet_convnext_small_512_160k_ade20k_ss.py',
    init='convnext_small_1k_224.pth', batch=16, per_gpu=2, schedule='160000 iterations, poly 1.0 to 0',
    warmup='1500 iterations from 1e-06', lr=1e-4, weight_decay=0.05, no_weight_decay='convnext',
    decay='stage_wise 0.9, 12 layers', drop_path=0.3, precision='fp16',
    train='2048 x 512 times 0.5..2.0, crop 512 x 512', test='2048 x 512, slide 512 x 512 by 341 x 341', params='82M',
    flops='1027G at 512 x 2048', score=dict(mIoU=48.7, mIoU_ms=49.6))
checkpoint = 'https://dl.fbaipublicfiles.com/convnext/convnext_small_1k_224.pth'
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        type='backbones.ConvNeXt', arch='small', drop_path_rate=0.3, layer_scale_init_value=1.0,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    decode_head=dict(in_channels=[96, 192, 384, 768]), auxiliary_head=dict(in_channels=384),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)))
optim_wrapper = dict(
    type='backbones.GuardedAmpOptimWrapper', dtype='float16', optimizer=dict(lr=1e-4),
    paramwise_cfg=dict(decay_type='stage_wise', decay_rate=0.9))
