// Rows of K or V, written, read and turned. One thread a unit (see numbers.cuh).
//
// Compiled for one type: -DTYPE=F16. A store is [cell][head][HEAD_DIM] as the type keeps it, or,
// transposed, [head][HEAD_DIM][cell]. -DHEAD_DIM=128: elements of a head.

#include "numbers.cuh"

typedef Stored<TYPE> Kept;

#define UNITS (HEAD_DIM / Kept::UNIT)

// rows[i] (f32, [n][heads][HEAD_DIM]) goes to cells[i]. Where two rows go to the same cell, one of
// them is there afterwards.
extern "C" __global__ void write_rows(
    const float* __restrict__ rows, const int* __restrict__ cells, byte* __restrict__ store,
    int n, int heads)
{
    long long unit = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    long long per_row = (long long)heads * UNITS;
    if (unit >= n * per_row) return;
    long long row = unit / per_row, within = unit % per_row;
    float values[Kept::UNIT];
    const float4* from = (const float4*)(rows + unit * Kept::UNIT);
#pragma unroll
    for (int i = 0; i < Kept::UNIT / 4; i++) {
        float4 four = from[i];
        values[4 * i] = four.x, values[4 * i + 1] = four.y;
        values[4 * i + 2] = four.z, values[4 * i + 3] = four.w;
    }
    Kept::encode(values, store + (cells[row] * per_row + within) * Kept::UNIT_BYTES);
}

// The other way: cells[i] to rows[i].
extern "C" __global__ void read_rows(
    float* __restrict__ rows, const int* __restrict__ cells, const byte* __restrict__ store,
    int n, int heads)
{
    long long piece = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    int per_row = heads * (HEAD_DIM / PIECE);
    if (piece >= (long long)n * per_row) return;
    long long row = piece / per_row;
    int within = (int)(piece % per_row);
    const byte* at = store + cells[row] * row_bytes<TYPE>(heads * HEAD_DIM);
    float values[PIECE];
    Kept::decode(Kept::load(at, within), values);
    float4* to = (float4*)(rows + piece * PIECE);
    to[0] = make_float4(values[0], values[1], values[2], values[3]);
    to[1] = make_float4(values[4], values[5], values[6], values[7]);
}

// Turn the keys of cells[i] in place: the pair of elements e and e + HEAD_DIM/2 by the angle whose
// cosine is turns[0][i][e] and whose sine is turns[1][i][e]. Rounded again as they are written.
// Products and sums are rounded one by one, so that all backends get the same bits.
extern "C" __global__ void turn_rows(
    byte* __restrict__ store, const int* __restrict__ cells, const float* __restrict__ turns,
    int n, int heads)
{
    const int half_units = UNITS / 2, half_dim = HEAD_DIM / 2;
    long long unit = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    long long per_row = (long long)heads * half_units;
    if (unit >= n * per_row) return;
    long long row = unit / per_row;
    int head = (int)(unit % per_row) / half_units, within = (int)(unit % half_units);
    byte* at = store + (cells[row] * (long long)heads + head) * row_bytes<TYPE>(HEAD_DIM);
    float first[Kept::UNIT], second[Kept::UNIT];
#pragma unroll
    for (int p = 0; p < Kept::UNIT / PIECE; p++) {
        int piece = within * (Kept::UNIT / PIECE) + p;
        Kept::decode(Kept::load(at, piece), first + p * PIECE);
        Kept::decode(Kept::load(at, piece + half_dim / PIECE), second + p * PIECE);
    }
    const float* cosine = turns + row * half_dim + within * Kept::UNIT;
    const float* sine = cosine + (long long)n * half_dim;
#pragma unroll
    for (int e = 0; e < Kept::UNIT; e++) {
        float a = first[e], b = second[e];
        first[e] = __fadd_rn(__fmul_rn(a, cosine[e]), -__fmul_rn(b, sine[e]));
        second[e] = __fadd_rn(__fmul_rn(a, sine[e]), __fmul_rn(b, cosine[e]));
    }
    Kept::encode(first, at + within * Kept::UNIT_BYTES);
    Kept::encode(second, at + (within + half_units) * Kept::UNIT_BYTES);
}
