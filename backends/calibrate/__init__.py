"""Measures what this machine does with K/V, and fits the small models that a simulation needs."""
