"""Backbones in addition to those of detectron2."""
