// Runs of cells moved inside a store, or between a store and a buffer.
//
// Compiled for one width of access: -DVECTOR=uint4 (rows that are whole multiples of 16 bytes, at
// addresses that are), uint2, word or half_word.
//
// runs[r] = {first cell of the source, first cell of the target, cells}. Source and target must
// not overlap, in a run or between runs; the caller goes through a buffer where they do. Layers
// lie `source_plane` and `target_plane` vectors apart. Grid: (runs, parts of a run, layers).

typedef unsigned int word;
typedef unsigned short half_word;

#define UNROLL 4

extern "C" __global__ void __launch_bounds__(256) copy_runs(
    const VECTOR* __restrict__ source, VECTOR* __restrict__ target, const int* __restrict__ runs,
    int row, long long source_plane, long long target_plane)
{
    const int* run = runs + 3 * (long long)blockIdx.x;
    const VECTOR* from = source + blockIdx.z * source_plane + (long long)run[0] * row;
    VECTOR* to = target + blockIdx.z * target_plane + (long long)run[1] * row;
    long long n = (long long)run[2] * row;
    long long stride = (long long)gridDim.y * blockDim.x * UNROLL;
    long long at = (long long)blockIdx.y * blockDim.x * UNROLL + threadIdx.x;
    for (; at < n; at += stride) {
        // All loads first: the more bytes are under way, the less their latency counts.
        VECTOR moved[UNROLL];
#pragma unroll
        for (int i = 0; i < UNROLL; i++)
            if (at + i * blockDim.x < n) moved[i] = from[at + i * blockDim.x];
#pragma unroll
        for (int i = 0; i < UNROLL; i++)
            if (at + i * blockDim.x < n) to[at + i * blockDim.x] = moved[i];
    }
}
