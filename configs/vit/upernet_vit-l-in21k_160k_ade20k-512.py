"""UperNet, ViT-L (ImageNet-21k), layer-wise decay, 160k, ADE20K 512 x 512.

torchrun --nproc_per_node 8 tools/train.py configs/vit/upernet_vit-l-in21k_160k_ade20k-512.py --launcher pytorch
"""
_base_ = ['../_base_/models/upernet.py', '../_base_/datasets/ade20k_512.py', '../_base_/schedules/ade20k_160k.py',
          '../_base_/optimizers/vit_beit.py', '../_base_/hooks.py', '../_base_/runtime_seg.py']
card = dict(
    paper=None, table=None, source=None, init='vit-l-augreg-in21k', batch=16, per_gpu=2,
    schedule='160000 iterations, poly 1.0 to 0', warmup='1500 iterations from 1e-06', lr=2e-5, weight_decay=0.05,
    no_weight_decay='beit', decay='layer_wise 0.95, 24 layers', drop_path=0.2, precision='fp16',
    train='2048 x 512 times 0.5..2.0, crop 512 x 512', test='2048 x 512, slide 512 x 512 by 341 x 341',
    params='439M (ours)', flops='1246G at 512 x 512 (ours)', score=None,
    note=(
        'Nobody published layer-wise decay for these weights: the values are those of BEiT fine-tuned with '
        'ImageNet-22k labels, the nearest published recipe, at crops of 512. AugReg weights, trained on '
        'images in [-1, 1] and fed with such.'))
checkpoint = 'vit-l-augreg-in21k'
model = dict(
    data_preprocessor=dict(size=(512, 512), mean=[127.5] * 3, std=[127.5] * 3),
    backbone=dict(
        type='backbones.VisionTransformer', arch='large', out_indices=(7, 11, 15, 23), norm_eps=1e-6,
        drop_path_rate=0.2, init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    neck=dict(
        type='backbones.Feature2Pyramid', in_channels=1024, norm_cfg=dict(type='SyncBN', eps=1e-5, requires_grad=True)),
    decode_head=dict(in_channels=[1024] * 4, channels=1024), auxiliary_head=dict(in_channels=1024),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)))
optim_wrapper = dict(
    type='backbones.GuardedAmpOptimWrapper', dtype='float16',
    optimizer=dict(lr=2e-5), paramwise_cfg=dict(decay_rate=0.95))
