"""Other systems' checkpoints made this project's."""
