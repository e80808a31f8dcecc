"""What every segmentation run shares: scope, drawing, process settings."""
default_scope = 'mmseg'
env_cfg = dict(
    cudnn_benchmark=True, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'))
visualizer = dict(
    type='SegLocalVisualizer', name='visualizer',
    vis_backends=[dict(type='backbones.LocalVisBackend'), dict(type='backbones.TensorboardVisBackend')])
tta_model = dict(type='SegTTAModel')
log_level = 'INFO'
load_from = None
resume = False
precision = None  # 'fp32', 'bf16' or 'fp16'; None: what optim_wrapper says, as published: docs/precision.md
