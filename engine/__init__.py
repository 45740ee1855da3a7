"""Loss to weights: backbones, DeepSpeed, checkpoints, evaluation, recipes."""
