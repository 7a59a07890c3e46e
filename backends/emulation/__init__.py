"""The CUDA kernels of `backends.kernels` on a CPU, so that they can be checked without a GPU."""
