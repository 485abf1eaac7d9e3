"""Utilities shared by all other subpackages; imports none of them."""
