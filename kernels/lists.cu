// Program: what mining does besides its passes over tiles (mining.cu): the search for cuts, digit by
// digit, from counts; and lists of pairs, sorted. O(groups) and O(length) work.
//
// A group is the whole matrix, or a row. Pairs come into a list in any order; sorted by all that
// tells them apart, they are the same on every run.

#include "epilogue/select.cuh"
#include "ptx/match.cuh"

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

// ---- Sorting -------------------------------------------------------------------------------------

// A radix sort, stable, one digit of 8 bits at a time, the last one first: by row, column or
// similarity, descending. Three kernels a digit: how many pairs of each digit a block has; where
// they go; there they go.
constexpr int DIGITS = 256;
constexpr int EACH = 8;                     // pairs a thread
constexpr int CHUNK = THREADS * EACH;       // pairs a block; twin of launch::SORT_CHUNK
constexpr int WARPS = THREADS / 32;

__device__ __forceinline__ unsigned length(const List& list) {
    return min(*list.count, list.capacity);
}

__device__ __forceinline__ unsigned sort_digit(const List& list, unsigned i, const Step& step) {
    const unsigned word = step.word == 0   ? ~order_key(list.similarity[i])
                          : step.word == 1 ? list.row[i]
                                           : list.column[i];
    return word >> step.shift & (DIGITS - 1);
}

// counts: [digit][block]. Grid: ceil(capacity / CHUNK).
extern "C" __global__ void __launch_bounds__(THREADS)
    sort_count(List list, Step step, unsigned* counts) {
    __shared__ unsigned shared[DIGITS];
    shared[threadIdx.x] = 0;
    __syncthreads();
    const unsigned count = length(list);
#pragma unroll 1
    for (int e = 0; e < EACH; ++e) {
        const unsigned i = blockIdx.x * CHUNK + e * THREADS + threadIdx.x;
        if (i < count) atomicAdd(&shared[sort_digit(list, i, step)], 1u);
    }
    __syncthreads();
    counts[threadIdx.x * gridDim.x + blockIdx.x] = shared[threadIdx.x];
}

// Counts into places: every one becomes the sum of those before it. Grid 1, a thread a digit.
extern "C" __global__ void __launch_bounds__(THREADS)
    sort_places(unsigned* counts, unsigned blocks) {
    __shared__ unsigned sums[THREADS];
    unsigned* own = counts + threadIdx.x * blocks;
    unsigned sum = 0;
    for (unsigned i = 0; i < blocks; ++i) sum += own[i];
    sums[threadIdx.x] = sum;
    __syncthreads();
#pragma unroll 1
    for (int reach = 1; reach < THREADS; reach *= 2) {
        const unsigned before = threadIdx.x >= reach ? sums[threadIdx.x - reach] : 0;
        __syncthreads();
        sums[threadIdx.x] += before;
        __syncthreads();
    }
    unsigned place = sums[threadIdx.x] - sum;
    for (unsigned i = 0; i < blocks; ++i) {
        const unsigned count = own[i];
        own[i] = place;
        place += count;
    }
}

// Each warp takes 32 * EACH pairs of the block's in turn; equal digits of 32 keep their order.
// Grid as sort_count.
extern "C" __global__ void __launch_bounds__(THREADS)
    sort_move(List from, List to, Step step, const unsigned* places) {
    __shared__ unsigned next[WARPS][DIGITS];
    const unsigned count = length(from);
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const unsigned first = blockIdx.x * CHUNK + warp * (32 * EACH) + lane;
#pragma unroll 1
    for (int w = 0; w < WARPS; ++w) next[w][threadIdx.x] = 0;
    __syncthreads();
#pragma unroll 1
    for (int e = 0; e < EACH; ++e) {
        const unsigned i = first + 32 * e;
        if (i < count) atomicAdd(&next[warp][sort_digit(from, i, step)], 1u);
    }
    __syncthreads();
    unsigned place = places[threadIdx.x * gridDim.x + blockIdx.x];
#pragma unroll 1
    for (int w = 0; w < WARPS; ++w) {
        const unsigned own = next[w][threadIdx.x];
        next[w][threadIdx.x] = place;
        place += own;
    }
    __syncthreads();
#pragma unroll 1
    for (int e = 0; e < EACH; ++e) {
        const unsigned i = first + 32 * e;
        const bool valid = i < count;
        const unsigned digit = valid ? sort_digit(from, i, step) : DIGITS;
        const unsigned peers = ptx::match_any(digit);
        const unsigned rank = __popc(peers & ((1u << lane) - 1));
        unsigned start = 0;
        if (valid) start = next[warp][digit];
        __syncwarp();
        if (valid) {
            if (rank == 0) next[warp][digit] = start + __popc(peers);
            to.similarity[start + rank] = from.similarity[i];
            to.row[start + rank] = from.row[i];
            to.column[start + rank] = from.column[i];
        }
        __syncwarp();
    }
}
