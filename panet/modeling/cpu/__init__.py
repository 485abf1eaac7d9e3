"""Faster CPU implementations of layers, selected by the instruction set of the CPU."""
