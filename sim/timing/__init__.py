"""Time models: the only part that knows the hardware."""
