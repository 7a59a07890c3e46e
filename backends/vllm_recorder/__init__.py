"""Recordings of vLLM's own scheduler and KV-cache manager, driven without a GPU."""
