"""What the trainer reads beside model, data and optimizer, as in the YAML files."""

from omegaconf import OmegaConf

train = OmegaConf.create(
    {
        "output_dir": "./output",
        "init_checkpoint": "",
        "max_iter": 90_000,
        "device": "cuda",
        "channels_last": True,
        "amp": {"enabled": False},
        # Of DistributedDataParallel.
        "ddp": {
            "broadcast_buffers": False,
            "find_unused_parameters": False,
            "fp16_compression": False,
        },
        "checkpointer": {"period": 5000, "max_to_keep": 100},
        "eval_period": 0,  # at the end alone
        "log_period": 20,
    }
)
