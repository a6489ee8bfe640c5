"""Readers of image folders, filters, warps and the bundled sample pair."""
