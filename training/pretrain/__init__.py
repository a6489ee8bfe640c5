"""Pretraining of the starter weights: one module per stage of ``pretrain.py``."""
