"""Kinds of styles: what every kind offers, the registry of kinds, and one file per kind."""
