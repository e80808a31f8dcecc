"""UperNet, ViT-L/14 (DINOv2), 160k, ADE20K 512 x 512.

torchrun --nproc_per_node 8 tools/train.py configs/vit/upernet_vit-l-dinov2_160k_ade20k-512.py --launcher pytorch
"""
_base_ = ['../_base_/models/upernet.py', '../_base_/datasets/ade20k_512.py', '../_base_/schedules/ade20k_160k.py',
          '../_base_/optimizers/vit_beit.py', '../_base_/hooks.py', '../_base_/runtime_seg.py']
card = dict(
    paper=None, table=None, source=None, init='dinov2-vitl14', batch=16, per_gpu=2,
    schedule='160000 iterations, poly 1.0 to 0', warmup='1500 iterations from 1e-06', lr=2e-5, weight_decay=0.05,
    no_weight_decay='beit', decay='layer_wise 0.95, 24 layers', drop_path=0.2, precision='fp16',
    train='2048 x 512 times 0.5..2.0, crop 512 x 512', test='2048 x 512, slide 518 x 518 by 341 x 341',
    params='440M (ours)', flops='1688G at 518 x 518 (ours)', score=None,
    note=(
        "No score was published for a fine-tuned UperNet. Values of BEiT's recipe for a model of this size; "
        'crops of 512 are padded to 518, 37 patches, and the final norm of the weights is on all four taps.'))
checkpoint = 'dinov2-vitl14'
model = dict(
    data_preprocessor=dict(size=(518, 518), test_cfg=dict(size_divisor=14)),
    backbone=dict(
        type='backbones.VisionTransformer', arch='large', out_indices=(7, 11, 15, 23), patch_size=14,
        pretrain_img_size=518, pos_interpolation='bicubic_offset', layer_scale_init_value=1.0, norm_eps=1e-6,
        out_norm='all', drop_path_rate=0.2, init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    neck=dict(
        type='backbones.Feature2Pyramid', in_channels=1024, in_stride=14,
        norm_cfg=dict(type='SyncBN', eps=1e-5, requires_grad=True)),
    decode_head=dict(in_channels=[1024] * 4, channels=1024), auxiliary_head=dict(in_channels=1024),
    test_cfg=dict(mode='slide', crop_size=(518, 518), stride=(341, 341)))
optim_wrapper = dict(
    type='backbones.GuardedAmpOptimWrapper', dtype='float16',
    optimizer=dict(lr=2e-5), paramwise_cfg=dict(decay_rate=0.95))
