"""UperNet, BEiT-B (ImageNet-22k, intermediate fine-tuning), 160k, ADE20K 640 x 640.

torchrun --nproc_per_node 8 tools/train.py configs/vit/upernet_beit-b-in22k_160k_ade20k-640.py --launcher pytorch
"""
_base_ = ['../_base_/models/upernet.py', '../_base_/datasets/ade20k_640.py', '../_base_/schedules/ade20k_160k.py',
          '../_base_/optimizers/vit_beit.py', '../_base_/hooks.py', '../_base_/runtime_seg.py']
card = dict(
    paper='https://arxiv.org/abs/2106.08254', table='README',
    source='https://github.com/microsoft/unilm/blob/8b57ed1/beit/semantic_segmentation/configs/beit/upernet/upernet_beit_base_12_640_slide_160k_ade20k_pt2ft.py',
    init='beit-b-in22k-ft22k', batch=16, per_gpu=2, schedule='160000 iterations, poly 1.0 to 0',
    warmup='1500 iterations from 1e-06', lr=3e-5, weight_decay=0.05, no_weight_decay='beit',
    decay='layer_wise 0.9, 12 layers', drop_path=0.1, precision='fp16',
    train='2560 x 640 times 0.5..2.0, crop 640 x 640', test='2560 x 640, slide 640 x 640 by 426 x 426', params='163M',
    flops='962G at 640 x 640 (ours)', score=dict(mIoU=53.61, mIoU_ms=54.26))
checkpoint = 'beit-b-in22k-ft22k'
model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(
        type='backbones.VisionTransformer', arch='base', out_indices=(3, 5, 7, 11), position='none',
        rel_pos='bias_table', qkv_bias='qv', layer_scale_init_value=0.1, img_size=640, norm_eps=1e-6,
        drop_path_rate=0.1, init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    neck=dict(
        type='backbones.Feature2Pyramid', in_channels=768, norm_cfg=dict(type='SyncBN', eps=1e-5, requires_grad=True)),
    decode_head=dict(in_channels=[768] * 4, channels=768), auxiliary_head=dict(in_channels=768),
    test_cfg=dict(mode='slide', crop_size=(640, 640), stride=(426, 426)))
tta_mode = 'slide'
optim_wrapper = dict(
    type='backbones.GuardedAmpOptimWrapper', dtype='float16',
    optimizer=dict(lr=3e-5), paramwise_cfg=dict(decay_rate=0.9))
