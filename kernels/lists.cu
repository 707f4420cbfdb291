// Program: what mining does between its passes over tiles (mining.cu): the search for cuts, digit by
// digit, from counts. O(groups) work.
//
// A group is the whole matrix, or a row.

#include "epilogue/pairs.cuh"
#include "epilogue/select.cuh"

using namespace epilogue;

constexpr int THREADS = 256;

__device__ __forceinline__ long long thread_index() {
    return static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
}

// ---- The search ----------------------------------------------------------------------------------

// Begins the search for the k hardest of each group; until it has found anything all pairs are
// taken. `by_row`: group i is row i. row_above, column_above: the bits of ~row and ~column that no
// digit covers, 1 in every pair. gate: nothing is done where it is 0; may be null.
// Grid: ceil(count / 256).
extern "C" __global__ void __launch_bounds__(THREADS)
    begin_search(unsigned long long k, unsigned count, int by_row, unsigned row_above,
                 unsigned column_above, const unsigned* gate, Search* searches, Cut* cuts) {
    const long long i = thread_index();
    if (i >= count || (gate && !*gate)) return;
    const unsigned row = by_row ? ~static_cast<unsigned>(i) : row_above;
    searches[i] = Search{k, 0, row, column_above, 0};
    cuts[i] = no_cut();
}

// Sets n words to 0. Grid: ceil(n / 256).
extern "C" __global__ void __launch_bounds__(THREADS)
    clear_words(unsigned* words, unsigned long long count) {
    const unsigned long long i = thread_index();
    if (i < count) words[i] = 0;
}

// Chooses the next digit of every group from how many pairs have each, and moves its cut: from the
// k-th hardest on, as far as the digits tell. Clears the counters for the next digit.
template <int THREADS, class Count>
__device__ __forceinline__ void choose(const Step& step, Count* counters, Search* searches,
                                       Cut* cuts) {
    __shared__ unsigned long long sums[THREADS];
    Search search = searches[blockIdx.x];
    if (search.settled) return;
    const unsigned size = 1u << step.bits;
    Count* counts = counters + static_cast<long long>(blockIdx.x) * size;
    // Each thread takes some digits, thread 0 the largest.
    const unsigned each = (size + THREADS - 1) / THREADS;
    const unsigned first = threadIdx.x * each;
    unsigned long long own = 0;
    for (unsigned i = first; i < first + each && i < size; ++i) own += counts[size - 1 - i];
    sums[threadIdx.x] = own;
    __syncthreads();
#pragma unroll 1
    for (int reach = 1; reach < THREADS; reach *= 2) {
        const unsigned long long before = threadIdx.x >= reach ? sums[threadIdx.x - reach] : 0;
        __syncthreads();
        sums[threadIdx.x] += before;
        __syncthreads();
    }
    const unsigned long long end = sums[threadIdx.x];
    unsigned long long begin = end - own;
    if (sums[THREADS - 1] <= search.left) {
        // All of them: only at the first digit.
        if (threadIdx.x == 0) searches[blockIdx.x].settled = 1;
    } else if (begin < search.left && search.left <= end) {
        unsigned digit = size - 1 - first;
        while (begin + counts[digit] < search.left) begin += counts[digit--];
        search.left -= begin;
        search.settled = counts[digit] == search.left;
        if (step.word == 0) search.key |= digit << step.shift;
        if (step.word == 1) search.row |= digit << step.shift;
        if (step.word == 2) search.column |= digit << step.shift;
        searches[blockIdx.x] = search;
        // The least pair with these digits. Words not searched yet are 0: every row and column.
        cuts[blockIdx.x] = Cut{similarity_of(search.key), ~search.row, ~search.column, search.key};
    }
    __syncthreads();
    for (unsigned i = first; i < first + each && i < size; ++i) counts[size - 1 - i] = 0;
}

// Counters: 2^bits a group. Grid: the groups; one for the matrix. Few threads for each row: there
// are many rows, and a row's digits are short.
extern "C" __global__ void __launch_bounds__(THREADS)
    choose_matrix(Step step, unsigned long long* counters, Search* searches, Cut* cuts) {
    choose<THREADS>(step, counters, searches, cuts);
}
extern "C" __global__ void __launch_bounds__(32)
    choose_rows(Step step, unsigned* counters, Search* searches, Cut* cuts) {
    choose<32>(step, counters, searches, cuts);
}
