"""UperNet, ConvNeXt-B (ImageNet-22k), 160k, ADE20K 640 x 640. Published: 52.6 mIoU, 53.1 with --tta; 122M, 1828G FLOPs.

https://arxiv.org/abs/2201.03545, Tables 4 and 7. Meant for 8 GPUs x 2 images:
torchrun --nproc_per_node 8 tools/train.py configs/convnext/upernet_convnext-b-in22k_160k_ade20k-640.py \
    --launcher pytorch
"""
_base_ = ['../_base_/models/upernet.py', '../_base_/datasets/ade20k_640.py',
          '../_base_/schedules/ade20k_160k.py', '../_base_/runtime_seg.py']
checkpoint = 'https://dl.fbaipublicfiles.com/convnext/convnext_base_22k_224.pth'
model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(
        type='backbones.ConvNeXt', arch='base', drop_path_rate=0.4, layer_scale_init_value=1.0,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
    test_cfg=dict(mode='slide', crop_size=(640, 640), stride=(426, 426)))
optim_wrapper = dict(
    type='AmpOptimWrapper', dtype='float16', optimizer=dict(lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(decay_type='stage_wise', decay_rate=0.9, weight_decay_rule='convnext'))
