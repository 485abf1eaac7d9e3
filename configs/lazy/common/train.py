"""Settings of the trainer, with the values of the YAML files."""

from omegaconf import OmegaConf

train = OmegaConf.create(
    {
        "output_dir": "./output",
        "init_checkpoint": "",
        "max_iter": 90_000,
        "device": "cuda",
        "channels_last": True,
        "amp": {"enabled": False},
        # Arguments of DistributedDataParallel.
        "ddp": {
            "broadcast_buffers": False,
            "find_unused_parameters": False,
            "fp16_compression": False,
        },
        "checkpointer": {"period": 5000, "max_to_keep": 100},
        "eval_period": 0,  # only at the end
        "log_period": 20,
    }
)
