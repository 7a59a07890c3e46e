"""Recording what a live llama.cpp does: the engine of the wheel ``xllamacpp``, driven by ctypes."""
