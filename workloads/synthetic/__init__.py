"""Generators of made-up traffic: seeded, streaming, one file each."""
