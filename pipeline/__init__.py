"""What a photo goes through, shared by all scripts."""
