"""Convert checkpoints of other projects."""
