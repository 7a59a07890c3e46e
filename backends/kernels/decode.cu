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
//
// While a tile of rows is computed with, the next one is on its way into shared memory, and the
// cells of the one after that are looked up: so bytes are under way all the time, however long a
// tile takes. A thread reads back what it fetched itself, so nobody waits for anybody.

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
#define TILE (WORKERS * ROWS)
#define SCORES (ROWS * HEADS)
#define LOWEST (-1e30f)
#define WARP 0xffffffffu

typedef Stored<K_TYPE> K;
typedef Stored<V_TYPE> V;

// Blocks that a multiprocessor should hold at once: four leave 128 registers a thread, which pieces
// of four words fit into without spilling; types that are unpacked with more effort get 168.
#define IS_HALF(TYPE) (TYPE == F16 || TYPE == BF16)
enum { RESIDENT = IS_HALF(K_TYPE) && IS_HALF(V_TYPE) ? 4 : 3 };

// Of shared memory a block gets 48 KiB without asking for more.
enum {
    STAGE_BYTES = ROWS * THREADS * (sizeof(K::Piece) + sizeof(V::Piece)),
    STAGES = 2 * STAGE_BYTES <= 48 << 10 ? 2 : 1,
    AHEAD = STAGES - 1,
    MERGE_BYTES = WORKERS * HEADS * (HEAD_DIM + 2) * 4,
    SHARED_BYTES = STAGES * STAGE_BYTES > MERGE_BYTES ? STAGES * STAGE_BYTES : MERGE_BYTES,
    MINE = SCORES > LANES ? SCORES / LANES : 1  // scores that a thread is left with
};
static_assert(LANES >= ROWS, "the scores of a thread are of one row");

__device__ __forceinline__ int cell_of(const int* __restrict__ where, int item, int ring) {
#if LAYOUT == RANGE
    return where[0] + item;
#elif LAYOUT == TABLE
    return where[(unsigned)item / BLOCK] * BLOCK + (unsigned)item % BLOCK;
#else
    return where[0] + item % ring;
#endif
}

// Sums of N values over the threads of a worker. Instead of all sums each thread gets a share of
// them, from sum `lane * N / LANES` on: at every step it keeps the half it goes on with and gives
// the other one away, so there are as many shuffles as sums, not log(LANES) times as many.
// A template, since values that are found by a variable are not kept in registers.
template <int N, int STEP> __device__ __forceinline__ void add_up(float* values, int lane) {
    if constexpr (STEP > 0 && N == 1) {
        values[0] += __shfl_xor_sync(WARP, values[0], STEP);
        add_up<1, STEP / 2>(values, lane);
    } else if constexpr (STEP > 0) {
        const bool is_upper = lane & STEP;
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            const float low = values[i], high = values[N / 2 + i];
            const float given = __shfl_xor_sync(WARP, is_upper ? low : high, STEP);
            values[i] = (is_upper ? high : low) + given;
        }
        add_up<N / 2, STEP / 2>(values, lane);
    }
}

// What the thread that has sum `i` holds of it: the way back from `add_up`.
__device__ __forceinline__ float of_sum(const float* mine, int i) {
    return __shfl_sync(WARP, mine[i % MINE], i * LANES / SCORES, LANES);
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
    __shared__ __align__(16) byte memory[SHARED_BYTES];
    K::Piece* key_slots = (K::Piece*)memory + threadIdx.x;  // [stage][row][thread]
    V::Piece* value_slots =
        (V::Piece*)(memory + STAGES * ROWS * THREADS * sizeof(K::Piece)) + threadIdx.x;

    const int split = blockIdx.x, splits = gridDim.x, batch = blockIdx.z;
    const int heads = gridDim.y * HEADS, head = blockIdx.y * HEADS;
    const int kv_head = head / (heads / kv_heads);
    const int lane = threadIdx.x % LANES, worker = threadIdx.x / LANES;
    const int begin = first[batch] + split * chunk;
    const int stop = min(end[batch], begin + chunk);
    const long long first_slot = ((long long)batch * heads + head) * splits + split;
    if (begin >= stop) {  // a shorter sequence than others of the batch
        if (threadIdx.x < HEADS) {
            const long long slot = first_slot + threadIdx.x * splits;
            sums[2 * slot] = LOWEST, sums[2 * slot + 1] = 0.0f;
        }
        return;
    }
    where += (long long)batch * where_stride;
    if (mask) mask += (long long)batch * mask_stride;
    k += kv_head * row_bytes<K_TYPE>(HEAD_DIM);
    v += kv_head * row_bytes<V_TYPE>(HEAD_DIM);
    const long long k_cell = kv_heads * row_bytes<K_TYPE>(HEAD_DIM);
    const long long v_cell = kv_heads * row_bytes<V_TYPE>(HEAD_DIM);

    float query[HEADS][PIECE], sum[HEADS][PIECE];
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        const float* from = q + ((long long)batch * heads + head + h) * HEAD_DIM + lane * PIECE;
#pragma unroll
        for (int e = 0; e < PIECE; e++) {
            query[h][e] = from[e] * scale;
            sum[h][e] = 0.0f;
        }
    }
    // Of the scores that this thread is left with: their row, their first head, their softmax.
    const int my_row = lane * SCORES / LANES / HEADS, my_head = lane * SCORES / LANES % HEADS;
    float top[MINE], total[MINE];
#pragma unroll
    for (int m = 0; m < MINE; m++) top[m] = LOWEST, total[m] = 0.0f;

    int cells[ROWS];
    auto look_up = [&](int base) {  // rows behind the end are read as the last one: never counted
#pragma unroll
        for (int j = 0; j < ROWS; j++)
            cells[j] = cell_of(where, min(base + worker * ROWS + j, stop - 1), ring);
    };
    auto fetch = [&](int stage) {
#pragma unroll
        for (int j = 0; j < ROWS; j++) {
            const int slot = (stage * ROWS + j) * THREADS;
            K::fetch(k + cells[j] * k_cell, lane, key_slots + slot);
            V::fetch(v + cells[j] * v_cell, lane, value_slots + slot);
        }
    };

    look_up(begin);
    if (AHEAD) {
        fetch(0);
        close_copies();
        look_up(begin + TILE);
    }
    // All workers of a block make the same number of turns, so that whole warps can shuffle.
    int stage = 0;
    for (int base = begin; base < stop; base += TILE) {
        const int coming = AHEAD ? stage ^ 1 : 0;
        if (base + AHEAD * TILE < stop) fetch(coming);
        close_copies();
        look_up(base + (AHEAD + 1) * TILE);
        const int item = base + worker * ROWS + my_row;
        const bool counts = item < stop && (!mask || mask[item]);
        wait_for_copies<AHEAD>();
        const int slot = stage * ROWS * THREADS;
        stage = coming;

        float score[SCORES];
#pragma unroll
        for (int j = 0; j < ROWS; j++) {
            float key[PIECE];
            K::decode(key_slots[slot + j * THREADS], key);
#pragma unroll
            for (int h = 0; h < HEADS; h++) {
                float dot = 0.0f;
#pragma unroll
                for (int e = 0; e < PIECE; e++) dot += query[h][e] * key[e];
                score[j * HEADS + h] = dot;
            }
        }
        add_up<SCORES, LANES / 2>(score, lane);

        float weight[MINE], shrink[MINE];
        bool has_risen = false;
#pragma unroll
        for (int m = 0; m < MINE; m++) {
            float highest = counts ? score[m] : LOWEST;
#pragma unroll
            for (int step = LANES / 2; step >= LANES / ROWS; step /= 2)
                highest = fmaxf(highest, __shfl_xor_sync(WARP, highest, step));
            highest = fmaxf(highest, top[m]);
            has_risen |= highest > top[m];
            shrink[m] = exp2f(top[m] - highest);
            weight[m] = counts ? exp2f(score[m] - highest) : 0.0f;
            total[m] = total[m] * shrink[m] + weight[m];
            top[m] = highest;
        }
        if (__any_sync(WARP, has_risen)) {
#pragma unroll
            for (int h = 0; h < HEADS; h++) {
                const float by = of_sum(shrink, h);  // the same for all rows; row 0 has it too
#pragma unroll
                for (int e = 0; e < PIECE; e++) sum[h][e] *= by;
            }
        }
#pragma unroll
        for (int j = 0; j < ROWS; j++) {
            float value[PIECE];
            V::decode(value_slots[slot + j * THREADS], value);
#pragma unroll
            for (int h = 0; h < HEADS; h++) {
                const float share = of_sum(weight, j * HEADS + h);
#pragma unroll
                for (int e = 0; e < PIECE; e++) sum[h][e] += share * value[e];
            }
        }
    }

    wait_for_copies<0>();
    __syncthreads();  // from here on the memory of the stages is that of the merge
    float* all_sums = (float*)memory;                       // [worker][head][element]
    float* all_tops = all_sums + WORKERS * HEADS * HEAD_DIM;  // [worker][head]
    float* all_totals = all_tops + WORKERS * HEADS;
#pragma unroll
    for (int m = 0; m < MINE; m++) {
#pragma unroll
        for (int step = LANES / 2; step >= LANES / ROWS; step /= 2)
            total[m] += __shfl_xor_sync(WARP, total[m], step);
        if (my_row == 0 && lane * SCORES % LANES == 0) {
            all_tops[worker * HEADS + my_head + m] = top[m];
            all_totals[worker * HEADS + my_head + m] = total[m];
        }
    }
#pragma unroll
    for (int h = 0; h < HEADS; h++)
#pragma unroll
        for (int e = 0; e < PIECE; e++)
            all_sums[(worker * HEADS + h) * HEAD_DIM + lane * PIECE + e] = sum[h][e];
    __syncthreads();
    for (int i = threadIdx.x; i < HEADS * HEAD_DIM; i += THREADS) {
        const int h = i / HEAD_DIM, e = i % HEAD_DIM;
        float highest = LOWEST, weight = 0.0f, out = 0.0f;
        for (int w = 0; w < WORKERS; w++) highest = fmaxf(highest, all_tops[w * HEADS + h]);
        for (int w = 0; w < WORKERS; w++) {
            const float share = exp2f(all_tops[w * HEADS + h] - highest);
            weight += all_totals[w * HEADS + h] * share;
            out += all_sums[w * HEADS * HEAD_DIM + i] * share;
        }
        const long long slot = first_slot + (long long)h * splits;
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
        if (sums[2 * s + 1] == 0.0f) continue;  // nothing was written there
        const float share = exp2f(sums[2 * s] - highest);
        weight += sums[2 * s + 1] * share;
        value += part[s * HEAD_DIM + threadIdx.x] * share;
    }
    out[row * HEAD_DIM + threadIdx.x] = weight > 0.0f ? value / weight : 0.0f;
}
