"""UperNet, Swin-B (ImageNet-1k), 160k, ADE20K 512 x 512.

torchrun --nproc_per_node 8 tools/train.py configs/baselines/upernet_swin-b-in1k_160k_ade20k-512.py --launcher pytorch
"""
_base_ = ['../_base_/models/upernet.py', '../_base_/datasets/ade20k_512.py', '../_base_/schedules/ade20k_160k.py',
          '../_base_/optimizers/swin.py', '../_base_/hooks.py', '../_base_/runtime_seg.py']
card = dict(
    paper='https://arxiv.org/abs/2103.14030', table='README',
    source='https://github.com/SwinTransformer/Swin-Transformer-Semantic-Segmentation/blob/main/configs/swin/upernet_swin_base_patch4_window7_512x512_160k_ade20k.py',
    init='swin_base_patch4_window7_224.pth', batch=16, per_gpu=2, schedule='160000 iterations, poly 1.0 to 0',
    warmup='1500 iterations from 1e-06', lr=6e-5, weight_decay=0.01,
    no_weight_decay='absolute_pos_embed, norm, relative_position_bias_table',
    decay=None, drop_path=0.3, precision='fp32', train='2048 x 512 times 0.5..2.0, crop 512 x 512',
    test='2048 x 512, whole', params='121M', flops='1188G at 512 x 2048', score=dict(mIoU=48.13, mIoU_ms=49.72),
    note='Drop path as in the published code; the paper says 0.2.')
checkpoint = 'https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_base_patch4_window7_224.pth'
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        type='mmdet.SwinTransformer', embed_dims=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32], window_size=7,
        drop_path_rate=0.3, patch_norm=True, convert_weights=True, norm_cfg=dict(type='LN', eps=1e-5),
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    decode_head=dict(in_channels=[128, 256, 512, 1024]), auxiliary_head=dict(in_channels=512),
    test_cfg=dict(mode='whole'))
optim_wrapper = dict(optimizer=dict(lr=6e-5, weight_decay=0.01))
