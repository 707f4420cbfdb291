// Program: the hardest negatives of S = X Y^T (n x m), found without storing it; the passes over
// tiles. What is done with counts and lists is in lists.cu.
//
// count_matrix, count_rows:  of the negatives whose digits so far are those that the search found,
//     how many there are of each next digit; for the whole matrix, or for each row. Every pass
//     computes S anew, to the same bits. Nothing is done where the search is over. For the matrix
//     the last block then chooses the next digit.
// sample:  the similarities of some tiles, all of them.
// collect, collect_rows:  the negatives of some tiles that a cut includes, into one list, or each
//     row's into its own, in no particular order.
// collect_again: the same for some rows, all tiles of theirs: those whose guess proved too high.
// repeat_rows:  the k hardest of the rows whose lists have lost pairs for all that.
// All but the last three tell on the way what `stats` would have told of these tiles besides.
//
// Grid: x = row tiles x column tiles, the column tile running fastest; of those, the samplers and
// collectors take the ones that their Sample names. One a block, or for all but count_rows fewer
// blocks than tiles: where nothing is to be done, a grid of all tiles would take its time.
// Block: Tile::THREADS threads.

#include "epilogue/each.cuh"
#include "epilogue/finite.cuh"
#include "epilogue/lane_rows.cuh"
#include "epilogue/pairs.cuh"
#include "epilogue/select.cuh"
#include "ptx/append.cuh"
#include "ptx/shuffle.cuh"
#include "ptx/vote.cuh"
#include "row_lists.cuh"
#include "search.cuh"
#include "tile/simt.cuh"
#include "tile/sm80.cuh"

using namespace epilogue;
using tile::Layout;
using tile::Operand;

using search::MATRIX_BITS;
// Bits of a digit of a row's search, at most. Twin of launch::ROW_BITS.
constexpr unsigned ROW_BITS = 8;

// Shared memory: the product's, then a row of every thread, which `each` uses, and the counts.
template <class Tile>
union Counting {
    typename Tile::Storage product;
    struct {
        float row[Tile::COLUMNS][Tile::THREADS];
        unsigned counts[1 << MATRIX_BITS];
    } after;
    unsigned long long sums[Tile::THREADS];
};

template <class Tile>
__device__ __forceinline__ void count_matrix(const Operand& x, const Operand& y, unsigned depth,
                                             const Pairs& pairs, const Step& step,
                                             Search* search, Cut* cut,
                                             unsigned long long* counters) {
    __shared__ Counting<Tile> shared;
    typename Tile::Storage& storage = shared.product;
    if (search->settled) return;
    const unsigned across = (pairs.columns + Tile::SIDE - 1) / Tile::SIDE;
    const unsigned tiles = (pairs.rows + Tile::SIDE - 1) / Tile::SIDE * across;
    auto& counts = shared.after.counts;
#pragma unroll 1
    for (unsigned place = blockIdx.x; place < tiles; place += gridDim.x) {
        const unsigned i0 = place / across * Tile::SIDE, j0 = place % across * Tile::SIDE;
        Tile tile;
        tile.template multiply<Layout::DEPTH, Layout::DEPTH>(x, i0, pairs.rows, y, j0,
                                                             pairs.columns, 0, depth, storage);
        const bool plain = all_negative<Tile>(pairs, i0, j0);
        Cells<Tile> cells;
        if (!plain) cells.classify(pairs, i0, j0);
        // A block counts into shared memory before all of them do into global: few digits are common.
        for (unsigned i = threadIdx.x; i < 1 << MATRIX_BITS; i += Tile::THREADS) counts[i] = 0;
        __syncthreads();
        const Search found = *ptx::opaque(search);
        each(
            tile, storage, [](int) { return true; },
            [&](int r, int c, float similarity) {
                if (!plain && !cells.negative.get(r, c)) return;
                const unsigned row = i0 + Tile::row(r), column = j0 + Tile::column(c);
                unsigned digit;
                if (digit_of(found, step, similarity, row, column, digit))
                    atomicAdd(&counts[digit], 1u);
            });
        __syncthreads();
        for (unsigned i = threadIdx.x; i < 1 << MATRIX_BITS; i += Tile::THREADS)
            if (counts[i] != 0) atomicAdd(&counters[i], static_cast<unsigned long long>(counts[i]));
        __syncthreads();
    }
    search::choose_last(step, counters, search, cut, shared.sums);
}

template <class Tile>
__device__ __forceinline__ void count_rows(const Operand& x, const Operand& y, unsigned depth,
                                           const Pairs& pairs, unsigned first_row,
                                           unsigned end_row, const Step& step,
                                           const Search* searches, unsigned* counters) {
    __shared__ typename Tile::Storage storage;
    const unsigned across = (pairs.columns + Tile::SIDE - 1) / Tile::SIDE;
    const unsigned i0 = first_row + blockIdx.x / across * Tile::SIDE;
    const unsigned j0 = blockIdx.x % across * Tile::SIDE;
    int open = 0;
    for (unsigned i = threadIdx.x; i < Tile::SIDE; i += Tile::THREADS)
        if (i0 + i < end_row && !searches[i0 + i].settled) open = 1;
    if (!__syncthreads_or(open)) return;
    Tile tile;
    tile.template multiply<Layout::DEPTH, Layout::DEPTH>(x, i0, end_row, y, j0, pairs.columns, 0,
                                                         depth, storage);
    const bool plain = all_negative<Tile>(pairs, i0, j0);
    Cells<Tile> cells;
    if (!plain) cells.classify(pairs, i0, j0);
    Search found;
    unsigned* counts;
    each(
        tile, storage,
        [&](int r) {
            const unsigned row = i0 + Tile::row(r);
            if (row >= end_row) return false;
            found = searches[row];
            counts = counters + (static_cast<long long>(row - first_row) << ROW_BITS);
            return !found.settled;
        },
        [&](int r, int c, float similarity) {
            if (!plain && !cells.negative.get(r, c)) return;
            unsigned digit;
            if (digit_of(found, step, similarity, i0 + Tile::row(r), j0 + Tile::column(c), digit))
                atomicAdd(&counts[digit], 1u);
        });
}

// Which tiles a launch takes: of every line of tiles, the multiples of `stride`; but for those of
// `stride` times `skip` where `skip` is not 0, which an earlier launch took. A line is a row of
// tiles, or all of them one after the other. Twin of launch::Sample.
struct Sample {
    unsigned stride;
    unsigned skip;
    unsigned line;   // tiles of a line
    unsigned taken;  // and how many of them are taken

    // The tile of a line that comes at this place among those taken.
    __device__ __forceinline__ unsigned tile_of_line(unsigned place) const {
        return (skip == 0 ? place : place + place / (skip - 1) + 1) * stride;
    }
    // The tile that comes at this place.
    __device__ __forceinline__ unsigned tile(unsigned place) const {
        return place / taken * line + tile_of_line(place % taken);
    }
};

// What `stats` would have told of a tile besides: NaN's bits for the rows that are not finite, and the
// similarity of a row's one positive. Both may be null.
struct Aside {
    unsigned* poison;
    float* positive;
};

// The thread's part of a tile: which pairs are negative.
template <class Tile>
struct Negatives {
    bool all;
    Cells<Tile> cells;

    // Also writes the positives down.
    __device__ __forceinline__ Negatives(const Tile& tile, const Pairs& pairs, unsigned i0,
                                         unsigned j0, float* positive)
        : all(all_negative<Tile>(pairs, i0, j0)) {
        if (all) return;
        cells.classify(pairs, i0, j0);
        if (!positive || !(pairs.flags & INDEXED)) return;
#pragma unroll
        for (int r = 0; r < Tile::ROWS; ++r)
#pragma unroll
            for (int c = 0; c < Tile::COLUMNS; ++c)
                if (cells.positive.get(r, c)) positive[i0 + Tile::row(r)] = tile.at(r, c);
    }
    // One bit for each of a row's columns.
    __device__ __forceinline__ unsigned row(int r) const { return all ? ALL : cells.negative.row(r); }
    static constexpr unsigned ALL = Tile::COLUMNS == 32 ? ~0u : (1u << Tile::COLUMNS % 32) - 1;
};

// Says in `poison` which of the thread's rows are not finite.
template <class Tile>
__device__ __forceinline__ void poison_rows(const Tile& tile, unsigned i0, unsigned rows,
                                            unsigned* poison) {
    if (!poison || surely_finite(tile)) return;
#pragma unroll
    for (int r = 0; r < Tile::ROWS; ++r) {
        // Always the same bits: the order does not matter.
        if (zero_of_row(tile, r) != 0.0f) atomicOr(&poison[min(i0 + Tile::row(r), rows - 1)], 0x7fc00000u);
    }
}

// The largest of four elements side by side, NaN aside.
template <class Tile>
__device__ __forceinline__ float four_top(const Tile& tile, int r, int c) {
    return fmaxf(fmaxf(tile.at(r, c), tile.at(r, c + 1)),
                 fmaxf(tile.at(r, c + 2), tile.at(r, c + 3)));
}

// The largest of the thread's elements of a row of the tile, NaN aside.
template <class Tile>
__device__ __forceinline__ float row_top(const Tile& tile, int r) {
    float top = four_top(tile, r, 0);
#pragma unroll
    for (int c = 4; c < Tile::COLUMNS; c += 4) top = fmaxf(top, four_top(tile, r, c));
    return top;
}

// Marks the pairs that are not negative.
template <class Tile>
__device__ __forceinline__ void mark(Tile& tile, const Cells<Tile>& cells) {
#pragma unroll
    for (int r = 0; r < Tile::ROWS; ++r)
#pragma unroll
        for (int c = 0; c < Tile::COLUMNS; ++c)
            if (!cells.negative.get(r, c)) tile.put(r, c, __uint_as_float(NO_PAIR));
}
template <class Tile>
__device__ __forceinline__ void mark(Tile& tile, const Negatives<Tile>& negatives) {
    if (!negatives.all) mark(tile, negatives.cells);
}

// Four elements of a row, side by side.
template <class Tile>
struct Four {
    float values[4];

    __device__ __forceinline__ Four(const Tile& tile, int r, int c)
        : values{tile.at(r, c), tile.at(r, c + 1), tile.at(r, c + 2), tile.at(r, c + 3)} {}
};

// Sets the bits of a row's elements that are not below `least`: of its fours F and on, each APART bits
// from the one before.
template <class Tile, int APART, int F = 0>
__device__ __forceinline__ void flags_of(unsigned& flags, const Tile& tile, int r, float least) {
    if constexpr (F < Tile::COLUMNS / 4) {
        ptx::flags_from<F * APART>(flags, Four<Tile>(tile, r, F * 4).values, least);
        flags_of<Tile, APART, F + 1>(flags, tile, r, least);
    }
}

// The elements of a row that are not below a cut's similarity; all of them where there are too few
// numbers for a cut, and NaN counts too.
template <class Tile>
__device__ __forceinline__ unsigned not_below(const Tile& tile, int r, const Cut& cut) {
    unsigned bits = 0;
    flags_of<Tile, 4>(bits, tile, r, cut.similarity);
    return cut.key == 0 ? Negatives<Tile>::ALL : bits;
}

// Calls body(tile, i0, j0, place) for the tiles of a sample, `tiles` of the rows from first_row on.
// A loop though a block may have one tile only: what the product needs of the thread's place is then
// made before it, not in each of its slices.
template <class Tile, class Body>
__device__ __forceinline__ void each_tile(const Operand& x, const Operand& y, unsigned depth,
                                          const Pairs& pairs, unsigned first_row,
                                          const Sample& sample, unsigned tiles,
                                          typename Tile::Storage& storage, Body body) {
    const unsigned across = (pairs.columns + Tile::SIDE - 1) / Tile::SIDE;
    // Places of the block: lines, and tiles of them. Divisions cost as much as a row of the epilogue.
    const unsigned lines = gridDim.x / sample.taken, on = gridDim.x % sample.taken;
    unsigned line = blockIdx.x / sample.taken, of_line = blockIdx.x % sample.taken;
#pragma unroll 1
    for (unsigned place = blockIdx.x; place < tiles; place += gridDim.x) {
        unsigned row = line, column = sample.tile_of_line(of_line);
        if (sample.line != across) {
            const unsigned at = line * sample.line + column;
            row = at / across, column = at % across;
        }
        line += lines, of_line += on;
        if (of_line >= sample.taken) of_line -= sample.taken, ++line;
        const unsigned i0 = first_row + row * Tile::SIDE, j0 = column * Tile::SIDE;
        Tile tile;
        tile.template multiply<Layout::DEPTH, Layout::DEPTH>(x, i0, pairs.rows, y, j0,
                                                             pairs.columns, 0, depth, storage);
        body(tile, i0, j0, place);
        __syncthreads();
    }
}

// The similarities of a sample's tile; and the largest of each four side by side, or of each
// thread's elements of a row: of COLUMNS / 4 fours, which lie as many fours apart as threads of a
// warp share the row. Twin of Kind::tops.
template <class Tile>
__device__ __forceinline__ void store_sample(Tile& tile, const Pairs& pairs, unsigned i0,
                                             unsigned j0, unsigned place, const Sample& sample,
                                             float* values, float* tops, int by_fours,
                                             const Aside& aside) {
    static_assert(Tile::GROUP == 4, "four columns side by side");
    constexpr unsigned APART = Tile::SIDE / Tile::COLUMNS / Tile::PARTS;
    poison_rows(tile, i0, pairs.rows, aside.poison);
    mark(tile, Negatives<Tile>(tile, pairs, i0, j0, aside.positive));
    const unsigned width = sample.taken * Tile::SIDE;
    const unsigned long long first =
        static_cast<unsigned long long>(place / sample.taken * Tile::SIDE + Tile::row(0)) * width +
        place % sample.taken * Tile::SIDE;
    const unsigned column = Tile::column(0), four = column / 4;
    float* const to = values + first + column;
    float* const fours = tops + first / 4 + four;
    float* const rows = tops + first / Tile::COLUMNS +
                        four / (APART * Tile::COLUMNS / 4) * APART + four % APART;
#pragma unroll
    for (int r = 0; r < Tile::ROWS; ++r) {
        const auto below = [&](unsigned pitch) {
            return static_cast<unsigned long long>(Tile::row(r) - Tile::row(0)) * pitch;
        };
        const auto aside = [&](int c) { return Tile::column(c) - static_cast<int>(column); };
        if (values) {
#pragma unroll
            for (int c = 0; c < Tile::COLUMNS; c += 4)
                *reinterpret_cast<float4*>(to + below(width) + aside(c)) = make_float4(
                    tile.at(r, c), tile.at(r, c + 1), tile.at(r, c + 2), tile.at(r, c + 3));
        }
        if (!tops) continue;
        if (by_fours) {
#pragma unroll
            for (int c = 0; c < Tile::COLUMNS; c += 4)
                (fours + below(width / 4))[aside(c) / 4] = four_top(tile, r, c);
        } else {
            rows[below(width / Tile::COLUMNS)] = row_top(tile, r);
        }
    }
}

template <class Tile>
__device__ __forceinline__ void sample(const Operand& x, const Operand& y, unsigned depth,
                                       const Pairs& pairs, unsigned first_row, const Sample& which,
                                       unsigned tiles, float* values, float* tops, int by_fours,
                                       const Aside& aside) {
    __shared__ typename Tile::Storage storage;
    each_tile<Tile>(x, y, depth, pairs, first_row, which, tiles, storage,
                    [&](Tile& tile, unsigned i0, unsigned j0, unsigned place) {
                        store_sample(tile, pairs, i0, j0, place, which, values, tops, by_fours,
                                     aside);
                    });
}

// The same of the rows from R on, each with the number of the lane that has it.
template <int R = 0, class Tile>
__device__ __forceinline__ void flags_of_rows(unsigned (&flags)[Tile::ROWS], const Tile& tile,
                                              float least) {
    if constexpr (R < Tile::ROWS) {
        flags_of<Tile, 8>(flags[R], tile, R, LaneRows<Tile>::template of_row<R>(least));
        flags_of_rows<R + 1>(flags, tile, least);
    }
}

// The element of an array at an index, by one instruction.
template <class Value>
__device__ __forceinline__ Value* at(Value* values, unsigned index) {
    return ptx::of_global<Value>(
        ptx::element_address<sizeof(Value)>(ptx::global_address(values), index));
}

// Adds an element to a list, which may be full.
__device__ __forceinline__ void add_to_list(unsigned* count, Word* words, unsigned capacity,
                                            float similarity, unsigned column) {
    const unsigned to = atomicAdd(count, 1u);
    if (to < capacity) words[to] = word_of(signed_key(order_key(similarity)), ~column);
}

// Adds the pairs of a tile, the others being marked, that are not below their rows' cuts to the rows'
// lists; of those rows that wanted(row, r) holds for. Rows are counted from the lists' first; `cuts` are
// from there on, and list_row(r) is the tile's r-th.
template <class Tile, class ListRow, class Wanted>
__device__ __forceinline__ void add_to_rows(const Tile& tile, typename Tile::Storage& storage,
                                            unsigned j0, const Cut* cuts, const RowLists& lists,
                                            ListRow list_row, Wanted wanted) {
    const auto words_of = [&](unsigned row) {
        return lists.words + static_cast<long long>(row) * lists.capacity;
    };
    if constexpr (!Tile::PARKS) {
        const unsigned place = LaneRows<Tile>::row(), row = list_row(place);
        const Cut* const cut = at(cuts, row);
        const float least = cut->similarity;
        unsigned flags[Tile::ROWS] = {};
        flags_of_rows(flags, tile, least);
        LaneRows<Tile> own(flags);
        // Where there is no cut, NaN counts too.
        const bool all = cut->key == 0;
        // The bits of a positive similarity are its key.
        const bool by_bits = least > 0.0f;
        unsigned* const count = at(lists.counts, row);
        unsigned long long to = 0;
        if (all) own.fill();
        if (!wanted(row, place)) own.clear();
        if (by_bits) {
            const unsigned number = own.number();
            const unsigned first = number != 0 ? atomicAdd(count, number) : 0;
            if (first + number > lists.capacity) own.clear();
            to = ptx::element_address(ptx::global_address(lists.words), row,
                                      lists.capacity * sizeof(Word));
            to = ptx::element_address<sizeof(Word)>(to, first);
        }
        own.each_word(tile, storage, [&](unsigned& bits, unsigned column, unsigned from) {
            if (by_bits) {
#pragma unroll 1
                while (bits != 0) ptx::append_highest(bits, from, ~(j0 + column), to);
            } else {
#pragma unroll 1
                for (; bits != 0; bits &= bits - 1) {
                    const unsigned b = __ffs(bits) - 1;
                    const float similarity = ptx::shared_load(from + b * 4);
                    if (__float_as_uint(similarity) != NO_PAIR)
                        add_to_list(count, words_of(ptx::opaque(row)), lists.capacity, similarity,
                                    j0 + column + b);
                }
            }
        });
    } else {
        constexpr unsigned FOURS = Tile::COLUMNS / 4;
#pragma unroll
        for (int r = 0; r < Tile::ROWS; ++r) {
            const unsigned row = list_row(Tile::row(r));
            if (!wanted(row, Tile::row(r))) continue;
            const Cut* const cut = cuts + row;
            const float least = cut->similarity;
            // Fours with one above the cut.
            unsigned found = 0;
#pragma unroll
            for (unsigned f = 0; f < FOURS; ++f)
                found |= four_top(tile, r, f * 4) >= least ? 1u << f : 0;
            const bool all = cut->key == 0;
            if (all) found = (1u << FOURS) - 1;
            each_four(tile, storage, r, found, [&](unsigned f, float4 four) {
                const unsigned column = j0 + Tile::column(f * 4);
                const float values[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
                for (unsigned e = 0; e < 4; ++e)
                    if (values[e] >= least || (all && __float_as_uint(values[e]) != NO_PAIR))
                        add_to_list(lists.counts + row, words_of(row), lists.capacity, values[e],
                                    column + e);
            });
        }
    }
}

// The same of a tile of rows side by side.
template <class Tile, class Wanted>
__device__ __forceinline__ void add_to_rows(Tile& tile, typename Tile::Storage& storage,
                                            const Pairs& pairs, unsigned i0, unsigned j0,
                                            unsigned first_row, const RowLists& lists,
                                            const Aside& aside, Wanted wanted) {
    poison_rows(tile, i0, pairs.rows, aside.poison);
    mark(tile, Negatives<Tile>(tile, pairs, i0, j0, aside.positive));
    // Of rows beyond the matrix no element is a pair.
    const auto list_row = [&](unsigned r) { return min(i0 + r, pairs.rows - 1) - first_row; };
    add_to_rows(tile, storage, j0, pairs.cuts + first_row, lists, list_row, wanted);
}

template <class Tile>
__device__ __forceinline__ void collect_rows(const Operand& x, const Operand& y, unsigned depth,
                                             const Pairs& pairs, unsigned first_row,
                                             const Sample& sample, unsigned tiles,
                                             const RowLists& lists, const Aside& aside) {
    __shared__ typename Tile::Storage storage;
    each_tile<Tile>(x, y, depth, pairs, first_row, sample, tiles, storage,
                    [&](Tile& tile, unsigned i0, unsigned j0, unsigned) {
                        add_to_rows(tile, storage, pairs, i0, j0, first_row, lists, aside,
                                    [](unsigned, unsigned) { return true; });
                    });
}

template <class Tile>
__device__ __forceinline__ void collect_again(const Operand& x, const Operand& y, unsigned depth,
                                              const Pairs& pairs, unsigned first_row,
                                              const Again& again, const RowLists& lists) {
    __shared__ typename Tile::Storage storage;
    const unsigned number = *again.number;
    // Where guesses are wrong of many rows, another is no better.
    if (number == 0 || number > again.most) return;
    const tile::SomeRows rows{again.rows, number};
    const tile::Picked some(x, rows);
    const unsigned across = (pairs.columns + Tile::SIDE - 1) / Tile::SIDE;
    const unsigned tiles = (number + Tile::SIDE - 1) / Tile::SIDE * across;
#pragma unroll 1
    for (unsigned place = blockIdx.x; place < tiles; place += gridDim.x) {
        const unsigned i0 = place / across * Tile::SIDE, j0 = place % across * Tile::SIDE;
        Tile tile;
        tile.template multiply<Layout::DEPTH, Layout::DEPTH>(some, i0, number, y, j0, pairs.columns,
                                                             0, depth, storage);
        // Mostly only pairs on the diagonal are not negative, if any.
        bool plain = j0 + Tile::SIDE <= pairs.columns &&
                     !(pairs.flags & (LABELED | IDS) || pairs.index);
#pragma unroll
        for (int r = 0; r < Tile::ROWS; ++r)
            plain = plain && rows.row(i0 + Tile::row(r)) - j0 >= Tile::SIDE;
        if (ptx::any(!plain, 0xffffffff)) {
            Cells<Tile> cells;
            cells.classify(pairs, i0, j0, rows);
            mark(tile, cells);
        }
        add_to_rows(
            tile, storage, j0, pairs.cuts + first_row, lists,
            [&](unsigned r) { return rows.row(i0 + r) - first_row; },
            [&](unsigned, unsigned r) { return i0 + r < number; });
        __syncthreads();
    }
}

template <class Tile>
__device__ __forceinline__ void repeat_rows(const Operand& x, const Operand& y, unsigned depth,
                                            const Pairs& pairs, unsigned first_row,
                                            unsigned end_row, unsigned k, const RowLists& lists,
                                            unsigned* lost, Cut* cuts) {
    __shared__ union {
        typename Tile::Storage product;
        alignas(16) unsigned bins[Tile::THREADS / rows::LANES][rows::BINS_APART];
    } shared;
    auto& bins = shared.bins;
    const unsigned i0 = first_row + blockIdx.x * Tile::SIDE;
    int any = 0;
    for (unsigned row = i0 + threadIdx.x; row < min(i0 + Tile::SIDE, end_row); row += Tile::THREADS) {
        const unsigned count = lists.counts[row - first_row];
        const bool again = count > lists.capacity || (count < k && cuts[row].key != 0);
        lost[row - first_row] = again;
        if (!again) continue;
        lists.counts[row - first_row] = 0;
        cuts[row] = no_cut();
        any = 1;
    }
    if (!__syncthreads_or(any)) return;
#pragma unroll 1
    for (unsigned j0 = 0; j0 < pairs.columns; j0 += Tile::SIDE) {
        Tile tile;
        tile.template multiply<Layout::DEPTH, Layout::DEPTH>(x, i0, pairs.rows, y, j0,
                                                             pairs.columns, 0, depth,
                                                             shared.product);
        add_to_rows(tile, shared.product, pairs, i0, j0, first_row, lists, Aside{},
                    [&](unsigned row, unsigned) { return lost[row] != 0; });
        __syncthreads();
        // Where the next tile's pairs might not fit, the k hardest so far are enough.
        const rows::Group<false> group;
        for (unsigned i = threadIdx.x / rows::LANES; i < Tile::SIDE;
             i += Tile::THREADS / rows::LANES) {
            const unsigned row = i0 + i;
            if (row >= end_row || !lost[row - first_row]) continue;
            const unsigned count = lists.counts[row - first_row];
            if (count + Tile::SIDE <= lists.capacity) continue;
            Word* words = lists.words + static_cast<long long>(row - first_row) * lists.capacity;
            // A cut is a pair: those that an earlier one left out may be close below it.
            unsigned* counters = bins[threadIdx.x / rows::LANES];
            const int low = signed_key(cuts[row].key),
                      most = group.most(rows::largest(group, words, count));
            const Word last = rows::kth(group, counters, words, count, low, most, k);
            const Word least = rows::keep(group, words, count, last);
            if (group.lane != 0) continue;
            lists.counts[row - first_row] = k;
            cuts[row] = cut_of(least, row);
        }
        __syncthreads();
    }
}

// Pairs that are too hard for a list: those that this cut includes are counted instead. Twin of
// launch::Above.
struct Above {
    const Cut* cut;  // may be null
    unsigned long long* count;
};

// Adds the negatives of a tile that the cut of their rows includes to a list, by the lanes that have a row;
// or by the threads of the product's layout, each for itself.
template <class Tile>
__device__ __forceinline__ void add_by_lanes(Tile& tile, typename Tile::Storage& storage,
                                             const Pairs& pairs, unsigned i0, unsigned j0,
                                             const Above& above, const List& list,
                                             const Aside& aside) {
    mark(tile, Negatives<Tile>(tile, pairs, i0, j0, aside.positive));
    const unsigned row = min(i0 + LaneRows<Tile>::row(), pairs.rows - 1);
    const Cut* const cut = at(pairs.cuts, row * pairs.cut_stride);
    unsigned flags[Tile::ROWS] = {};
    flags_of_rows(flags, tile, cut->similarity);
    LaneRows<Tile> own(flags);
    // Where there is no cut, NaN counts too. A cut that says nothing of rows and columns includes all
    // of the others.
    const bool all = cut->key == 0;
    if (all) own.fill();
    if (!ptx::any(own.number() != 0, 0xffffffff)) return;
    if (ptx::any(all || above.cut || (cut->row & cut->column) != 0xffffffffu, 0xffffffff)) {
        const Cut least = *cut;
        unsigned hard = 0;
        own.each_word(tile, storage, [&](unsigned& bits, unsigned column, unsigned from) {
#pragma unroll 1
            for (unsigned left = bits; left != 0; left &= left - 1) {
                const unsigned b = __ffs(left) - 1;
                const float similarity = ptx::shared_load(from + b * 4);
                const bool pair = __float_as_uint(similarity) != NO_PAIR;
                const bool harder =
                    pair && above.cut && includes(*above.cut, similarity, row, j0 + column + b);
                hard += harder;
                if (!pair || harder || !includes(least, similarity, row, j0 + column + b))
                    bits &= ~(1u << b);
            }
        });
        if (hard != 0) atomicAdd(above.count, static_cast<unsigned long long>(hard));
    }
    // One place for all of the warp's.
    const unsigned number = own.number();
    const unsigned before = ptx::warp_sum_up_to(number);
    const unsigned total = ptx::shuffle(before, 31);
    if (total == 0) return;
    unsigned long long to = 0;
    if (threadIdx.x % 32 == 0) to = atomicAdd(list.count, static_cast<unsigned long long>(total));
    to = ptx::shuffle(to, 0);
    // Beyond the capacity it is lost.
    if (to + total > list.capacity) return;
    to += before - number;
    own.each_word(tile, storage, [&](unsigned& bits, unsigned column, unsigned from) {
#pragma unroll 1
        for (; bits != 0; bits &= bits - 1, ++to) {
            const unsigned b = __ffs(bits) - 1;
            list.similarity[to] = ptx::shared_load(from + b * 4);
            list.row[to] = row;
            list.column[to] = j0 + column + b;
        }
    });
}

template <class Tile>
__device__ __forceinline__ void add_by_threads(const Tile& tile, typename Tile::Storage& storage,
                                               const Pairs& pairs, unsigned i0, unsigned j0,
                                               const Above& above, const List& list,
                                               const Aside& aside) {
    const Negatives<Tile> negatives(tile, pairs, i0, j0, aside.positive);
    Bits<Tile> taken;
    taken.clear();
    unsigned count = 0, hard = 0;
#pragma unroll
    for (int r = 0; r < Tile::ROWS; ++r) {
        const unsigned row = min(i0 + Tile::row(r), pairs.rows - 1);
        const Cut cut = pairs.cuts[static_cast<long long>(row) * pairs.cut_stride];
        // Mostly so, in all lanes: few of a matrix are mined.
        if (row_top(tile, r) < cut.similarity && cut.key != 0) continue;
        unsigned bits = not_below(tile, r, cut) & negatives.row(r);
        if (bits == 0) continue;
        // A cut that says nothing of rows and columns includes all of these.
        if (above.cut || (cut.row & cut.column) != 0xffffffffu) {
            each_set(tile, storage, r, bits, [&](int c, float similarity) {
                const unsigned column = j0 + Tile::column(c);
                const bool harder = above.cut && includes(*above.cut, similarity, row, column);
                hard += harder;
                if (harder || !includes(cut, similarity, row, column)) bits &= ~(1u << c);
            });
        }
        taken.put_row(r, bits);
        count += __popc(bits);
    }
    if (hard != 0) atomicAdd(above.count, static_cast<unsigned long long>(hard));
    if (count == 0) return;
    unsigned long long to = atomicAdd(list.count, static_cast<unsigned long long>(count));
#pragma unroll
    for (int r = 0; r < Tile::ROWS; ++r) {
        if (!taken.any(r)) continue;
        each_set(tile, storage, r, taken.row(r), [&](int c, float similarity) {
            if (to < list.capacity) {
                list.similarity[to] = similarity;
                list.row[to] = i0 + Tile::row(r);
                list.column[to] = j0 + Tile::column(c);
            }
            ++to;
        });
    }
}

template <class Tile>
__device__ __forceinline__ void collect_tile(const Operand& x, const Operand& y, unsigned depth,
                                             const Pairs& pairs, unsigned place,
                                             typename Tile::Storage& storage, const Above& above,
                                             const List& list, const Aside& aside) {
    const unsigned across = (pairs.columns + Tile::SIDE - 1) / Tile::SIDE;
    const unsigned i0 = place / across * Tile::SIDE, j0 = place % across * Tile::SIDE;
    Tile tile;
    tile.template multiply<Layout::DEPTH, Layout::DEPTH>(x, i0, pairs.rows, y, j0, pairs.columns, 0,
                                                         depth, storage);
    poison_rows(tile, i0, pairs.rows, aside.poison);
    if constexpr (Tile::PARKS)
        add_by_threads(tile, storage, pairs, i0, j0, above, list, aside);
    else
        add_by_lanes(tile, storage, pairs, i0, j0, above, list, aside);
}

template <class Tile>
__device__ __forceinline__ void collect(const Operand& x, const Operand& y, unsigned depth,
                                        const Pairs& pairs, const Sample& sample,
                                        const unsigned* gate, const Above& above, const List& list,
                                        const Aside& aside) {
    __shared__ typename Tile::Storage storage;
    if (gate && !*gate) return;
#pragma unroll 1
    for (unsigned place = blockIdx.x; place < sample.taken; place += gridDim.x) {
        collect_tile<Tile>(x, y, depth, pairs, sample.tile(place), storage, above, list, aside);
        __syncthreads();
    }
}

// Parameters: x is n x depth, y is m x depth, rows contiguous; pairs as in stats.cu, ranges per SIDE.
// count_matrix: one search; counters: 2^MATRIX_BITS + 1, 0 before and after.
// count_rows: a search for each of the n rows; counters: [end_row - first_row][2^ROW_BITS], added
//     to; first_row a multiple of SIDE. Blocks: the tiles of these rows.
// The rest: pairs without MINED. poison: n; positive: n, written where a tile holds the row's one
//     positive; lists: of the rows from first_row on, a multiple of SIDE; tiles: of the sample, in
//     those rows.
// sample: values: [lines * SIDE][taken * SIDE], NO_PAIR where a pair is not negative; tops: of every
//     four (by_fours) or COLUMNS of them, no number where there is no pair. Either may be null.
// collect: gate: nothing is done where it is 0; may be null. above.count and list: added to.
// collect_rows: a cut for each row.
// collect_again: the rows that guess_again (lists.cu) names; lists and cuts are theirs.
// repeat_rows: a row has lost pairs where its list has overflown, or has fewer than k for all that a
//     cut was guessed. Then all that are not below the k-th, and no more than the capacity: at
//     least k + SIDE. lost: as many words as there are rows. Blocks: the row tiles.
#define MINING(NAME, TILE, BLOCKS)                                                              \
    extern "C" __global__ void __launch_bounds__(TILE::THREADS, BLOCKS) count_matrix_##NAME(    \
        const __grid_constant__ Operand x, const __grid_constant__ Operand y, unsigned depth,   \
        const __grid_constant__ Pairs pairs, const __grid_constant__ Step step, Search* search, \
        Cut* cut, unsigned long long* counters) {                                               \
        count_matrix<TILE>(x, y, depth, pairs, step, search, cut, counters);                    \
    }                                                                                           \
    extern "C" __global__ void __launch_bounds__(TILE::THREADS, BLOCKS) count_rows_##NAME(      \
        Operand x, Operand y, unsigned depth, Pairs pairs, unsigned first_row,                  \
        unsigned end_row, Step step, const Search* searches, unsigned* counters) {              \
        count_rows<TILE>(x, y, depth, pairs, first_row, end_row, step, searches, counters);     \
    }                                                                                           \
    extern "C" __global__ void __launch_bounds__(TILE::THREADS, BLOCKS) sample_##NAME(          \
        Operand x, Operand y, unsigned depth, Pairs pairs, unsigned first_row, Sample which,    \
        unsigned tiles, float* values, float* tops, int by_fours, Aside aside) {                \
        sample<TILE>(x, y, depth, pairs, first_row, which, tiles, values, tops, by_fours,       \
                     aside);                                                                    \
    }                                                                                           \
    extern "C" __global__ void __launch_bounds__(TILE::THREADS, BLOCKS) collect_rows_##NAME(    \
        Operand x, Operand y, unsigned depth, Pairs pairs, unsigned first_row, Sample sample,   \
        unsigned tiles, RowLists lists, Aside aside) {                                          \
        collect_rows<TILE>(x, y, depth, pairs, first_row, sample, tiles, lists, aside);         \
    }                                                                                           \
    extern "C" __global__ void __launch_bounds__(TILE::THREADS, BLOCKS) repeat_rows_##NAME(     \
        const __grid_constant__ Operand x, const __grid_constant__ Operand y, unsigned depth,   \
        const __grid_constant__ Pairs pairs, unsigned first_row, unsigned end_row, unsigned k,  \
        const __grid_constant__ RowLists lists, unsigned* lost, Cut* cuts) {                    \
        repeat_rows<TILE>(x, y, depth, pairs, first_row, end_row, k, lists, lost, cuts);        \
    }                                                                                           \
    extern "C" __global__ void __launch_bounds__(TILE::THREADS, BLOCKS) collect_##NAME(         \
        const __grid_constant__ Operand x, const __grid_constant__ Operand y, unsigned depth,   \
        const __grid_constant__ Pairs pairs, const __grid_constant__ Sample sample,             \
        const unsigned* gate, const __grid_constant__ Above above,                              \
        const __grid_constant__ List list, const __grid_constant__ Aside aside) {               \
        collect<TILE>(x, y, depth, pairs, sample, gate, above, list, aside);                    \
    }

#define MINING_SM80(NAME, ELEMENT)                                \
    using NAME##_Large = tile::Sm80Large<ELEMENT, Layout::DEPTH>; \
    using NAME##_Small = tile::Sm80Small<ELEMENT, Layout::DEPTH>; \
    MINING(NAME##_128, NAME##_Large, 2)                           \
    MINING(NAME##_32, NAME##_Small, 8)

MINING(simt128, tile::Large, 2)
MINING(simt32, tile::Small, 8)
MINING_SM80(sm80_f16, tile::Half)
MINING_SM80(sm80_bf16, tile::Brain)

// Small tiles whatever the size: the rows are few.
#define AGAIN(NAME, TILE)                                                              \
    extern "C" __global__ void __launch_bounds__(TILE::THREADS, 8) collect_again_##NAME( \
        Operand x, Operand y, unsigned depth, Pairs pairs, unsigned first_row,         \
        Again again, RowLists lists) {                                                 \
        collect_again<TILE>(x, y, depth, pairs, first_row, again, lists);              \
    }

AGAIN(simt32, tile::Small)
AGAIN(sm80_f16_32, sm80_f16_Small)
AGAIN(sm80_bf16_32, sm80_bf16_Small)
