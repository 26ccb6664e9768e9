"""Pretrained models: found, checked, built."""
