"""Replays of recordings of real engines, operation for operation."""
