"""Fine-tuning, inversion and pretraining."""
