// Program: what mining does besides its passes over tiles (mining.cu): the search for cuts, digit by
// digit, from counts; and lists of pairs, sorted. O(groups) and O(length) work.
//
// A group is the whole matrix, or a row. Pairs come into a list in any order; sorted by all that
// tells them apart, they are the same on every run.

#include "epilogue/pairs.cuh"
#include "epilogue/select.cuh"
#include "epilogue/store.cuh"
#include "epilogue/terms.cuh"
#include "ptx/match.cuh"
#include "ptx/shuffle.cuh"
#include "tile/element.cuh"

using namespace epilogue;
using tile::Operand;

constexpr int THREADS = 256;
constexpr double LOG2E_F64 = 1.44269504088896340736;

__device__ __forceinline__ long long thread_index() {
    return static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
}

__device__ __forceinline__ unsigned length(const List& list) {
    return min(*list.count, list.capacity);
}

// ---- The search ----------------------------------------------------------------------------------

// Begins the search for the k hardest of each group; until it has found anything all pairs are
// taken. For k = 0 it is over at once, and none are. `by_row`: group i is row first + i. row_above, column_above: the bits of ~row and ~column that no
// digit covers, 1 in every pair. gate: nothing is done where it is 0; may be null.
// Grid: ceil(count / 256).
extern "C" __global__ void __launch_bounds__(THREADS)
    begin_search(unsigned long long k, unsigned first, unsigned count, int by_row,
                 unsigned row_above, unsigned column_above, const unsigned* gate, Search* searches,
                 Cut* cuts) {
    const long long i = thread_index();
    if (i >= count || (gate && !*gate)) return;
    const unsigned row = by_row ? ~static_cast<unsigned>(first + i) : row_above;
    searches[i] = Search{k, 0, row, column_above, k == 0};
    cuts[i] = k == 0 ? empty_cut() : no_cut();
}

// After a pass that collected a window of the order: whether the k-th pair is in it, `above` pairs
// being harder than all of the window. Then the search for it begins, in the list; else `lost` is 1,
// no search is open, and the list begins anew. Grid 1, block 1.
extern "C" __global__ void judge_window(List list, const unsigned long long* above,
                                        unsigned long long k, unsigned row_above,
                                        unsigned column_above, unsigned* lost, Search* search,
                                        Cut* cut) {
    const unsigned long long count = *list.count;
    const bool found = *above < k && k - *above <= count && count <= list.capacity;
    *lost = !found;
    *search = Search{k - *above, 0, row_above, column_above, !found};
    *cut = no_cut();
    if (!found) *list.count = 0;
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

// Counts the pairs of a list that have each digit, as mining.cu does those of tiles. Counters: 2^bits
// a group, added to; those of rows from row `first` on. Grid-stride.
extern "C" __global__ void __launch_bounds__(THREADS)
    count_list_matrix(List list, Step step, const Search* search, unsigned long long* counters) {
    __shared__ unsigned counts[2048];
    const unsigned count = length(list);
    if (search->settled || blockIdx.x * THREADS >= count) return;
    for (unsigned i = threadIdx.x; i < 2048; i += THREADS) counts[i] = 0;
    __syncthreads();
    const Search found = *search;
    for (unsigned i = thread_index(); i < count; i += gridDim.x * THREADS) {
        // Only the key is needed, but for ties.
        const unsigned row = step.word > 0 ? list.row[i] : 0;
        const unsigned column = step.word > 1 ? list.column[i] : 0;
        unsigned digit;
        if (digit_of(found, step, list.similarity[i], row, column, digit))
            atomicAdd(&counts[digit], 1u);
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < 2048; i += THREADS)
        if (counts[i] != 0) atomicAdd(&counters[i], static_cast<unsigned long long>(counts[i]));
}
extern "C" __global__ void __launch_bounds__(THREADS)
    count_list_rows(List list, Step step, const Search* searches, unsigned first,
                    unsigned* counters) {
    const unsigned count = length(list);
    for (unsigned i = thread_index(); i < count; i += gridDim.x * THREADS) {
        const unsigned row = list.row[i];
        const unsigned column = step.word > 1 ? list.column[i] : 0;
        const Search found = searches[row];
        unsigned digit;
        if (!found.settled && digit_of(found, step, list.similarity[i], row, column, digit))
            atomicAdd(&counters[(static_cast<long long>(row - first) << step.bits) + digit], 1u);
    }
}

// ---- Lists ---------------------------------------------------------------------------------------

// Whether a list has lost pairs: then `lost` is 1 and the list begins anew. Grid 1, block 1.
extern "C" __global__ void judge_list(List list, unsigned* lost) {
    *lost = *list.count > list.capacity;
    if (*lost) *list.count = 0;
}

// The pairs that their cuts include, in no particular order, added to `to`. Grid-stride.
extern "C" __global__ void __launch_bounds__(THREADS)
    keep_mined(List from, const Cut* cuts, unsigned cut_stride, List to) {
    const unsigned count = length(from);
    for (unsigned i = thread_index(); i < count; i += gridDim.x * THREADS) {
        const unsigned row = from.row[i], column = from.column[i];
        const float similarity = from.similarity[i];
        if (!includes(cuts[static_cast<long long>(row) * cut_stride], similarity, row, column))
            continue;
        const unsigned long long at = atomicAdd(to.count, 1ull);
        if (at >= to.capacity) continue;
        to.similarity[at] = similarity;
        to.row[at] = row;
        to.column[at] = column;
    }
}

// starts[i] = how many pairs of a sorted list lie before row (or column) first + i: groups + 1.
// Grid: ceil((groups + 1) / 256).
extern "C" __global__ void __launch_bounds__(THREADS)
    list_starts(List list, int by_row, unsigned first, unsigned groups, unsigned* starts) {
    const long long group = thread_index();
    if (group > groups) return;
    const unsigned* keys = by_row ? list.row : list.column;
    unsigned low = 0, high = length(list);
    while (low < high) {
        const unsigned middle = low + (high - low) / 2;
        if (keys[middle] < first + group)
            low = middle + 1;
        else
            high = middle;
    }
    starts[group] = low;
}

// M and Z of every row from a list of negatives sorted by rows; poison, as mining.cu left it, is
// added to Z. Lane l takes every 32nd pair; the lanes come together in a fixed tree.
// Grid: ceil(rows / 8), a warp a row.
extern "C" __global__ void __launch_bounds__(THREADS)
    list_groups(List list, const unsigned* starts, unsigned rows, const unsigned* poison,
                const float* scale, float* maximum, float* sum, float* log2_sum) {
    const long long row = static_cast<long long>(blockIdx.x) * (THREADS / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    const float scale2 = *scale * LOG2E;
    const unsigned first = starts[row] + threadIdx.x % 32, end = starts[row + 1];
    float top = -INFINITE;
    for (unsigned i = first; i < end; i += 32) top = fmaxf(top, list.similarity[i]);
#pragma unroll
    for (int mask = 1; mask < 32; mask *= 2) top = fmaxf(top, ptx::shuffle_xor(top, mask));
    float z = 0.0f;
    for (unsigned i = first; i < end; i += 32) z += ptx::ex2(scale2 * (list.similarity[i] - top));
#pragma unroll
    for (int mask = 1; mask < 32; mask *= 2) z += ptx::shuffle_xor(z, mask);
    if (threadIdx.x % 32 != 0) return;
    z += __uint_as_float(poison[row]);
    maximum[row] = top;
    sum[row] = z;
    if (log2_sum) log2_sum[row] = log(static_cast<double>(z)) * LOG2E_F64;
}

// ---- The gradient --------------------------------------------------------------------------------

// Adds a list and every row's one positive to `to`, in no particular order. Grid: enough threads for
// the list's capacity and for the rows.
extern "C" __global__ void __launch_bounds__(THREADS)
    with_positives(List from, Pairs pairs, const Terms* terms, List to) {
    const unsigned long long i = thread_index();
    if (i < length(from)) {
        const unsigned long long at = atomicAdd(to.count, 1ull);
        to.similarity[at] = from.similarity[i];
        to.row[at] = from.row[i];
        to.column[at] = from.column[i];
    }
    if (i < pairs.rows && terms[i].count != 0) {
        const unsigned long long at = atomicAdd(to.count, 1ull);
        to.similarity[at] = terms[i].hardest;
        to.row[at] = i;
        to.column[at] = positive_column(pairs, i);
    }
}

// G of a pair of such a list.
__device__ __forceinline__ float list_weight(const List& list, unsigned i, const Pairs& pairs,
                                             const Coefficients& rows, float scale2) {
    const unsigned row = list.row[i];
    const float similarity = list.similarity[i];
    if (list.column[i] == positive_column(pairs, row))
        return positive_weight(similarity, rows, row, scale2);
    return negative_weight(similarity, rows.maximum[row], rows.negative[row], scale2);
}

// out = factor * G Y (by rows) or factor * G^T X (by columns), added to it where `accumulate`: G the
// pairs of a list sorted by what `by_row` says, `other` the matrix Y or X. Each element is summed in
// the order of the list. Grid: a block an output row.
constexpr int SUM_THREADS = 128;
extern "C" __global__ void __launch_bounds__(SUM_THREADS)
    sum_list(List list, const unsigned* starts, int by_row, Pairs pairs, Coefficients rows,
             const float* scale, Operand other, const float* factor, int accumulate, Output out) {
    __shared__ float weights[SUM_THREADS];
    __shared__ unsigned places[SUM_THREADS];
    const float scale2 = *scale * LOG2E;
    const unsigned begin = starts[blockIdx.x], end = starts[blockIdx.x + 1];
    float* line = out.data + blockIdx.x * out.stride;
    for (unsigned k0 = 0; k0 < out.columns; k0 += SUM_THREADS) {
        const unsigned k = k0 + threadIdx.x;
        float sum = 0.0f;
        for (unsigned first = begin; first < end; first += SUM_THREADS) {
            const unsigned i = first + threadIdx.x;
            __syncthreads();
            if (i < end) {
                weights[threadIdx.x] = list_weight(list, i, pairs, rows, scale2);
                places[threadIdx.x] = by_row ? list.column[i] : list.row[i];
            }
            __syncthreads();
            const unsigned count = min(end - first, static_cast<unsigned>(SUM_THREADS));
            if (k < out.columns)
                for (unsigned e = 0; e < count; ++e)
                    sum = fmaf(weights[e], tile::embedding(other, places[e], k), sum);
        }
        if (k < out.columns) line[k] = accumulate ? line[k] + *factor * sum : *factor * sum;
    }
}

// moments[row] = the sum of (S - M) G over a row of such a list, sorted by rows, in its order but
// for 32 lanes. Grid: ceil(rows / 8), a warp a row.
extern "C" __global__ void __launch_bounds__(THREADS)
    list_moments(List list, const unsigned* starts, Pairs pairs, Coefficients rows,
                 const float* scale, double* moments) {
    const long long row = static_cast<long long>(blockIdx.x) * (THREADS / 32) + threadIdx.x / 32;
    if (row >= pairs.rows) return;
    const float scale2 = *scale * LOG2E;
    float sum = 0.0f;
    for (unsigned i = starts[row] + threadIdx.x % 32; i < starts[row + 1]; i += 32)
        sum = fmaf(list.similarity[i] - rows.maximum[row],
                   list_weight(list, i, pairs, rows, scale2), sum);
#pragma unroll
    for (int mask = 1; mask < 32; mask *= 2) sum += ptx::shuffle_xor(sum, mask);
    if (threadIdx.x % 32 == 0) moments[row] = sum;
}

// ---- Sorting -------------------------------------------------------------------------------------

// A radix sort, stable, one digit of 8 bits at a time, the last one first: by row, column or
// similarity, descending. Three kernels a digit: how many pairs of each digit a block has; where
// they go; there they go.
constexpr int DIGITS = 256;
constexpr int EACH = 8;                     // pairs a thread
constexpr int CHUNK = THREADS * EACH;       // pairs a block; twin of launch::SORT_CHUNK
constexpr int WARPS = THREADS / 32;

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
