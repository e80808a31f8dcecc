"""UperNet, ViT-B (DINOv3), 160k, ADE20K 512 x 512.

torchrun --nproc_per_node 8 tools/train.py configs/vit/upernet_vit-b-dinov3_160k_ade20k-512.py --launcher pytorch
"""
_base_ = ['../_base_/models/upernet.py', '../_base_/datasets/ade20k_512.py', '../_base_/schedules/ade20k_160k.py',
          '../_base_/optimizers/vit_beit.py', '../_base_/hooks.py', '../_base_/runtime_seg.py']
card = dict(
    paper=None, table=None, source=None, init='dinov3-vitb16', batch=16, per_gpu=2,
    schedule='160000 iterations, poly 1.0 to 0', warmup='1500 iterations from 1e-06', lr=3e-5, weight_decay=0.05,
    no_weight_decay='beit', decay='layer_wise 0.9, 12 layers', drop_path=0.1, precision='fp16',
    train='2048 x 512 times 0.5..2.0, crop 512 x 512', test='2048 x 512, slide 512 x 512 by 341 x 341',
    params='163M (ours)', flops='605G at 512 x 512 (ours)', score=None,
    note=(
        "No score was published for a fine-tuned UperNet. Values of BEiT's recipe for a model of this size "
        'at crops of 512; the final norm of the weights is on all four taps. Gated download.'))
checkpoint = 'dinov3-vitb16'
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        type='backbones.VisionTransformer', arch='base', out_indices=(3, 5, 7, 11), position='rope', num_registers=4,
        qkv_bias='qv', layer_scale_init_value=1e-5, norm_eps=1e-5, out_norm='all', drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    neck=dict(
        type='backbones.Feature2Pyramid', in_channels=768, norm_cfg=dict(type='SyncBN', eps=1e-5, requires_grad=True)),
    decode_head=dict(in_channels=[768] * 4, channels=768), auxiliary_head=dict(in_channels=768),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)))
optim_wrapper = dict(
    type='backbones.GuardedAmpOptimWrapper', dtype='float16',
    optimizer=dict(lr=3e-5), paramwise_cfg=dict(decay_rate=0.9))
