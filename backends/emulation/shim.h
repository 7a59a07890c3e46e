// Enough of CUDA to run this project's kernels on a CPU, one thread block after the other.
//
// Every CUDA thread is a fibre. All fibres of a block are resumed in turn; one that waits (for its
// block, or for the lanes of its warp) hands on to the next. Slow, deterministic, and strict: a
// thread that misses a barrier makes the launch fail instead of hanging.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static
#define __align__(n) __attribute__((aligned(n)))

struct uint3 { unsigned x, y, z; };
struct uint2 { unsigned x, y; };
struct uint4 { unsigned x, y, z, w; };
struct float4 { float x, y, z, w; };

static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

static inline float __uint_as_float(unsigned u) { float f; memcpy(&f, &u, 4); return f; }
static inline unsigned __float_as_uint(float f) { unsigned u; memcpy(&u, &f, 4); return u; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }

static inline float from_f16(unsigned short h) { _Float16 f; memcpy(&f, &h, 2); return (float)f; }
static inline unsigned short to_f16(float f) {
    _Float16 h = (_Float16)f;
    unsigned short bits;
    memcpy(&bits, &h, 2);
    return bits;
}

namespace emulated {

const int WARP = 32, STACK = 1 << 16;

// A copy that is under way: nothing arrives before it is waited for.
struct Coming { void* to; const void* from; size_t bytes; unsigned group; };

struct Fibre {
    ucontext_t context;
    uint3 index;
    bool over;
    unsigned shuffles, group;
    std::vector<Coming> coming;
};

static std::vector<Fibre> fibres;
static ucontext_t scheduler;
static int current, waiting, alive;
static unsigned generation;
static std::vector<unsigned> slots;  // two a thread: a shuffle writes one while the last is read
static uint3 block_index, block_size, grid_size;
static void (*entry)(void**);
static void** arguments;

static void hand_on() { swapcontext(&fibres[current].context, &scheduler); }

static void body() {
    entry(arguments);
    fibres[current].over = true;
    alive--;
}

static void barrier() {
    unsigned mine = generation;
    if (++waiting == alive) waiting = 0, generation++;
    while (generation == mine) hand_on();
}

// Every lane of a warp must come here equally often: all write, all hand on once, all read. What
// the lanes of this one's warp wrote.
static const unsigned* exchanged(unsigned value) {
    Fibre& self = fibres[current];
    size_t parity = (self.shuffles++ & 1) * fibres.size();
    slots[parity + current] = value;
    hand_on();
    return &slots[parity + current / WARP * WARP];
}

static void wait_for(unsigned latest) {
    Fibre& self = fibres[current];
    std::vector<Coming> later;
    for (const Coming& each : self.coming)
        if (each.group + latest < self.group) memcpy(each.to, each.from, each.bytes);
        else later.push_back(each);
    self.coming.swap(later);
}

// 0, or 1 where threads wait for one that is over.
static int run_block() {
    int n = (int)fibres.size();
    alive = n, waiting = 0;
    for (int i = 0; i < n; i++) {
        Fibre& fibre = fibres[i];
        fibre.over = false, fibre.shuffles = fibre.group = 0;
        fibre.coming.clear();
        fibre.index = {i % block_size.x, i / block_size.x % block_size.y, 0};
        static std::vector<char> stacks;
        stacks.resize((size_t)n * STACK);
        getcontext(&fibre.context);
        fibre.context.uc_stack.ss_sp = stacks.data() + (size_t)i * STACK;
        fibre.context.uc_stack.ss_size = STACK;
        fibre.context.uc_link = &scheduler;
        makecontext(&fibre.context, body, 0);
    }
    while (alive) {
        for (current = 0; current < n; current++)
            if (!fibres[current].over) swapcontext(&scheduler, &fibres[current].context);
        if (alive && waiting == alive) return 1;  // the last to come would have set it back
    }
    return 0;
}

template <auto KERNEL> struct Launch;
template <class... A, void (*KERNEL)(A...)> struct Launch<KERNEL> {
    template <size_t... I> static void call(void** given, std::index_sequence<I...>) {
        KERNEL(*(A*)given[I]...);
    }
    static void entry(void** given) { call(given, std::index_sequence_for<A...>{}); }
};

static int launch(void (*what)(void**), void** given, const unsigned* grid, const unsigned* block) {
    entry = what, arguments = given;
    grid_size = {grid[0], grid[1], grid[2]};
    block_size = {block[0], block[1], block[2]};
    fibres.resize((size_t)block[0] * block[1] * block[2]);
    slots.assign(2 * fibres.size(), 0);
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0]; x++) {
                block_index = {x, y, z};
                if (run_block()) return 1;
            }
    return 0;
}

}  // namespace emulated

#define threadIdx (emulated::fibres[emulated::current].index)
#define blockIdx (emulated::block_index)
#define blockDim (emulated::block_size)
#define gridDim (emulated::grid_size)
#define __syncthreads() emulated::barrier()

static inline float __shfl_xor_sync(unsigned, float value, int step) {
    int other = emulated::current % emulated::WARP ^ step;
    return __uint_as_float(emulated::exchanged(__float_as_uint(value))[other]);
}

static inline float __shfl_sync(unsigned, float value, int lane, int width) {
    int other = emulated::current % emulated::WARP / width * width + lane % width;
    return __uint_as_float(emulated::exchanged(__float_as_uint(value))[other]);
}

static inline int __any_sync(unsigned, int is_so) {
    const unsigned* said = emulated::exchanged(is_so != 0);
    for (int lane = 0; lane < emulated::WARP; lane++)
        if (said[lane]) return 1;
    return 0;
}

template <int BYTES> static inline void copy_async(void* to, const void* from) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "what the hardware copies");
    if (((size_t)to | (size_t)from) % BYTES) abort();
    emulated::Fibre& self = emulated::fibres[emulated::current];
    self.coming.push_back({to, from, BYTES, self.group});
}

static inline void close_copies() { emulated::fibres[emulated::current].group++; }

template <int GROUPS> static inline void wait_for_copies() { emulated::wait_for(GROUPS); }

#define EMULATED(KERNEL) \
    extern "C" int emulate_##KERNEL(void** given, const unsigned* grid, const unsigned* block) { \
        return emulated::launch(emulated::Launch<KERNEL>::entry, given, grid, block); \
    }
