// Attention of one query a sequence over cached K and V: flash decoding, split over the length.
//
// Compiled for types and shape: -DK_TYPE=BF16 -DV_TYPE=BF16 -DHEAD_DIM=128, -DHEADS=4 (query heads
// that a block computes; they share one KV head), and -DLAYOUT:
//   RANGE  items are the cells after where[b]; mask says which of them count (or all, if NULL).
//          llama.cpp's way: dead cells and those of other sequences are read like any other.
//   TABLE  items are positions, found through a table of blocks of BLOCK cells (a power of two):
//          where[b][item / BLOCK] * BLOCK + item % BLOCK.
//   RING   items are positions, kept in a ring of `ring` cells after where[b].
// A sequence reads items first[b] .. end[b] - 1; block x of the grid those of its split.
//
// A row is shared by HEAD_DIM / 8 threads, a *worker*. Workers take ROWS rows at a time and keep
// a softmax of their own (running maximum, sum of weights, weighted sum of V); the block merges
// its workers, and `combine` the splits. Scores are kept in units of log 2, for exp2f.

#include "numbers.cuh"

#define RANGE 0
#define TABLE 1
#define RING 2

#ifndef BLOCK
#define BLOCK 16
#endif

#define THREADS 128
#define LANES (HEAD_DIM / PIECE)
#define WORKERS (THREADS / LANES)
#define ROWS 4
#define LOWEST (-1e30f)

typedef Stored<K_TYPE> K;
typedef Stored<V_TYPE> V;

// Blocks that a multiprocessor should hold at once: four leave 128 registers a thread, which pieces
// of four words fit into without spilling; types that are unpacked with more effort get 168.
#define IS_HALF(TYPE) (TYPE == F16 || TYPE == BF16)
enum { RESIDENT = IS_HALF(K_TYPE) && IS_HALF(V_TYPE) ? 4 : 3 };

__device__ __forceinline__ int cell_of(const int* __restrict__ where, int item, int ring) {
#if LAYOUT == RANGE
    return where[0] + item;
#elif LAYOUT == TABLE
    return where[(unsigned)item / BLOCK] * BLOCK + (unsigned)item % BLOCK;
#else
    return where[0] + item % ring;
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) decode(
    const float* __restrict__ q,          // [batch][heads][HEAD_DIM]
    const byte* __restrict__ k,           // [cell][kv_head] rows
    const byte* __restrict__ v,
    const int* __restrict__ where,        // [batch][where_stride]
    const int* __restrict__ first,        // [batch]
    const int* __restrict__ end,          // [batch]
    const byte* __restrict__ mask,        // [batch][mask_stride] or NULL
    int where_stride, int mask_stride, int ring, int kv_heads,
    int chunk,                            // items of a split
    float scale,                          // of scores, times log2(e)
    float* __restrict__ part,             // [batch][heads][splits][HEAD_DIM]
    float* __restrict__ sums)             // [batch][heads][splits][2]: maximum, sum of weights
{
    const int split = blockIdx.x, splits = gridDim.x, batch = blockIdx.z;
    const int heads = gridDim.y * HEADS, head = blockIdx.y * HEADS;
    const int kv_head = head / (heads / kv_heads);
    const int lane = threadIdx.x % LANES, worker = threadIdx.x / LANES;
    const int begin = first[batch] + split * chunk;
    const int stop = min(end[batch], begin + chunk);
    where += (long long)batch * where_stride;
    if (mask) mask += (long long)batch * mask_stride;

    float query[HEADS][PIECE], top[HEADS], total[HEADS], sum[HEADS][PIECE];
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        const float* from = q + ((long long)batch * heads + head + h) * HEAD_DIM + lane * PIECE;
        top[h] = LOWEST;
        total[h] = 0.0f;
#pragma unroll
        for (int e = 0; e < PIECE; e++) {
            query[h][e] = from[e] * scale;
            sum[h][e] = 0.0f;
        }
    }

    // All workers of a block make the same number of turns, so that whole warps can shuffle.
    for (int base = begin; base < stop; base += WORKERS * ROWS) {
        const int at = base + worker * ROWS;
        K::Piece keys[ROWS];
        V::Piece values[ROWS];
        bool counts[ROWS];
#pragma unroll
        for (int j = 0; j < ROWS; j++) {
            // Rows behind the end are read as the last one and do not count.
            const int item = min(at + j, stop - 1);
            const long long row = (long long)cell_of(where, item, ring) * kv_heads + kv_head;
            keys[j] = K::load(k + row * row_bytes<K_TYPE>(HEAD_DIM), lane);
            values[j] = V::load(v + row * row_bytes<V_TYPE>(HEAD_DIM), lane);
            counts[j] = at + j < stop && (!mask || mask[item]);
        }

        float score[ROWS][HEADS];
#pragma unroll
        for (int j = 0; j < ROWS; j++) {
            float key[PIECE];
            K::decode(keys[j], key);
#pragma unroll
            for (int h = 0; h < HEADS; h++) {
                float dot = 0.0f;
#pragma unroll
                for (int e = 0; e < PIECE; e++) dot += query[h][e] * key[e];
                score[j][h] = dot;
            }
        }
#pragma unroll
        for (int step = LANES / 2; step > 0; step /= 2)
#pragma unroll
            for (int j = 0; j < ROWS; j++)
#pragma unroll
                for (int h = 0; h < HEADS; h++)
                    score[j][h] += __shfl_xor_sync(0xffffffffu, score[j][h], step);

#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            float highest = top[h];
#pragma unroll
            for (int j = 0; j < ROWS; j++)
                if (counts[j]) highest = fmaxf(highest, score[j][h]);
            const float shrink = exp2f(top[h] - highest);
            top[h] = highest;
            total[h] *= shrink;
#pragma unroll
            for (int e = 0; e < PIECE; e++) sum[h][e] *= shrink;
#pragma unroll
            for (int j = 0; j < ROWS; j++) {
                score[j][h] = counts[j] ? exp2f(score[j][h] - highest) : 0.0f;
                total[h] += score[j][h];
            }
        }
#pragma unroll
        for (int j = 0; j < ROWS; j++) {
            float value[PIECE];
            V::decode(values[j], value);
#pragma unroll
            for (int h = 0; h < HEADS; h++)
#pragma unroll
                for (int e = 0; e < PIECE; e++) sum[h][e] += score[j][h] * value[e];
        }
    }

    __shared__ float all_tops[HEADS][WORKERS], all_totals[HEADS][WORKERS];
    __shared__ float all_sums[WORKERS][HEADS * HEAD_DIM];
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        if (lane == 0) all_tops[h][worker] = top[h], all_totals[h][worker] = total[h];
#pragma unroll
        for (int e = 0; e < PIECE; e++)
            all_sums[worker][h * HEAD_DIM + lane * PIECE + e] = sum[h][e];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < HEADS * HEAD_DIM; i += THREADS) {
        const int h = i / HEAD_DIM, e = i % HEAD_DIM;
        float highest = LOWEST, weight = 0.0f, out = 0.0f;
        for (int w = 0; w < WORKERS; w++) highest = fmaxf(highest, all_tops[h][w]);
        for (int w = 0; w < WORKERS; w++) {
            const float share = exp2f(all_tops[h][w] - highest);
            weight += all_totals[h][w] * share;
            out += all_sums[w][i] * share;
        }
        const long long slot = ((long long)batch * heads + head + h) * splits + split;
        part[slot * HEAD_DIM + e] = out;
        if (e == 0) sums[2 * slot] = highest, sums[2 * slot + 1] = weight;
    }
}

// Splits to outputs: grid (heads, batch), HEAD_DIM threads. sinks: NULL, or a score a head (times
// log2(e)) that takes its share of the softmax and gives nothing. What sees nothing gets zeros.
extern "C" __global__ void combine(
    const float* __restrict__ part, const float* __restrict__ sums,
    const float* __restrict__ sinks, float* __restrict__ out, int splits)
{
    const long long row = (long long)blockIdx.y * gridDim.x + blockIdx.x;
    part += row * splits * HEAD_DIM;
    sums += row * splits * 2;
    float highest = sinks ? sinks[blockIdx.x] : LOWEST;
    for (int s = 0; s < splits; s++) highest = fmaxf(highest, sums[2 * s]);
    float weight = sinks ? exp2f(sinks[blockIdx.x] - highest) : 0.0f, value = 0.0f;
    for (int s = 0; s < splits; s++) {
        const float share = exp2f(sums[2 * s] - highest);
        weight += sums[2 * s + 1] * share;
        value += part[s * HEAD_DIM + threadIdx.x] * share;
    }
    out[row * HEAD_DIM + threadIdx.x] = weight > 0.0f ? value / weight : 0.0f;
}
