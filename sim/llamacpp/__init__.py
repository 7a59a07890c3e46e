"""llama.cpp's KV cache, decision for decision: cells, streams, windows, states, saved state."""
