"""Backbones beside detectron2's."""
