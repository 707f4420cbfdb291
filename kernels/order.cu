// Program: rows in the order of their keys. Sorted by label, the pairs that match lie in a narrow
// band of tiles whatever the order of the batch: rows are copied in that order, and gradients go back
// to where their rows came from. O(n) and O(n d) work.
//
// An order is a permutation: row i of the sorted matrix is row order[i] of the caller's. Null stands
// for the identity.

#include "ptx/match.cuh"
#include "ptx/redux.cuh"
#include "ptx/shuffle.cuh"
#include "ptx/vote.cuh"
#include "reduce.cuh"
#include "tile/element.cuh"

using tile::Destination;
using tile::Operand;

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;

__device__ __forceinline__ long long thread_index() {
    return static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
}

// A warp's row, in grids of ceil(rows / 8).
__device__ __forceinline__ long long warp_row() {
    return static_cast<long long>(blockIdx.x) * WARPS + threadIdx.x / 32;
}

// ---- Keys ----------------------------------------------------------------------------------------

// Keys to be sorted, `count` of them. Twin of launch::order::Keys.
struct Keys {
    const unsigned* keys;
    unsigned* sorted;
    unsigned* order;
    unsigned* other;  // 2 * count, to sort by way of
    unsigned count;
};

constexpr int SORT_THREADS = 1024;  // at most
constexpr int SORT_WARPS = SORT_THREADS / 32;
constexpr unsigned SORT_ROUNDS = 4;  // of a warp's keys, at least: every warp has its own counts
constexpr int DIGIT_BITS = 8;
constexpr int DIGITS = 1 << DIGIT_BITS;

// Sorts keys, stably, by one block: a radix sort, the last digit first, that leaves out the digits in
// which no two keys differ, and of the others the bits that all keys share. Every warp has a stretch of
// the keys to itself. One block, since this is one launch, and O(n) beside passes over n * m pairs.
__device__ __forceinline__ void sort_by_one_block(const Keys& to) {
    __shared__ unsigned next[SORT_WARPS][DIGITS];
    __shared__ unsigned sums[DIGITS];
    __shared__ unsigned varying;
    const unsigned me = threadIdx.x, warp = me / 32, lane = me % 32;
    const unsigned threads = blockDim.x;
    const unsigned each = max((to.count + threads - 1) / threads, SORT_ROUNDS) * 32;
    const unsigned warps = (to.count + each - 1) / each;
    const unsigned first = warp * each, end = min(first + each, to.count);
    if (me == 0) varying = 0;
    __syncthreads();
    unsigned differ = 0;
    for (unsigned i = first + lane; i < end; i += 32) differ |= to.keys[i] ^ to.keys[0];
    differ = ptx::warp_or(differ);
    // Or gives the same in any order.
    if (lane == 0 && differ != 0) atomicOr(&varying, differ);
    __syncthreads();
    unsigned passes = 0;
#pragma unroll
    for (int shift = 0; shift < 32; shift += DIGIT_BITS)
        passes += (varying >> shift & (DIGITS - 1)) != 0;
    if (passes == 0) {
        for (unsigned i = first + lane; i < end; i += 32) {
            to.sorted[i] = to.keys[i];
            to.order[i] = i;
        }
    }
    const unsigned* keys = to.keys;
    const unsigned* places = nullptr;
#pragma unroll 1
    for (int shift = 0; shift < 32; shift += DIGIT_BITS) {
        const unsigned bits = varying >> shift & (DIGITS - 1);
        if (bits == 0) continue;
        // A power of two, like the threads, which share them; whole warps have some.
        const unsigned digits = max(2u << (31 - __clz(bits)), 32);
        const unsigned own_digits = max(digits / threads, 1), first_digit = me * own_digits;
        // The last pass leaves the keys where they are wanted.
        --passes;
        unsigned* to_keys = passes % 2 == 0 ? to.sorted : to.other;
        unsigned* to_places = passes % 2 == 0 ? to.order : to.other + to.count;
        for (unsigned w = 0; w < warps; ++w)
            for (unsigned digit = me; digit < digits; digit += threads) next[w][digit] = 0;
        __syncthreads();
        for (unsigned i = first + lane; i < end; i += 32)
            atomicAdd(&next[warp][keys[i] >> shift & bits], 1u);
        __syncthreads();
        // Counts into places: every one becomes the sum of those before it.
        unsigned own = 0;
        if (first_digit < digits) {
            for (unsigned digit = first_digit; digit < first_digit + own_digits; ++digit)
                for (unsigned w = 0; w < warps; ++w) own += next[w][digit];
        }
        const unsigned end_of_own = reduce::scan(own, sums, min(threads, digits));
        if (first_digit < digits) {
            unsigned place = end_of_own - own;
            for (unsigned digit = first_digit; digit < first_digit + own_digits; ++digit) {
                for (unsigned w = 0; w < warps; ++w) {
                    const unsigned count = next[w][digit];
                    next[w][digit] = place;
                    place += count;
                }
            }
        }
        __syncthreads();
        // Equal digits of a warp's 32 keep their order.
        for (unsigned start = first; start < end; start += 32) {
            const unsigned i = start + lane;
            const bool valid = i < end;
            const unsigned key = valid ? keys[i] : 0;
            const unsigned digit = valid ? key >> shift & bits : DIGITS;
            const unsigned peers = ptx::match_any(digit);
            const unsigned rank = __popc(peers & ((1u << lane) - 1));
            unsigned place = 0;
            if (valid) place = next[warp][digit];
            __syncwarp();
            if (valid) {
                if (rank == 0) next[warp][digit] = place + __popc(peers);
                to_keys[place + rank] = key;
                to_places[place + rank] = places ? places[i] : i;
            }
            __syncwarp();
        }
        keys = to_keys;
        places = to_places;
        __syncthreads();
    }
}

// Block 0 sorts `one`, block 1 `other`. Grid: 1 or 2, of 64 to SORT_THREADS, a power of two.
extern "C" __global__ void __launch_bounds__(SORT_THREADS) sort_keys(Keys one, Keys other) {
    // Field by field: chosen as a whole, they would go through local memory.
    const bool first = blockIdx.x == 0;
    sort_by_one_block(Keys{first ? one.keys : other.keys, first ? one.sorted : other.sorted,
                           first ? one.order : other.order, first ? one.other : other.other,
                           first ? one.count : other.count});
}

// to[i] = from[order[i]]. Grid: ceil(count / 256).
extern "C" __global__ void __launch_bounds__(THREADS)
    gather_keys(const unsigned* from, const unsigned* order, unsigned count, unsigned* to) {
    const long long i = thread_index();
    if (i < count) to[i] = from[order[i]];
}

// How many of the sorted keys, of which those from `high` on are not below this one and those up to
// `low` are, are below it.
__device__ __forceinline__ unsigned keys_below(const unsigned* sorted, unsigned low, unsigned high,
                                               unsigned key) {
    while (low < high) {
        const unsigned middle = low + (high - low) / 2;
        if (sorted[middle] < key)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

// starts[k] = how many of the sorted keys are below k: groups + 1. Grid: ceil((groups + 1) / 256).
extern "C" __global__ void __launch_bounds__(THREADS)
    key_starts(const unsigned* sorted, unsigned count, unsigned groups, unsigned* starts) {
    const long long group = thread_index();
    if (group > groups) return;
    starts[group] = keys_below(sorted, 0, count, group);
}

// matches[i] = where the keys equal to that of row i begin and end among `others` sorted ones.
// Grid: ceil(count / 256).
extern "C" __global__ void __launch_bounds__(THREADS)
    key_matches(const unsigned* keys, unsigned count, const unsigned* sorted, unsigned others,
                uint2* matches) {
    const long long i = thread_index();
    const unsigned key = keys[min(i, count - 1ll)], lane = threadIdx.x % 32;
    // Where keys are in order, most are those of the lane below: they are looked for once.
    const unsigned below = ptx::shuffle_up(key, 1);
    const bool leads = lane == 0 || key != below;
    const unsigned leading = ptx::ballot(leads, 0xffffffffu) << (31 - lane);
    unsigned first = 0, end = 0;
    if (leads) {
        first = keys_below(sorted, 0, others, key);
        end = first;
        // Of the keys from there on; there is none above the largest of all.
        if (first < others && sorted[first] == key)
            end = key == 0xffffffffu ? others : keys_below(sorted, first + 1, others, key + 1);
    }
    const unsigned from = lane - __clz(leading);
    first = ptx::shuffle(first, from);
    end = ptx::shuffle(end, from);
    if (i < count) matches[i] = make_uint2(first, end);
}

// The tiles that may match: bands[i] = the first and the end of those of `others` tiles whose range
// of keys meets that of tile i, (0, 0) for none. own: `count` ranges. back: the others' bands, or
// null; a tile in whose band tile i lies is then in that of i. Grid: ceil(count / 8), a warp a tile.
extern "C" __global__ void __launch_bounds__(THREADS)
    key_bands(const uint2* own, unsigned count, const uint2* other, unsigned others,
              const uint2* back, uint2* bands) {
    const long long tile = warp_row();
    if (tile >= count) return;
    const uint2 range = own[tile];
    unsigned first = 0xffffffffu, end = 0;
    for (unsigned j = threadIdx.x % 32; j < others; j += 32) {
        const uint2 there = other[j];
        bool met = there.y >= range.x && range.y >= there.x;
        // Where keys are not in order, as columns may be in those of their rows.
        if (back) met = met || (back[j].x <= tile && tile < back[j].y);
        if (!met) continue;
        first = min(first, j);
        end = j + 1;
    }
    first = ptx::warp_min(first);
    end = ptx::warp_max(end);
    if (threadIdx.x % 32 == 0) bands[tile] = make_uint2(min(first, end), end);
}

// ---- Rows ----------------------------------------------------------------------------------------

// So many threads copy a row, each so many groups of elements at a time, all on their way at once.
constexpr unsigned COPY_LANES = 4;
constexpr unsigned COPY_AHEAD = 4;
constexpr unsigned COPY_ROWS = THREADS / COPY_LANES;

template <class From, class To, class Convert>
__device__ __forceinline__ void copy(const From* from, To* to, unsigned count, unsigned lane,
                                     Convert convert) {
    unsigned i = lane;
#pragma unroll 1
    for (; i + (COPY_AHEAD - 1) * COPY_LANES < count; i += COPY_AHEAD * COPY_LANES) {
        From group[COPY_AHEAD];
#pragma unroll
        for (unsigned k = 0; k < COPY_AHEAD; ++k) group[k] = from[i + k * COPY_LANES];
#pragma unroll
        for (unsigned k = 0; k < COPY_AHEAD; ++k) to[i + k * COPY_LANES] = convert(group[k]);
    }
#pragma unroll 1
    for (; i < count; i += COPY_LANES) to[i] = convert(from[i]);
}

// Copies rows of x, in the given order and as they are: out is rows x depth elements of x's type,
// aligned to 16 bytes, out_stride elements a row. Grid: ceil(rows / 64).
extern "C" __global__ void __launch_bounds__(THREADS)
    gather_rows(Operand x, const unsigned* order, unsigned rows, unsigned depth, void* out,
                long long out_stride) {
    const unsigned row = blockIdx.x * COPY_ROWS + threadIdx.x / COPY_LANES;
    if (row >= rows) return;
    const unsigned lane = threadIdx.x % COPY_LANES;
    const int size = x.type == tile::F32 ? 4 : 2;
    const unsigned source = order ? order[row] : row;
    const char* from = static_cast<const char*>(x.data) + source * x.stride * size;
    char* to = static_cast<char*>(out) + row * out_stride * size;
    const unsigned bytes = depth * size, wide = x.aligned ? bytes / 16 : 0;
    copy(reinterpret_cast<const uint4*>(from), reinterpret_cast<uint4*>(to), wide, lane,
         [](const uint4& chunk) { return chunk; });
// Elements are words of two bytes, or two of them.
#pragma unroll 1
    for (unsigned i = wide * 8 + lane; i < bytes / 2; i += COPY_LANES)
        reinterpret_cast<unsigned short*>(to)[i] = reinterpret_cast<const unsigned short*>(from)[i];
}

// Row i of `from` becomes row order[i] of out, in out's type. from: out's shape, aligned to 16 bytes,
// stride a multiple of 4. Grid: ceil(out.rows / 64).
extern "C" __global__ void __launch_bounds__(THREADS)
    scatter_rows(const float* from, long long stride, const unsigned* order, Destination out) {
    const unsigned row = blockIdx.x * COPY_ROWS + threadIdx.x / COPY_LANES;
    if (row >= out.rows) return;
    const unsigned lane = threadIdx.x % COPY_LANES;
    const float* line = from + row * stride;
    const long long to = order ? order[row] : row;
    const int size = out.type == tile::F32 ? 4 : 2;
    char* start = static_cast<char*>(out.data) + to * out.stride * size;
    const bool aligned =
        (reinterpret_cast<unsigned long long>(out.data) | out.stride * size) % (4 * size) == 0;
    const unsigned wide = aligned ? out.columns / 4 : 0;
    const float4* fours = reinterpret_cast<const float4*>(line);
    if (out.type == tile::F32)
        copy(fours, reinterpret_cast<float4*>(start), wide, lane,
             [](const float4& four) { return four; });
    else if (out.type == tile::F16)
        copy(fours, reinterpret_cast<uint2*>(start), wide, lane, [](const float4& four) {
            return make_uint2(ptx::f32_to_f16x2(four.x, four.y), ptx::f32_to_f16x2(four.z, four.w));
        });
    else
        copy(fours, reinterpret_cast<uint2*>(start), wide, lane, [](const float4& four) {
            return make_uint2(ptx::f32_to_bf16x2(four.x, four.y),
                              ptx::f32_to_bf16x2(four.z, four.w));
        });
#pragma unroll 1
    for (unsigned k = wide * 4 + lane; k < out.columns; k += COPY_LANES) out.put(to, k, line[k]);
}
