// The search for the k-th pair of a group, digit by digit (epilogue/select.cuh): the choice of a digit
// from how many pairs have each.
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

// The end of a kernel whose blocks have added to the counters of the matrix's search: the block that
// comes last chooses. Behind the counters is one more, 0 before and after, that tells it.
template <int THREADS>
__device__ __forceinline__ void choose_last(const Step& step, unsigned long long* counters,
                                            Search* search, Cut* cut,
                                            unsigned long long (&sums)[THREADS]) {
    unsigned long long* done = counters + (1 << MATRIX_BITS);
    __threadfence();
    __syncthreads();
    const int last = threadIdx.x == 0 && atomicAdd(done, 1ull) == gridDim.x - 1;
    if (!__syncthreads_or(last)) return;
    __threadfence();
    choose(step, counters, search, cut, sums);
    if (threadIdx.x == 0) *done = 0;
}

}  // namespace search
