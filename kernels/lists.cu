// Program: what mining does besides its passes over tiles (mining.cu): the search for cuts, digit by
// digit, from counts; and lists of pairs, sorted. O(groups) and O(length) work.
//
// A group is the whole matrix, or a row. Pairs come into a list in any order; sorted by all that
// tells them apart, they are the same on every run.

#include "epilogue/pairs.cuh"
#include "epilogue/select.cuh"
#include "epilogue/store.cuh"
#include "epilogue/terms.cuh"
#include "ptx/append.cuh"
#include "ptx/match.cuh"
#include "ptx/redux.cuh"
#include "ptx/shuffle.cuh"
#include "reduce.cuh"
#include "row_lists.cuh"
#include "search.cuh"
#include "tile/element.cuh"

using namespace epilogue;
using search::Range;
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
// taken. For k = 0 it is over at once, and none are. `by_row`: group i is row first + i. row_above,
// column_above: the bits of ~row and ~column that no digit covers, 1 in every pair. gate: nothing is
// done where it is 0; may be null.
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

// Sets words to 0, in two places. Grid: ceil(most / 256), the more of both.
extern "C" __global__ void __launch_bounds__(THREADS)
    clear_words(unsigned* words, unsigned long long count, unsigned* others,
                unsigned long long other_count) {
    const unsigned long long i = thread_index();
    if (i < count) words[i] = 0;
    if (i < other_count) others[i] = 0;
}

// A digit of every row's search, from counters: 2^bits a row, cleared. Grid: the rows; few threads for
// each: there are many rows, and a row's digits are short.
extern "C" __global__ void __launch_bounds__(32)
    choose_rows(Step step, unsigned* counters, Search* searches, Cut* cuts) {
    __shared__ unsigned long long sums[32];
    const unsigned row = blockIdx.x;
    if (searches[row].settled) return;
    unsigned* counts = counters + (static_cast<long long>(row) << step.bits);
    search::choose(step, counts, searches + row, cuts + row, sums);
}

// As count_matrix (mining.cu), of the pairs of a list. Grid-stride.
extern "C" __global__ void __launch_bounds__(THREADS)
    count_list(List list, Step step, Search* search, Cut* cut, unsigned long long* counters) {
    __shared__ unsigned counts[1 << search::MATRIX_BITS];
    __shared__ unsigned long long sums[THREADS];
    const unsigned count = length(list);
    const Search found = *search;
    if (found.settled) return;
    if (blockIdx.x * THREADS < count) {
        for (unsigned i = threadIdx.x; i < 1 << search::MATRIX_BITS; i += THREADS) counts[i] = 0;
        __syncthreads();
        for (unsigned i = thread_index(); i < count; i += gridDim.x * THREADS) {
            // Only the key is needed, but for ties.
            const unsigned row = step.word > 0 ? list.row[i] : 0;
            const unsigned column = step.word > 1 ? list.column[i] : 0;
            unsigned digit;
            if (digit_of(found, step, list.similarity[i], row, column, digit))
                atomicAdd(&counts[digit], 1u);
        }
        __syncthreads();
        for (unsigned i = threadIdx.x; i < 1 << search::MATRIX_BITS; i += THREADS)
            if (counts[i] != 0) atomicAdd(&counters[i], static_cast<unsigned long long>(counts[i]));
    }
    search::choose_last(step, counters, search, cut, sums);
}

// ---- Guesses -------------------------------------------------------------------------------------

// A sample, as mining.cu leaves it: [rows][width], tiles of `side` by `side`; column p is of the tile
// p / side * stride of a line. Where a guess is made, `rank` of its elements, or a few more, are not
// below the cut. Elements are the values themselves, or in `tops` the largest of `each` of them, in
// the order of the values where it is 4. Twin of launch::Guess.
struct Guess {
    const float* values;
    const float* tops;
    unsigned width;
    unsigned side;  // a power of two
    unsigned stride;
    unsigned rank;
    unsigned each;  // 1, or at least 4
};

__device__ __forceinline__ bool is_pair(float value) { return __float_as_uint(value) != NO_PAIR; }

__device__ __forceinline__ float most_of(float4 four) {
    return fmaxf(fmaxf(four.x, four.y), fmaxf(four.z, four.w));
}

// Where a row's pairs go, one by one, in any order.
struct RowList {
    unsigned* count;  // in shared memory
    uint2* words;     // low half first: ~column, key
    unsigned capacity;

    __device__ __forceinline__ void add(float similarity, unsigned column) const {
        const unsigned to = atomicAdd(count, 1u);
        if (to < capacity)
            words[to] = make_uint2(~column, signed_key(order_key(similarity)));
    }
};

__device__ __forceinline__ float least_of(float4 four) {
    return fminf(fminf(four.x, four.y), fminf(four.z, four.w));
}

// All that is not below this.
__device__ __forceinline__ Cut cut_at(float similarity) {
    return Cut{similarity, 0xffffffffu, 0xffffffffu, order_key(similarity)};
}

__device__ __forceinline__ Cut cut_at_key(unsigned key) {
    return Cut{similarity_of(key), 0xffffffffu, 0xffffffffu, key};
}

// Rows of a warp go together.
using Group = rows::Group<true>;

// What a row's guess goes through, by fours.
struct Elements {
    const float4* fours;
    unsigned number;

    // Of a row that there is.
    __device__ __forceinline__ Elements(const Guess& guess, unsigned row, bool exists) {
        number = exists ? guess.width / 4 / guess.each : 0;
        fours = reinterpret_cast<const float4*>(guess.each == 1 ? guess.values : guess.tops) +
                static_cast<long long>(row) * number;
    }

    template <class Body>
    __device__ __forceinline__ void each(const Group& group, Body body) const {
#pragma unroll 2
        for (unsigned i = group.lane; i < number; i += rows::LANES) body(fours[i]);
    }
};

// A cut that at least `rank` of a row's elements are not below, and no more than `enough` if that can be
// had, but for rounding; -inf where there is none. What is no pair is no number.
//
// The range is cut into bins, and so is the bin that holds the last one. What is above or below the range
// is in the bins at its ends, so that only what is in the others must be in the range.
__device__ __forceinline__ float guess_cut(const Group& group, unsigned* counters,
                                           const Elements& elements, unsigned rank,
                                           unsigned enough) {
    constexpr int LAST = rows::BINS - 2;
    // Those that decide are in the upper part: most of the first are below them.
    float high = -INFINITE, low = INFINITE;
    unsigned first = 2;
    elements.each(group, [&](float4 four) {
        high = fmaxf(high, most_of(four));
        if (first != 0) low = fminf(low, least_of(four)), --first;
    });
    high = group.most(high), low = group.least(low);
    const unsigned words = ptx::fraction_words<LAST>(ptx::shared_address(counters));
    float cut = -INFINITE;
    bool open = true;
    bool whole = false;               // whether nothing is below `low`
    bool asks = !(low < high);        // or whether that is wanted
#pragma unroll 1
    for (unsigned turns = 5; turns > 0; --turns) {
        if (group.any(asks)) {
            float least = INFINITE;
            if (asks)
                elements.each(group,
                              [&](float4 four) { least = fminf(least, least_of(four)); });
            least = group.least(least);
            if (asks) low = least, whole = true, asks = false;
        }
        open = open && low < high;
        const float range = high - low, scale = 1.0f / range;
        rows::clear_bins(group, counters);
        if (open)
            elements.each(group, [&](float4 four) {
                const float values[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
                for (unsigned e = 0; e < 4; ++e)
                    ptx::shared_increment_fraction<LAST>(words, values[e], low, scale);
            });
        const rows::Bin bin = rows::find_bin(group, counters, 0, rank);
        // Rounded down, and up.
        const float at = static_cast<float>(LAST - static_cast<int>(bin.number));
        const float below = fmaf((at - 0.51f) * (1.0f / LAST), range, low);
        const float above = fmaf((at + 0.51f) * (1.0f / LAST), range, low);
        if (open && bin.exists && bin.number < LAST) {
            cut = below;
            open = bin.above + bin.equal > enough;
            low = below;
            if (bin.number != 0) high = above;
        } else if (open) {
            asks = !whole;
            high = above;
        }
        if (!group.any(open)) break;
    }
    return cut;
}

// A guess at the cut of each row, of which `slack` elements more than the rank will do, and the
// sample's pairs up to there, into lists. Grid: ceil(rows / ROWS).
constexpr int ROW_THREADS = 64;
constexpr int ROWS = ROW_THREADS / rows::LANES;
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    guess_rows(Guess guess, unsigned slack, unsigned first_row, unsigned count, RowLists lists,
               Cut* cuts) {
    __shared__ __align__(16) unsigned shared[ROWS][rows::BINS_APART];
    const unsigned row = blockIdx.x * ROWS + threadIdx.x / rows::LANES;
    const bool exists = row < count;
    const Group group;
    unsigned* counters = shared[threadIdx.x / rows::LANES];
    const unsigned quads = exists ? guess.width / 4 : 0;
    const float4* values =
        reinterpret_cast<const float4*>(guess.values) + static_cast<long long>(row) * quads;
    const Elements elements(guess, row, exists);
    const float cut =
        guess_cut(group, counters, elements, guess.rank, guess.rank + slack);
    const bool all = cut == -INFINITE;
    group.sync();
    if (group.lane == 0) counters[0] = 0;
    group.sync();
    const RowList list{counters,
                       reinterpret_cast<uint2*>(lists.words) +
                           static_cast<long long>(row) * lists.capacity,
                       lists.capacity};
    // The column of the first of a four.
    const unsigned side_bits = rows::width(guess.side - 1);
    const auto column_of_quad = [&](unsigned quad) {
        const unsigned tile = quad * 4 >> side_bits << side_bits;
        return tile * guess.stride + quad * 4 - tile;
    };
    if (all) {
#pragma unroll 1
        for (unsigned i = group.lane; i < quads * 4; i += rows::LANES) {
            const float value = guess.values[static_cast<long long>(row) * guess.width + i];
            if (is_pair(value)) list.add(value, column_of_quad(i / 4) + i % 4);
        }
    } else {
        // Fours with one above the cut, 32 of the lane's at a time: each lane finds about as many. Where
        // elements are the largest of fours, they tell; else all values do. The lane's come in sets of
        // four side by side.
        const bool by_tops = guess.each == 4;
        const unsigned long long first = ptx::global_address(list.words);
#pragma unroll 1
        for (unsigned base = group.lane * 4; base < quads; base += 32 * rows::LANES) {
            unsigned found = 0;
#pragma unroll
            for (unsigned i = 0; i < 8; ++i) {
                const unsigned quad = base + i * 4 * rows::LANES;
                if (quad >= quads) break;
                float4 tops;
                if (by_tops) {
                    tops = elements.fours[quad / 4];
                } else {
                    tops = make_float4(most_of(values[quad]), most_of(values[quad + 1]),
                                       most_of(values[quad + 2]), most_of(values[quad + 3]));
                }
                unsigned flags = 0;
                const float each[4] = {tops.x, tops.y, tops.z, tops.w};
                ptx::flags_from<0>(flags, each, cut);
                found |= flags << i * 4;
            }
#pragma unroll 1
            for (; found != 0; found &= found - 1) {
                const unsigned bit = __ffs(found) - 1;
                const unsigned quad = base + bit + bit / 4 * (4 * rows::LANES - 4);
                const uint4 four = reinterpret_cast<const uint4*>(values)[quad];
                const unsigned bits[4] = {four.x, four.y, four.z, four.w};
                const unsigned column = column_of_quad(quad);
                if (cut > 0.0f) {
                    // They are keys.
                    unsigned number = 0;
                    ptx::count_from(number, bits, cut);
                    const unsigned to = atomicAdd(list.count, number);
                    if (to + number <= list.capacity)
                        ptx::append_from(first + to * sizeof(Word), bits, cut, ~column);
                } else {
#pragma unroll
                    for (unsigned e = 0; e < 4; ++e) {
                        const float value = __uint_as_float(bits[e]);
                        if (value >= cut) list.add(value, column + e);
                    }
                }
            }
        }
    }
    group.sync();
    if (group.lane != 0 || !exists) return;
    lists.counts[row] = counters[0];
    cuts[first_row + row] = all ? no_cut() : cut_at(cut);
}

// Of the rows whose lists have fewer than k pairs above a guessed cut: cuts from another guess, and
// empty lists; and which rows they are. Lists that no guess will fill are left overflown. The more pairs
// are missing, the larger the guess's rank: hard pairs lie where the sample is.
// Grid: ceil(rows / ROW_THREADS); a warp looks at as many rows as it has lanes, and guesses for a few at
// a time.
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    guess_again(Guess guess, unsigned slack, unsigned k, unsigned first_row, unsigned count,
                RowLists lists, Cut* cuts, Again again) {
    __shared__ __align__(16) unsigned shared[ROWS][rows::BINS_APART];
    const unsigned own = blockIdx.x * ROW_THREADS + threadIdx.x;
    bool is_wrong = own < count && lists.counts[own] < k;
    if (is_wrong) is_wrong = cuts[first_row + own].key != 0;
    unsigned left = ptx::ballot(is_wrong, 0xffffffff);
    const Group group;
    const unsigned turn = threadIdx.x % 32 / rows::LANES;
#pragma unroll 1
    for (; left != 0; left &= left - 1) {
        // Each row of the warp's has its turn, and the lanes of a row take every so many-th.
        unsigned some = left;
#pragma unroll 1
        for (unsigned i = 0; i < turn; ++i) some &= some - 1;
        const bool exists = some != 0;
        const unsigned row = own - threadIdx.x % 32 + __ffs(some | 1u << 31) - 1;
        const unsigned found = exists ? lists.counts[row] : 0;
        const Elements elements(guess, row, exists);
        const unsigned number = elements.number * 4;
        const float times = static_cast<float>(k) / static_cast<float>(found + 1);
        const float most = static_cast<float>(number - number / 16);
        const unsigned rank =
            static_cast<unsigned>(fminf(static_cast<float>(guess.rank) * times, most));
        const float cut =
            guess_cut(group, shared[threadIdx.x / rows::LANES], elements, rank, rank + slack);
        if (exists && group.lane == 0) {
            const bool none = cut == -INFINITE;
            lists.counts[row] = none ? 0xffffffffu : 0;
            if (!none) {
                cuts[first_row + row] = cut_at(cut);
                again.rows[atomicAdd(again.number, 1u)] = first_row + row;
            }
        }
#pragma unroll 1
        for (unsigned i = 1; i < 32 / rows::LANES && left != 0; ++i) left &= left - 1;
    }
}

constexpr int SEARCH_THREADS = 1024;

// ---- The whole matrix's guess, and the search in its list ----------------------------------------
//
// By bins, many blocks at a time: one alone would take longer than the pass over the tiles.

// A block's counters of keys.
struct KeyCounts {
    const search::KeyBins& bins;
    unsigned* counts;  // in shared memory

    __device__ __forceinline__ void add(unsigned key) const { atomicAdd(&counts[bins.of(key)], 1u); }
};

// Counts the keys that each(counts) adds, of this block; `counters` are all blocks'.
template <class Each>
__device__ __forceinline__ void count_bins(const search::KeyBins& bins,
                                           unsigned long long* counters, Each each) {
    __shared__ unsigned counts[search::KeyBins::NUMBER];
    for (unsigned i = threadIdx.x; i < search::KeyBins::NUMBER; i += THREADS) counts[i] = 0;
    __syncthreads();
    each(KeyCounts{bins, counts});
    __syncthreads();
    for (unsigned i = threadIdx.x; i < search::KeyBins::NUMBER; i += THREADS)
        if (counts[i] != 0) atomicAdd(&counters[i], static_cast<unsigned long long>(counts[i]));
}

// A cut that `rank` of a sample's elements, or a few more, are not below; everything where there are
// fewer. Two rounds: the better part of the similarity will do. The first one leaves the largest
// element's key besides. counters: as count_matrix's. Grid-stride.
extern "C" __global__ void __launch_bounds__(THREADS)
    guess_matrix(const float* elements, unsigned long long number, unsigned rank, int is_first,
                 Range* range, unsigned long long* counters, Cut* cut) {
    __shared__ unsigned long long sums[THREADS];
    // What is no number has the key 0.
    const search::KeyBins bins =
        is_first ? search::KeyBins(1, 0xffffffffu) : search::KeyBins(range->low, range->high);
    const unsigned wanted = is_first ? rank : static_cast<unsigned>(range->left);
    if (!is_first && !range->is_open) {
        if (thread_index() == 0) *cut = no_cut();
        return;
    }
    unsigned most = 0;
    count_bins(bins, counters, [&](const KeyCounts& counts) {
#pragma unroll 4
        for (unsigned long long i = thread_index(); i < number; i += gridDim.x * THREADS) {
            const unsigned key = order_key(elements[i]);
            most = max(most, key);
            if (bins.low <= key && key <= bins.high) counts.add(key);
        }
    });
    most = ptx::warp_max(most);
    if (is_first && threadIdx.x % 32 == 0) atomicMax(&range->top, most);
    if (!search::is_last_block(counters + search::KeyBins::NUMBER)) return;
    search::choose_bin(bins, counters, wanted, range, sums);
    if (!is_first && threadIdx.x == 0) *cut = cut_at_key(range->low);
}

// After the pass that filled a list: the search for the k-th of all pairs begins if the list has lost
// pairs, which begins anew then; else it is over.
__device__ __forceinline__ void begin_or_end(const List& list, unsigned long long k,
                                             unsigned row_above, unsigned column_above, bool fails,
                                             unsigned* lost, Search* search, Cut* cut) {
    *lost = fails;
    *search = Search{k, 0, row_above, column_above, !fails};
    if (!fails) return;
    *cut = no_cut();
    *list.count = 0;
}

// In a list that was collected by a guess, the bin that its k-th pair is in; the list is judged first.
// Where not all tiles have been looked at (`is_last` is 0), the cut becomes that bin's end, or nothing
// is to be added any more where pairs are lost. At last, where it has lost pairs, or has fewer than k
// that the cut includes, for all that there was one, `lost` is 1, it begins anew, and the search is one
// of all pairs; row_above, column_above: as in begin_search. counters: as count_matrix's. Grid-stride.
extern "C" __global__ void __launch_bounds__(THREADS)
    search_list(List list, unsigned long long k, unsigned row_above, unsigned column_above,
                int is_last, Range* range, unsigned long long* counters, unsigned* lost,
                Search* search, Cut* cut) {
    __shared__ unsigned long long sums[THREADS];
    const unsigned long long all = *list.count;
    const bool fits = all <= list.capacity;
    const unsigned low = cut->key;
    const search::KeyBins bins(low, max(low, range->top));
    if (fits && blockIdx.x * THREADS < all) {
        count_bins(bins, counters, [&](const KeyCounts& counts) {
#pragma unroll 4
            for (unsigned long long i = thread_index(); i < all; i += gridDim.x * THREADS) {
                const unsigned key = order_key(list.similarity[i]);
                if (key >= low) counts.add(key);
            }
        });
    }
    if (!search::is_last_block(counters + search::KeyBins::NUMBER)) return;
    const unsigned long long above = search::choose_bin(bins, counters, k, range, sums);
    if (threadIdx.x != 0) return;
    if (!is_last) {
        if (!fits)
            *cut = empty_cut();
        else if (above > k)
            *cut = cut_at_key(range->low);
        return;
    }
    const bool fails = !fits || (above < k && low != 0);
    if (fails || above <= k) range->is_open = 0;
    begin_or_end(list, k, row_above, column_above, fails, lost, search, cut);
}

// The k-th pair of the list, where it is in a bin: the bin's pairs are taken out of the list, and the
// last block compares them with one another. Where they are more than there is room for, as if the list
// had lost pairs. `few`: empty before. Grid-stride.
extern "C" __global__ void __launch_bounds__(THREADS)
    search_few(List list, unsigned long long k, unsigned row_digits, unsigned column_digits,
               unsigned row_above, unsigned column_above, const Range* range, List few,
               unsigned long long* done, unsigned* lost, Search* search, Cut* cut) {
    __shared__ union {
        unsigned counts[1 << search::MATRIX_BITS];
        struct {
            unsigned long long place;
            unsigned key;
        } pairs[THREADS];
    } shared;
    __shared__ unsigned long long sums[THREADS];
    __shared__ Search state;
    __shared__ Cut found;
    if (!range->is_open) return;
    const unsigned number = range->number;
    const bool fits = number <= few.capacity;
    if (fits) {
        const unsigned low = range->low, high = range->high, all = length(list);
#pragma unroll 4
        for (unsigned i = thread_index(); i < all; i += gridDim.x * THREADS) {
            const float similarity = list.similarity[i];
            const unsigned key = order_key(similarity);
            if (key < low || key > high) continue;
            const unsigned long long to = atomicAdd(few.count, 1ull);
            few.similarity[to] = similarity;
            few.row[to] = list.row[i];
            few.column[to] = list.column[i];
        }
    }
    if (!search::is_last_block(done)) return;
    if (!fits) {
        if (threadIdx.x == 0)
            begin_or_end(list, k, row_above, column_above, true, lost, search, cut);
        return;
    }
    const unsigned long long left = range->left;
    if (number <= THREADS) {
        const unsigned i = threadIdx.x;
        unsigned long long place = 0;
        unsigned key = 0;
        if (i < number) {
            key = order_key(few.similarity[i]);
            place = static_cast<unsigned long long>(few.row[i]) << 32 | few.column[i];
            shared.pairs[i].key = key;
            shared.pairs[i].place = place;
        }
        __syncthreads();
        if (i >= number) return;
        unsigned before = 0;
        for (unsigned other = 0; other < number; ++other) {
            const unsigned its = shared.pairs[other].key;
            before += its > key || (its == key && shared.pairs[other].place < place);
        }
        if (before + 1 == left) {
            const unsigned row = place >> 32, column = place;
            *cut = Cut{similarity_of(key), row, column, key};
        }
        return;
    }
    if (threadIdx.x == 0) {
        state = Search{left, 0, row_above, column_above, 0};
        // All of the bin.
        found = cut_at_key(range->low);
    }
    for (unsigned i = threadIdx.x; i < 1 << search::MATRIX_BITS; i += THREADS) shared.counts[i] = 0;
    __syncthreads();
    const unsigned digits[3] = {3, row_digits, column_digits};
#pragma unroll 1
    for (unsigned word = 0; word < 3; ++word) {
#pragma unroll 1
        for (unsigned digit = digits[word]; digit > 0 && !state.settled; --digit) {
            const unsigned shift = (digit - 1) * search::MATRIX_BITS;
            const Step step{word, shift, min(search::MATRIX_BITS, 32 - shift)};
            const Search before = state;
            __syncthreads();
            for (unsigned i = threadIdx.x; i < number; i += THREADS) {
                const unsigned row = word > 0 ? few.row[i] : 0;
                const unsigned column = word > 1 ? few.column[i] : 0;
                unsigned place;
                if (digit_of(before, step, few.similarity[i], row, column, place))
                    atomicAdd(&shared.counts[place], 1u);
            }
            __syncthreads();
            search::choose(step, shared.counts, &state, &found, sums);
        }
    }
    if (threadIdx.x == 0) *cut = found;
}

// ---- Lists ---------------------------------------------------------------------------------------

// How many pairs of a list a cut includes of each row: counts, added to. Grid-stride.
extern "C" __global__ void __launch_bounds__(THREADS)
    count_mined(List list, const Cut* cut, unsigned* counts) {
    const unsigned count = length(list);
    const Cut least = *cut;
    for (unsigned i = thread_index(); i < count; i += gridDim.x * THREADS) {
        const float similarity = list.similarity[i];
        const unsigned key = order_key(similarity);
        if (key < least.key) continue;
        // The column is only needed at the cut.
        const unsigned row = list.row[i];
        if (key == least.key && !includes(least, similarity, row, list.column[i])) continue;
        atomicAdd(&counts[row], 1u);
    }
}

// starts[i] = the sum of min(k, counts[j]) over j < i, rows + 1 of them; the last is *total, too,
// which may be null. One block.
__device__ __forceinline__ void row_starts(const unsigned* counts, unsigned count, unsigned k,
                                           unsigned* starts, unsigned long long* total,
                                           unsigned (&sums)[SEARCH_THREADS]) {
    const unsigned each = (count + SEARCH_THREADS - 1) / SEARCH_THREADS;
    const unsigned first = min(threadIdx.x * each, count), end = min(first + each, count);
    unsigned sum = 0;
    for (unsigned i = first; i < end; ++i) sum += min(k, counts[i]);
    unsigned start = reduce::scan(sum, sums) - sum;
    for (unsigned i = first; i < end; ++i) {
        starts[i] = start;
        start += min(k, counts[i]);
    }
    if (threadIdx.x != SEARCH_THREADS - 1) return;
    starts[count] = start;
    if (total) *total = start;
}

// Of every SEARCH_THREADS rows, the order by how many pairs they have: rows that are selected side by
// side have about as many. `shift`: of numbers, so that they are less than SEARCH_THREADS; larger ones
// count as the largest. And where rows' pairs start, of which no more than k count (row_starts), if
// `starts` is not null. Grid: ceil(count / SEARCH_THREADS), and one more for the starts.
extern "C" __global__ void __launch_bounds__(SEARCH_THREADS)
    order_rows(const unsigned* counts, unsigned count, unsigned shift, unsigned* order, unsigned k,
               unsigned* starts, unsigned long long* total) {
    __shared__ unsigned numbers[SEARCH_THREADS];
    __shared__ unsigned sums[SEARCH_THREADS];
    const unsigned first = blockIdx.x * SEARCH_THREADS, row = first + threadIdx.x;
    if (first >= count) return row_starts(counts, count, k, starts, total, sums);
    numbers[threadIdx.x] = 0;
    __syncthreads();
    unsigned digit = 0, place = 0;
    if (row < count) {
        digit = min(counts[row] >> shift, SEARCH_THREADS - 1);
        place = atomicAdd(&numbers[digit], 1u);
    }
    __syncthreads();
    const unsigned number = numbers[threadIdx.x];
    const unsigned before = reduce::scan(number, sums) - number;
    numbers[threadIdx.x] = before;
    __syncthreads();
    if (row < count) order[first + numbers[digit] + place] = row;
}

// The pairs of a list that a cut includes, to their rows' places, in no particular order: words from
// starts[row] on. counts: as count_mined leaves them, 0 afterwards. Grid-stride.
extern "C" __global__ void __launch_bounds__(THREADS)
    place_mined(List list, const Cut* cut, const unsigned* starts, unsigned* counts, Word* words) {
    const unsigned count = length(list);
    const Cut least = *cut;
    for (unsigned i = thread_index(); i < count; i += gridDim.x * THREADS) {
        const unsigned row = list.row[i], column = list.column[i];
        const float similarity = list.similarity[i];
        if (!includes(least, similarity, row, column)) continue;
        const unsigned to = starts[row] + atomicSub(&counts[row], 1u) - 1;
        words[to] = word_of(signed_key(order_key(similarity)), ~column);
    }
}

__device__ __forceinline__ void put(const List& list, unsigned place, unsigned row, Word word) {
    list.similarity[place] = value_of(key_of(word));
    list.row[place] = row;
    list.column[place] = column_of(word);
}

// What the mined pairs of rows add up to. Twin of launch::RowTotals.
struct RowTotals {
    float* maximum;          // M; null where none of this is wanted
    float* sum;              // Z
    float* log2_sum;         // may be null
    const unsigned* poison;  // as mining.cu leaves it: added to Z
    const float* scale;
};

// Z of a row, of pairs in any order: exponentials as whole numbers, whose sum fits 64 bits.
struct RowSum {
    float scale2, top, unit;
    unsigned long long sum;

    // `most`: the largest key; `count`: of the pairs, at most. No exponential is above 1.
    __device__ __forceinline__ RowSum(const RowTotals& totals, int most, unsigned count)
        : scale2(totals.scale ? *totals.scale * LOG2E : 0.0f),
          top(most != LEAST_KEY ? value_of(most) : -INFINITE),
          unit(__uint_as_float(127 + 63 - rows::width(count) << 23)), sum(0) {}
    __device__ __forceinline__ void add(float similarity) {
        sum += static_cast<unsigned long long>(unit * ptx::ex2(scale2 * (similarity - top)));
    }
    __device__ __forceinline__ void put(const RowTotals& to, unsigned row) const {
        const float z = static_cast<float>(sum) / unit + __uint_as_float(to.poison[row]);
        to.maximum[row] = top;
        to.sum[row] = z;
        if (to.log2_sum) to.log2_sum[row] = log(static_cast<double>(z)) * LOG2E_F64;
    }
};

// Of the pairs of rows from first_row on, the k hardest of each, for which `lists` says where they
// are: their cuts go to `cuts`, what they add up to into `totals`, and they themselves, sorted by
// column, into a list, row i's from starts[i] on; or nowhere, where it has no place. Or, where
// lists.capacity is 0, all of them, at starts[i] in lists.words; then without `cuts`. totals: of the
// rows from first_row on. order: as order_rows leaves it.
//
// Keys are counted into bins; those of the bin that the k-th lies in, a few, are compared with one
// another. Columns are bits in shared memory, some thousands at a time: a pair's place is the number
// of bits before its own. Grid: ceil(rows / ROWS).
constexpr unsigned SPAN = 8192;  // columns at a time
constexpr unsigned SPAN_WORDS = SPAN / 32;
constexpr unsigned FEW = 32;  // words that are compared with one another
struct alignas(16) SelectScratch {
    union {
        unsigned bins[rows::BINS];
        uint2 spans[SPAN_WORDS];  // 32 columns' bits; and how many pairs are before them
    };
    alignas(16) Word few[FEW];
    Word least;
    unsigned number;  // of the few
    unsigned moved;   // words that have been
};

// Which of a row's words are taken: those from `least` on. While it is not known (`open`): those with
// keys above `last`, and of those down to `first`, a few, so many as `left` says. Below `first` none
// are.
struct Taken {
    int first, last;
    unsigned left;
    bool open;
    Word least;

    // Calls take(half) for those that are known to be, and sets the few aside.
    template <class Take>
    __device__ __forceinline__ void each(const Group& group, const Word* words,
                                         unsigned length, SelectScratch& own, Take take) {
        rows::each_half(group, words, length, [&](rows::Half half) {
            if (half.key < first) return;
            if (half.key > last) return take(half);
            set_aside(half, own, take);
        });
    }

    // Moves them to the front instead, in any order.
    __device__ __forceinline__ void move(const Group& group, Word* words, unsigned length,
                                         SelectScratch& own) {
        constexpr int STEP = rows::LANES, BYTES = STEP * sizeof(Word);
        const unsigned long long front = ptx::global_address(words);
        const unsigned moved = ptx::shared_address(&own.moved);
        const unsigned few = ptx::shared_address(own.few), number = ptx::shared_address(&own.number);
        // Hardly ever: of a row whose few have one key, `least` is known.
        const bool settled = group.any(!open && length != 0);
        unsigned long long from = front + group.lane * sizeof(Word);
        int left = static_cast<int>(length - group.lane);
        const int longest = static_cast<int>(ptx::warp_max(length));
#pragma unroll 1
        for (int turn = longest; turn > 0; turn -= 4 * STEP, left -= 4 * STEP, from += 4 * BYTES) {
            rows::Half some[4];
            ptx::load_pair<0, 0>(from, left, LEAST_KEY, some[0].low, some[0].key);
            ptx::load_pair<STEP, BYTES>(from, left, LEAST_KEY, some[1].low, some[1].key);
            ptx::load_pair<2 * STEP, 2 * BYTES>(from, left, LEAST_KEY, some[2].low, some[2].key);
            ptx::load_pair<3 * STEP, 3 * BYTES>(from, left, LEAST_KEY, some[3].low, some[3].key);
            // All have read these before one moves a word, which is no farther than they have read.
            group.sync();
            if (settled) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    ptx::move_above(front, moved, some[i].low, some[i].key, last);
                    if (some[i].key <= last && some[i].key >= first && left > i * STEP)
                        set_aside(some[i], own,
                                  [&](rows::Half half) { move_to(words, own, half); });
                }
                continue;
            }
            ptx::move_or_set_aside<0>(front, moved, few, number, some[0].low, some[0].key, last,
                                      first, left);
            ptx::move_or_set_aside<STEP>(front, moved, few, number, some[1].low, some[1].key, last,
                                         first, left);
            ptx::move_or_set_aside<2 * STEP>(front, moved, few, number, some[2].low, some[2].key,
                                             last, first, left);
            ptx::move_or_set_aside<3 * STEP>(front, moved, few, number, some[3].low, some[3].key,
                                             last, first, left);
        }
    }
    __device__ __forceinline__ static void move_to(Word* words, SelectScratch& own,
                                                   rows::Half half) {
        words[atomicAdd(&own.moved, 1u)] = half.word();
    }

    // Of those between: a few, or where `least` is known, those that are taken.
    template <class Take>
    __device__ __forceinline__ void set_aside(rows::Half half, SelectScratch& own, Take take) {
        const Word word = half.word();
        if (open)
            own.few[atomicAdd(&own.number, 1u)] = word;
        else if (word >= least)
            take(half);
    }

    // Compares the few with one another: then `least` is known.
    __device__ __forceinline__ void settle(const Group& group, SelectScratch& own) {
        group.sync();
        const unsigned number = open ? own.number : 0;
        // Two at a time.
        if (group.lane == 0 && number % 2 != 0) own.few[number] = LEAST_WORD;
        group.sync();
#pragma unroll 1
        for (unsigned i = group.lane; i < number; i += rows::LANES) {
            const Word word = own.few[i];
            const longlong2* others = reinterpret_cast<const longlong2*>(own.few);
            const longlong2* const end = others + (number + 1) / 2;
            unsigned place = 1;
#pragma unroll 1
            for (; others < end; ++others) {
                const longlong2 two = *others;
                ptx::count_above(place, two.x, word);
                ptx::count_above(place, two.y, word);
            }
            if (place == left) own.least = word;
        }
        group.sync();
        if (open) least = own.least;
        open = false;
    }

    // Calls take(half) for those of the few that are taken. They are settled.
    template <class Take>
    __device__ __forceinline__ void each_of_few(const Group& group, const SelectScratch& own,
                                                Take take) const {
#pragma unroll 1
        for (unsigned i = group.lane; i < own.number; i += rows::LANES) {
            const Word word = own.few[i];
            if (word >= least) take(rows::half_of(word));
        }
    }
};

extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    select_rows(RowLists lists, unsigned k, unsigned columns, const unsigned* order,
                const unsigned* starts, unsigned first_row, unsigned count, List to, Cut* cuts,
                RowTotals totals) {
    __shared__ SelectScratch shared[ROWS];
    unsigned row = blockIdx.x * ROWS + threadIdx.x / rows::LANES;
    const bool exists = row < count;
    if (exists) row = order[row];
    const Group group;
    auto& own = shared[threadIdx.x / rows::LANES];
    const bool sorted = to.similarity != nullptr;
    const unsigned start = starts && exists ? starts[row] : 0;
    unsigned length = 0;
    Word* words = lists.words;
    if (lists.capacity != 0) {
        words += static_cast<long long>(row) * lists.capacity;
        if (exists) length = lists.counts[row];
    } else {
        words += start;
        if (exists) length = starts[row + 1] - start;
    }
    const bool selects = lists.capacity != 0 && length > k;
    int most = LEAST_KEY;  // the largest key
    Taken taken{LEAST_KEY, MOST_KEY, 0, false, LEAST_WORD};
    if (group.lane == 0) own.number = own.moved = 0;
    if (!selects) most = rows::largest(group, words, length);
    if (group.any(selects)) {
        const int low = selects ? signed_key(cuts[first_row + row].key) : 0;
        // The k-th is hardly above all of some, or above some of every lane's: bins up to there are
        // narrower.
        bool guessed = length < 6 * k, open = selects;
        int high = LEAST_KEY, more = LEAST_KEY;
        if (selects && guessed) {
            const auto key_at = [&](unsigned turn) {
                return key_of(words[min(group.lane + turn * rows::LANES, length - 1)]);
            };
            high = max(max(key_at(0), key_at(1)), max(key_at(2), key_at(3)));
            if (2 * k >= length)
                more = max(max(key_at(4), key_at(5)), max(key_at(6), key_at(7)));
        } else if (selects) {
            high = rows::largest(group, words, length);
        }
        more = group.least(max(high, more)), high = group.most(high);
        if (guessed && 2 * k >= length) high = more;
        rows::Bound keys;
#pragma unroll 1
        do {
            const auto enough = [&](unsigned found, unsigned equal) {
                return equal <= FEW || (guessed && equal == found);
            };
            const rows::Bound bound = rows::lower_bound(
                group, own.bins, open, low, high, k, enough, [&](const rows::Bins& bins) {
                    rows::each_half(group, words, length, [&](rows::Half half) {
                        most = max(most, half.key);
                        // What is above all bins is in the first.
                        bins.add(min(half.key, high));
                    });
                });
            if (open) keys = bound;
            most = group.most(most);
            open = open && guessed && keys.equal == keys.found;
            guessed = false;
            high = most;
        } while (group.any(open));
        if (selects) {
            taken = Taken{static_cast<int>(keys.key), static_cast<int>(keys.last),
                          k - (keys.found - keys.equal), keys.equal <= FEW, LEAST_WORD};
            if (!taken.open) {
                // Of so many in one bin, all have the same key. A cut is a pair: those that
                // repeat_rows left out may be close below it.
                const rows::Group<false> alone;
                const Word bound =
                    rows::kth_of_key(alone, own.bins, words, length, taken.first, taken.left);
                Word least = MOST_WORD;
                rows::each_word(alone, words, length, [&](Word word) {
                    if (word >= bound) least = min(least, word);
                });
                taken.least = alone.least(least);
            }
        }
    }
    most = group.most(most);
    RowSum sum(totals, most, selects ? k : length);
    const auto add = [&](int key) {
        if (totals.maximum) sum.add(value_of(key));
    };
    group.sync();
    // So few that they are compared with one another.
    const bool few = sorted && !selects && length <= rows::LANES;
    if (!sorted) {
        const auto take = [&](rows::Half half) { add(half.key); };
        if (taken.first < 0) {
            taken.each(group, words, length, own, take);
        } else {
            // Keys of positive similarities are their bits.
            taken.each(group, words, length, own, [&](rows::Half half) {
                if (totals.maximum) sum.add(__int_as_float(half.key));
            });
        }
        taken.settle(group, own);
        taken.each_of_few(group, own, take);
    } else if (few && group.lane < length) {
        const Word word = words[group.lane];
        unsigned place = start;
#pragma unroll 1
        for (unsigned i = 0; i < length; ++i) place += column_of(words[i]) < column_of(word);
        put(to, place, first_row + row, word);
        add(key_of(word));
    }
    if (sorted && group.any(!few)) {
        if (few) length = 0;
        // What is taken comes to the front.
        if (group.any(selects)) {
            taken.move(group, words, selects ? length : 0, own);
            taken.settle(group, own);
            taken.each_of_few(group, own, [&](rows::Half half) { Taken::move_to(words, own, half); });
            if (selects) length = k;
        }
        unsigned base = 0, before_all = start;
        // Each lane has some bits side by side, words of them as a power of two.
        unsigned span = min(columns, SPAN);
        const unsigned each = 1u << max(rows::width((span - 1) / (32 * rows::LANES)), 1);
        uint4* const own_spans = reinterpret_cast<uint4*>(own.spans + group.lane * each);
#pragma unroll 1
        while (true) {
            group.sync();
            for (unsigned i = 0; i < each / 2; ++i) own_spans[i] = make_uint4(0, 0, 0, 0);
            group.sync();
            rows::each_half(group, words, length, [&](rows::Half half) {
                const unsigned at = ~half.low - base;
                // Shifts wrap around: modulo 32.
                if (at < span) atomicOr(&own.spans[at / 32].x, __funnelshift_l(0, 1, at));
            });
            group.sync();
            unsigned before = 0;
            for (unsigned i = 0; i < each / 2; ++i)
                before += __popc(own_spans[i].x) + __popc(own_spans[i].z);
            const unsigned next = before_all + group.up_to(before);
            before = next - before;
            for (unsigned i = 0; i < each / 2; ++i) {
                uint4 two = own_spans[i];
                two.y = before;
                two.w = before += __popc(two.x);
                before += __popc(two.z);
                own_spans[i] = two;
            }
            group.sync();
            rows::each_half(group, words, length, [&](rows::Half half) {
                const unsigned at = ~half.low - base;
                if (at >= span) return;
                const uint2 bits = own.spans[at / 32];
                // Those up to its own, which come to the top.
                const unsigned place = bits.y + __popc(__funnelshift_l(0, bits.x, ~at)) - 1;
                put(to, place, first_row + row, half.word());
                add(half.key);
            });
            before_all = group.of(next, rows::LANES - 1);
            base += span;
            if (base >= columns) break;
            span = min(columns - base, SPAN);
        }
    }
    if (selects && group.lane == 0) cuts[first_row + row] = cut_of(taken.least, first_row + row);
    if (!totals.maximum) return;
    sum.sum = group.sum(sum.sum);
    if (exists && group.lane == 0) sum.put(totals, row);
}

// starts[i] = how many pairs of a list sorted by columns lie before column i: columns + 1.
// Grid: ceil((columns + 1) / 256).
extern "C" __global__ void __launch_bounds__(THREADS)
    list_starts(List list, unsigned columns, unsigned* starts) {
    const long long column = thread_index();
    if (column > columns) return;
    unsigned low = 0, high = length(list);
    while (low < high) {
        const unsigned middle = low + (high - low) / 2;
        if (list.column[middle] < column)
            low = middle + 1;
        else
            high = middle;
    }
    starts[column] = low;
}

// ---- The gradient --------------------------------------------------------------------------------

// The place in a list sorted by row, then column, before which all pairs lie before this one.
__device__ __forceinline__ unsigned place_in(const List& list, unsigned row, unsigned column) {
    unsigned low = 0, high = length(list);
    while (low < high) {
        const unsigned middle = low + (high - low) / 2, at = list.row[middle];
        if (at < row || (at == row && list.column[middle] < column))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

// A list sorted by row, then column, with every row's one positive among its pairs, or at their end
// NO_PAIR where it has none; and where its rows start, one more than there are rows.
// Grid: enough threads for the list's capacity and for the rows, and one more.
extern "C" __global__ void __launch_bounds__(THREADS)
    with_positives(List from, Pairs pairs, const Terms* terms, List to, unsigned* starts) {
    const unsigned long long i = thread_index();
    const unsigned count = length(from);
    const auto positive_of = [&](unsigned row) {
        return terms[row].count != 0 ? positive_column(pairs, row) : 0xffffffffu;
    };
    if (i < count) {
        const unsigned row = from.row[i], column = from.column[i];
        const unsigned long long at = i + row + (positive_of(row) < column);
        to.similarity[at] = from.similarity[i];
        to.row[at] = row;
        to.column[at] = column;
    }
    if (i > pairs.rows) return;
    starts[i] = place_in(from, i, 0) + i;
    if (i == pairs.rows) {
        *to.count = count + i;
        return;
    }
    const unsigned column = positive_of(i), at = place_in(from, i, column) + i;
    const bool has = terms[i].count != 0;
    to.similarity[at] = has ? terms[i].hardest : __uint_as_float(NO_PAIR);
    to.row[at] = i;
    to.column[at] = has ? column : 0;
}

// G of a pair of such a list.
__device__ __forceinline__ float list_weight(const List& list, unsigned i, const Pairs& pairs,
                                             const Coefficients& rows, float scale2) {
    const unsigned row = list.row[i];
    const float similarity = list.similarity[i];
    if (!is_pair(similarity)) return 0.0f;
    if (list.column[i] == positive_column(pairs, row))
        return positive_weight(similarity, rows, row, scale2);
    return negative_weight(similarity, rows.maximum[row], rows.negative[row], scale2);
}

// factor * sum, added to what is there where `accumulate`: so many columns side by side.
__device__ __forceinline__ void put_piece(float* to, unsigned count,
                                          const float (&sum)[tile::PIECE], float factor,
                                          int accumulate) {
    if (count == tile::PIECE && reinterpret_cast<unsigned long long>(to) % 16 == 0) {
        float4* wide = reinterpret_cast<float4*>(to);
#pragma unroll
        for (unsigned j = 0; j < tile::PIECE; j += 4) {
            float4 old = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (accumulate) old = wide[j / 4];
            wide[j / 4] =
                make_float4(fmaf(factor, sum[j], old.x), fmaf(factor, sum[j + 1], old.y),
                            fmaf(factor, sum[j + 2], old.z), fmaf(factor, sum[j + 3], old.w));
        }
        return;
    }
#pragma unroll
    for (unsigned j = 0; j < tile::PIECE; ++j)
        if (j < count) to[j] = fmaf(factor, sum[j], accumulate ? to[j] : 0.0f);
}

// out = factor * G Y (by rows) or factor * G^T X (by columns), added to it where `accumulate`: G the
// pairs of a list sorted by what `by_row` says, `other` the matrix Y or X. Lanes side by side have a
// pair's row among them; the warp takes as many pairs at a time as it has such lanes for, and these
// sums come together in a fixed tree. Grid: ceil(rows / 8), a warp an output row.
extern "C" __global__ void __launch_bounds__(THREADS)
    sum_list(List list, const unsigned* starts, int by_row, Pairs pairs, Coefficients rows,
             const float* scale, Operand other, const float* factor, int accumulate, Output out) {
    using tile::PIECE;
    const unsigned row = blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    if (row >= out.rows) return;
    const float scale2 = *scale * LOG2E, unit = *factor;
    const unsigned begin = starts[row], end = starts[row + 1];
    const unsigned lane = threadIdx.x % 32;
    const unsigned lanes = min(1u << rows::width((out.columns - 1) / PIECE), 32u);
    const unsigned turn = lane / lanes, at_once = 32 / lanes;
#pragma unroll 1
    for (unsigned k0 = 0; k0 < out.columns; k0 += lanes * PIECE) {
        const unsigned k = k0 + lane % lanes * PIECE;
        const unsigned count = k < out.columns ? min(out.columns - k, PIECE) : 0;
        float sum[PIECE] = {};
#pragma unroll 1
        for (unsigned first = begin; first < end; first += 32) {
            // Each lane has a pair's weight.
            unsigned place = 0;
            float weight = 0.0f;
            if (first + lane < end) {
                place = by_row ? list.column[first + lane] : list.row[first + lane];
                weight = list_weight(list, first + lane, pairs, rows, scale2);
                if (other.factor) weight *= other.factor[place];
            }
            const unsigned here = min(end - first, 32u);
#pragma unroll 1
            for (unsigned e = turn; e - turn < here; e += at_once) {
                const float of_pair = ptx::shuffle(weight, e);
                const long long at = ptx::shuffle(place, e) * other.stride + k;
                if (e >= here || count == 0) continue;
                float value[PIECE];
                tile::load_piece(other, at, count, value);
#pragma unroll
                for (unsigned j = 0; j < PIECE; ++j) sum[j] = fmaf(of_pair, value[j], sum[j]);
                if (!other.low) continue;
                tile::load_piece(other, other.low + at, count, value);
#pragma unroll
                for (unsigned j = 0; j < PIECE; ++j)
                    sum[j] = fmaf(of_pair * tile::LOW_UNIT, value[j], sum[j]);
            }
        }
#pragma unroll 1
        for (unsigned mask = lanes; mask < 32; mask *= 2)
#pragma unroll
            for (unsigned j = 0; j < PIECE; ++j) sum[j] += ptx::shuffle_xor(sum[j], mask);
        if (turn == 0) put_piece(out.data + row * out.stride + k, count, sum, unit, accumulate);
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
    for (unsigned i = starts[row] + threadIdx.x % 32; i < starts[row + 1]; i += 32) {
        const float weight = list_weight(list, i, pairs, rows, scale2);
        if (weight != 0.0f) sum = fmaf(list.similarity[i] - rows.maximum[row], weight, sum);
    }
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

// Counts into places: every one becomes the sum of those before it. Grid 1, a warp some digits: their
// counts lie side by side, and a thread that had a digit to itself would wait for each of them.
extern "C" __global__ void __launch_bounds__(SEARCH_THREADS)
    sort_places(unsigned* counts, unsigned blocks) {
    __shared__ unsigned sums[DIGITS];
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll 1
    for (unsigned digit = warp; digit < DIGITS; digit += SEARCH_THREADS / 32) {
        unsigned sum = 0;
#pragma unroll 4
        for (unsigned i = lane; i < blocks; i += 32) sum += counts[digit * blocks + i];
        sum = ptx::warp_sum(sum);
        if (lane == 0) sums[digit] = sum;
    }
    __syncthreads();
    const unsigned own = threadIdx.x < DIGITS ? sums[threadIdx.x] : 0;
    __syncthreads();
    const unsigned before = reduce::scan(own, sums, DIGITS) - own;
    __syncthreads();
    if (threadIdx.x < DIGITS) sums[threadIdx.x] = before;
    __syncthreads();
#pragma unroll 1
    for (unsigned digit = warp; digit < DIGITS; digit += SEARCH_THREADS / 32) {
        unsigned place = sums[digit];
#pragma unroll 1
        for (unsigned first = 0; first < blocks; first += 32) {
            unsigned* count = counts + digit * blocks + first + lane;
            const unsigned number = first + lane < blocks ? *count : 0;
            const unsigned end = place + ptx::warp_sum_up_to(number);
            if (first + lane < blocks) *count = end - number;
            place = ptx::shuffle(end, 31);
        }
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
