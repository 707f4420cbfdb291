// The search for the k-th pair of a group, digit by digit (epilogue/select.cuh): the choice of a digit
// from how many pairs have each. And of many numbers, by bins between two of them.
#pragma once

#include "epilogue/select.cuh"
#include "reduce.cuh"

namespace search {

using epilogue::Cut;
using epilogue::Search;
using epilogue::Step;

// Bits of a digit of the whole matrix's search, at most. Twin of launch::MATRIX_BITS.
constexpr unsigned MATRIX_BITS = 11;

// Chooses the next digit of a search that is not over, and moves its cut: from the k-th hardest on,
// as far as the digits tell. Clears the counts. All threads of the block; `counts`, `search` and
// `cut` are in shared memory or the block's alone.
template <int THREADS, class Count>
__device__ __forceinline__ void choose(const Step& step, Count* counts, Search* state, Cut* cut,
                                       unsigned long long (&sums)[THREADS]) {
    Search search = *state;
    const unsigned size = 1u << step.bits;
    // Each thread takes some digits, thread 0 the largest.
    const unsigned each = (size + THREADS - 1) / THREADS;
    const unsigned first = threadIdx.x * each;
    unsigned long long own = 0;
    for (unsigned i = first; i < first + each && i < size; ++i) own += counts[size - 1 - i];
    const unsigned long long end = reduce::scan(own, sums);
    unsigned long long begin = end - own;
    if (sums[THREADS - 1] <= search.left) {
        // All of them: only at the first digit.
        if (threadIdx.x == 0) state->settled = 1;
    } else if (begin < search.left && search.left <= end) {
        unsigned digit = size - 1 - first;
        while (begin + counts[digit] < search.left) begin += counts[digit--];
        search.left -= begin;
        search.settled = counts[digit] == search.left;
        if (step.word == 0) search.key |= digit << step.shift;
        if (step.word == 1) search.row |= digit << step.shift;
        if (step.word == 2) search.column |= digit << step.shift;
        *state = search;
        // The least pair with these digits. Words not searched yet are 0: every row and column.
        *cut = Cut{epilogue::similarity_of(search.key), ~search.row, ~search.column, search.key};
    }
    __syncthreads();
    for (unsigned i = first; i < first + each && i < size; ++i) counts[size - 1 - i] = 0;
    __syncthreads();
}

// Whether this block is the last to come here; then it sees what all have written. `done`: 0 before and
// after. All threads of the block.
__device__ __forceinline__ bool is_last_block(unsigned long long* done) {
    __threadfence();
    __syncthreads();
    const int last = threadIdx.x == 0 && atomicAdd(done, 1ull) == gridDim.x - 1;
    if (!__syncthreads_or(last)) return false;
    __threadfence();
    if (threadIdx.x == 0) *done = 0;
    return true;
}

// The end of a kernel whose blocks have added to the counters of the matrix's search: the block that
// comes last chooses. Behind the counters is one more, for is_last_block.
template <int THREADS>
__device__ __forceinline__ void choose_last(const Step& step, unsigned long long* counters,
                                            Search* search, Cut* cut,
                                            unsigned long long (&sums)[THREADS]) {
    if (is_last_block(counters + (1 << MATRIX_BITS))) choose(step, counters, search, cut, sums);
}

// Where among keys the one that is looked for lies. All 0 at first. Twin of launch::RANGE_BYTES.
struct Range {
    unsigned low, high;       // of a bin
    unsigned number;          // keys in it
    unsigned is_open;         // whether there is such a bin
    unsigned long long left;  // the how-manieth it is of these
    unsigned top;             // the largest key of a sample
};

// Bins of keys, the largest first: half of them of equal width, from `high` down to `low`; those above,
// 32 for each time that their distance from there doubles.
struct KeyBins {
    static constexpr unsigned HALF_BITS = MATRIX_BITS - 1, HALF = 1 << HALF_BITS, NUMBER = 2 * HALF;
    static_assert(HALF == 32 * 32, "as many as 32 doublings take");
    unsigned low, high, shift;

    __device__ __forceinline__ KeyBins(unsigned low, unsigned high) : low(low), high(high) {
        const unsigned bits = 32 - __clz(high - low);
        shift = bits > HALF_BITS ? bits - HALF_BITS : 0;
    }
    // Of a key that is not below `low`.
    __device__ __forceinline__ unsigned of(unsigned key) const {
        if (key <= high) return HALF + (high - key >> shift);
        const unsigned distance = key - high, zeros = __clz(distance);
        return HALF - 1 - ((31 - zeros) * 32 + (distance << zeros >> 26) % 32);
    }
    __device__ __forceinline__ unsigned least(unsigned bin) const {
        if (bin >= HALF) return high - min(high - low, (bin - HALF + 1 << shift) - 1);
        const unsigned place = HALF - 1 - bin;
        return high + static_cast<unsigned>((32ull + place % 32 << place / 32) >> 5);
    }
    __device__ __forceinline__ unsigned most(unsigned bin) const {
        if (bin >= HALF) return high - (bin - HALF << shift);
        const unsigned place = HALF - 1 - bin;
        const unsigned long long next = (33ull + place % 32 << place / 32) + 31 >> 5;
        return static_cast<unsigned>(min(high + next - 1, 0xffffffffull));
    }
};

// Chooses the bin that the `wanted`-th largest is in, and clears the counters; gives how many keys there
// are in all. All threads of a block that has the counters and the range for itself.
template <int THREADS>
__device__ __forceinline__ unsigned long long choose_bin(const KeyBins& bins,
                                                         unsigned long long* counters,
                                                         unsigned long long wanted, Range* range,
                                                         unsigned long long (&sums)[THREADS]) {
    constexpr unsigned EACH = KeyBins::NUMBER / THREADS;
    unsigned long long* const counts = counters + threadIdx.x * EACH;
    unsigned long long own = 0;
#pragma unroll
    for (unsigned i = 0; i < EACH; ++i) own += counts[i];
    const unsigned long long end = reduce::scan(own, sums), all = sums[THREADS - 1];
    if (threadIdx.x == 0 && all < wanted) range->is_open = 0;
    unsigned long long begin = end - own;
    if (begin < wanted && wanted <= end) {
        unsigned i = 0;
        for (; begin + counts[i] < wanted; ++i) begin += counts[i];
        const unsigned bin = threadIdx.x * EACH + i;
        *range = Range{bins.least(bin), bins.most(bin),
                       static_cast<unsigned>(min(counts[i], 0xffffffffull)), 1, wanted - begin,
                       range->top};
    }
#pragma unroll
    for (unsigned i = 0; i < EACH; ++i) counts[i] = 0;
    __syncthreads();
    return all;
}

}  // namespace search
