"""Readers of recorded traffic: strict, streaming, one file each."""
