// How cached elements are kept in memory, and the way to f32 and back.
//
// No header of the CUDA toolkit is needed, so that NVRTC compiles these files by themselves. Bits
// and rounding are those of backends/formats; the tests compare both, element by element.
//
// A *unit* is the smallest piece of a row that can be written alone (a quantised block, or eight
// plain elements). A *piece* is eight elements, what one thread reads of a row: `load` waits for
// it, `fetch` puts it into shared memory without waiting where the type allows.

#pragma once

typedef unsigned char byte;
typedef unsigned short half_bits;

enum { F32, F16, BF16, FP8, Q8_0, Q4_0 };

#define PIECE 8

#ifdef __CUDACC__

__device__ __forceinline__ float from_f16(half_bits h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}

__device__ __forceinline__ half_bits to_f16(float f) {
    half_bits h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}

// Copies to shared memory that go on while the thread does. BYTES: 4, 8 or 16, and so aligned.
template <int BYTES> __device__ __forceinline__ void copy_async(void* shared, const void* from) {
    unsigned at = (unsigned)__cvta_generic_to_shared(shared);
    if (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" : : "r"(at), "l"(from) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2;"
                     : : "r"(at), "l"(from), "n"(BYTES) : "memory");
}

// The copies begun since the last call form a group.
__device__ __forceinline__ void close_copies() { asm volatile("cp.async.commit_group;" : : : "memory"); }

// Until no more than this thread's latest GROUPS groups are under way.
template <int GROUPS> __device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" : : "n"(GROUPS) : "memory");
}

#endif  // the emulation, which runs these kernels on a CPU, brings its own

__device__ __forceinline__ float from_bf16(half_bits b) {
    return __uint_as_float((unsigned)b << 16);
}

// Round to nearest even; a NaN stays one.
__device__ __forceinline__ half_bits to_bf16(float f) {
    unsigned bits = __float_as_uint(f);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (half_bits)(bits >> 16 | 0x40u);
    return (half_bits)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// e4m3 has the exponent's bias at 7: its bits, placed where f32 has them, are 2^-120 too small.
__device__ __forceinline__ float from_fp8(byte code) {
    float size = __uint_as_float((unsigned)(code & 0x7f) << 20) * 1.329227995784916e36f;
    if ((code & 0x7f) == 0x7f) size = __uint_as_float(0x7fc00000u);
    return code & 0x80 ? -size : size;
}

// Nearest even in units of the value's binade; too large becomes 448. A carry into the next
// binade is the next code.
__device__ __forceinline__ byte to_fp8(float f) {
    unsigned bits = __float_as_uint(f);
    byte sign = (byte)(bits >> 24 & 0x80u);
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return sign | 0x7f;
    float size = fminf(__uint_as_float(bits), 448.0f);
    int exponent = max((int)(__float_as_uint(size) >> 23) - 127, -6);
    float per_unit = __uint_as_float((unsigned)(127 + 3 - exponent) << 23);
    int code = (exponent + 6) * 8 + (int)rintf(size * per_unit);
    return sign | (byte)min(code, 0x7e);
}

// 1 / scale, and 0 for scales that have no inverse (they are 0 as halves).
__device__ __forceinline__ float inverse_of(float scale) {
    return fabsf(scale) < 1.1754943508222875e-38f ? 0.0f : __fdiv_rn(1.0f, scale);
}

// Blocks of 34 and 18 bytes are aligned to two bytes only.
__device__ __forceinline__ half_bits load_half(const byte* at) {
    return *(const half_bits*)at;
}

__device__ __forceinline__ void store_half(byte* at, half_bits h) { *(half_bits*)at = h; }

template <int TYPE> struct Stored;

template <> struct Stored<F32> {
    enum { UNIT = PIECE, UNIT_BYTES = 32 };
    struct Piece { float4 low, high; };
    static __device__ __forceinline__ Piece load(const byte* row, int piece) {
        const float4* at = (const float4*)(row + piece * 32);
        Piece p = {at[0], at[1]};
        return p;
    }
    static __device__ __forceinline__ void fetch(const byte* row, int piece, Piece* slot) {
        copy_async<16>(&slot->low, row + piece * 32);
        copy_async<16>(&slot->high, row + piece * 32 + 16);
    }
    static __device__ __forceinline__ void decode(const Piece& p, float* out) {
        out[0] = p.low.x, out[1] = p.low.y, out[2] = p.low.z, out[3] = p.low.w;
        out[4] = p.high.x, out[5] = p.high.y, out[6] = p.high.z, out[7] = p.high.w;
    }
    static __device__ __forceinline__ void encode(const float* in, byte* unit) {
        float4* at = (float4*)unit;
        at[0] = make_float4(in[0], in[1], in[2], in[3]);
        at[1] = make_float4(in[4], in[5], in[6], in[7]);
    }
};

// Two-byte types: 16 bytes a piece, two elements a word.
template <float (*FROM)(half_bits), half_bits (*TO)(float)> struct Halves {
    enum { UNIT = PIECE, UNIT_BYTES = 16 };
    typedef uint4 Piece;
    static __device__ __forceinline__ Piece load(const byte* row, int piece) {
        return ((const uint4*)row)[piece];
    }
    static __device__ __forceinline__ void fetch(const byte* row, int piece, Piece* slot) {
        copy_async<16>(slot, row + piece * 16);
    }
    static __device__ __forceinline__ void two(unsigned word, float* out) {
        out[0] = FROM((half_bits)(word & 0xffffu));
        out[1] = FROM((half_bits)(word >> 16));
    }
    static __device__ __forceinline__ void decode(const Piece& p, float* out) {
        two(p.x, out), two(p.y, out + 2), two(p.z, out + 4), two(p.w, out + 6);
    }
    static __device__ __forceinline__ unsigned word(const float* in) {
        return TO(in[0]) | (unsigned)TO(in[1]) << 16;
    }
    static __device__ __forceinline__ void encode(const float* in, byte* unit) {
        *(uint4*)unit = make_uint4(word(in), word(in + 2), word(in + 4), word(in + 6));
    }
};

template <> struct Stored<F16> : Halves<from_f16, to_f16> {};
template <> struct Stored<BF16> : Halves<from_bf16, to_bf16> {};

template <> struct Stored<FP8> {
    enum { UNIT = PIECE, UNIT_BYTES = 8 };
    typedef uint2 Piece;
    static __device__ __forceinline__ Piece load(const byte* row, int piece) {
        return ((const uint2*)row)[piece];
    }
    static __device__ __forceinline__ void fetch(const byte* row, int piece, Piece* slot) {
        copy_async<8>(slot, row + piece * 8);
    }
    static __device__ __forceinline__ void four(unsigned word, float* out) {
        for (int i = 0; i < 4; i++) out[i] = from_fp8((byte)(word >> 8 * i));
    }
    static __device__ __forceinline__ void decode(const Piece& p, float* out) {
        four(p.x, out), four(p.y, out + 4);
    }
    static __device__ __forceinline__ unsigned word(const float* in) {
        unsigned w = 0;
        for (int i = 0; i < 4; i++) w |= (unsigned)to_fp8(in[i]) << 8 * i;
        return w;
    }
    static __device__ __forceinline__ void encode(const float* in, byte* unit) {
        *(uint2*)unit = make_uint2(word(in), word(in + 4));
    }
};

// ggml's q8_0: a half-precision scale and 32 signed bytes.
template <> struct Stored<Q8_0> {
    enum { UNIT = 32, UNIT_BYTES = 34 };
    struct Piece { half_bits scale, quants[4]; };
    static __device__ __forceinline__ Piece load(const byte* row, int piece) {
        const byte* unit = row + piece / 4 * UNIT_BYTES;
        const byte* at = unit + 2 + piece % 4 * 8;
        Piece p = {load_half(unit),
                   {load_half(at), load_half(at + 2), load_half(at + 4), load_half(at + 6)}};
        return p;
    }
    // Blocks are aligned to two bytes, asynchronous copies to four at the least.
    static __device__ __forceinline__ void fetch(const byte* row, int piece, Piece* slot) {
        *slot = load(row, piece);
    }
    static __device__ __forceinline__ void decode(const Piece& p, float* out) {
        float scale = from_f16(p.scale);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            out[2 * i] = (float)(signed char)(p.quants[i] & 0xff) * scale;
            out[2 * i + 1] = (float)(signed char)(p.quants[i] >> 8) * scale;
        }
    }
    static __device__ __forceinline__ void encode(const float* in, byte* unit) {
        float largest = 0.0f;
        for (int i = 0; i < UNIT; i++) largest = fmaxf(largest, fabsf(in[i]));
        float scale = __fdiv_rn(largest, 127.0f), inverse = inverse_of(scale);
        store_half(unit, to_f16(scale));
        for (int i = 0; i < UNIT; i++)  // halves go away from zero, as with C's roundf
            unit[2 + i] = (byte)(signed char)(int)roundf(__fmul_rn(in[i], inverse));
    }
};

// ggml's q4_0: a half-precision scale and 32 quants of 4 bits, 0 .. 15 for -8 .. 7. Byte j holds
// element j below and element j + 16 above.
template <> struct Stored<Q4_0> {
    enum { UNIT = 32, UNIT_BYTES = 18 };
    struct Piece { half_bits scale, quants[4]; int shift; };
    static __device__ __forceinline__ Piece load(const byte* row, int piece) {
        const byte* unit = row + piece / 4 * UNIT_BYTES;
        const byte* at = unit + 2 + piece % 2 * 8;
        Piece p = {load_half(unit),
                   {load_half(at), load_half(at + 2), load_half(at + 4), load_half(at + 6)},
                   piece % 4 / 2 * 4};
        return p;
    }
    // Blocks are aligned to two bytes, asynchronous copies to four at the least.
    static __device__ __forceinline__ void fetch(const byte* row, int piece, Piece* slot) {
        *slot = load(row, piece);
    }
    static __device__ __forceinline__ void decode(const Piece& p, float* out) {
        float scale = from_f16(p.scale);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            out[2 * i] = (float)((int)(p.quants[i] >> p.shift & 15) - 8) * scale;
            out[2 * i + 1] = (float)((int)(p.quants[i] >> (p.shift + 8) & 15) - 8) * scale;
        }
    }
    static __device__ __forceinline__ int quant(float value, float inverse) {
        return min((int)__fadd_rn(__fmul_rn(value, inverse), 8.5f), 15);
    }
    static __device__ __forceinline__ void encode(const float* in, byte* unit) {
        float largest = 0.0f;  // with its sign; the first of equals
        for (int i = 0; i < UNIT; i++)
            if (fabsf(in[i]) > fabsf(largest)) largest = in[i];
        float scale = __fdiv_rn(largest, -8.0f), inverse = inverse_of(scale);
        store_half(unit, to_f16(scale));
        for (int i = 0; i < UNIT / 2; i++)
            unit[2 + i] = (byte)(quant(in[i], inverse) | quant(in[i + UNIT / 2], inverse) << 4);
    }
};

// Bytes of a row of `elements`.
template <int TYPE> __device__ __forceinline__ long long row_bytes(int elements) {
    return (long long)(elements / Stored<TYPE>::UNIT) * Stored<TYPE>::UNIT_BYTES;
}
