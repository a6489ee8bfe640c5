"""Networks: StyleGAN2, spatial transformers, encoders and feature extractors."""
