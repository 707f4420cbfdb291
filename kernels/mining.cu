// Program: the hardest negatives of S = X Y^T (n x m), found without storing it; the passes over
// tiles. What is done with counts and lists is in lists.cu.
//
// count_matrix, count_rows:  of the negatives whose digits so far are those that the search found,
//     how many there are of each next digit; for the whole matrix, or for each row. Every pass
//     computes S anew, to the same bits. Nothing is done where the search is over.
// collect:  the negatives of some tiles that a cut includes, into a list, in no particular order;
//     and on the way what `stats` would have told of these tiles besides.
//
// Grid: x = row tiles x column tiles, the column tile running fastest; of those, collect takes the
// ones that its walk names, one a block.
// Block: Tile::THREADS threads.

#include "epilogue/each.cuh"
#include "epilogue/pairs.cuh"
#include "epilogue/select.cuh"
#include "tile/simt.cuh"
#include "tile/sm80.cuh"

using namespace epilogue;
using tile::Layout;
using tile::Operand;

// Bits of a digit, at most. Twins of launch::MATRIX_BITS, launch::ROW_BITS.
constexpr unsigned MATRIX_BITS = 11;
constexpr unsigned ROW_BITS = 8;

// Shared memory: the product's, then a row of every thread, which `each` uses, and the counts.
template <class Tile>
union Counting {
    typename Tile::Storage product;
    struct {
        float row[Tile::COLUMNS][Tile::THREADS];
        unsigned counts[1 << MATRIX_BITS];
    } after;
};

template <class Tile>
__device__ __forceinline__ void count_matrix(const Operand& x, const Operand& y, unsigned depth,
                                             const Pairs& pairs, const Step& step,
                                             const Search* search, unsigned long long* counters) {
    __shared__ Counting<Tile> shared;
    typename Tile::Storage& storage = shared.product;
    if (search->settled) return;
    const unsigned across = (pairs.columns + Tile::SIDE - 1) / Tile::SIDE;
    const unsigned i0 = blockIdx.x / across * Tile::SIDE;
    const unsigned j0 = blockIdx.x % across * Tile::SIDE;
    Tile tile;
    tile.template multiply<Layout::DEPTH, Layout::DEPTH>(x, i0, pairs.rows, y, j0, pairs.columns, 0,
                                                         depth, storage);
    const bool plain = all_negative<Tile>(pairs, i0, j0);
    Cells<Tile> cells;
    if (!plain) cells.classify(pairs, i0, j0);
    // A warp counts into shared memory before all of them do into global: few digits are common.
    auto& counts = shared.after.counts;
    for (unsigned i = threadIdx.x; i < 1 << MATRIX_BITS; i += Tile::THREADS) counts[i] = 0;
    __syncthreads();
    const Search found = *search;
    each(
        tile, storage, [](int) { return true; },
        [&](int r, int c, float similarity) {
            if (!plain && !cells.negative.get(r, c)) return;
            unsigned digit;
            if (digit_of(found, step, similarity, i0 + Tile::row(r), j0 + Tile::column(c), digit))
                atomicAdd(&counts[digit], 1u);
        });
    __syncthreads();
    for (unsigned i = threadIdx.x; i < 1 << MATRIX_BITS; i += Tile::THREADS)
        if (counts[i] != 0) atomicAdd(&counters[i], static_cast<unsigned long long>(counts[i]));
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

    // The tile of this block.
    __device__ __forceinline__ unsigned tile() const {
        const unsigned b = blockIdx.x % taken;
        const unsigned multiple = skip == 0 ? b : b / (skip - 1) * skip + b % (skip - 1) + 1;
        return blockIdx.x / taken * line + multiple * stride;
    }
};

// Pairs that are too hard for a list: those that this cut includes are counted instead. Twin of
// launch::Above.
struct Above {
    const Cut* cut;  // may be null
    unsigned long long* count;
};

template <class Tile>
__device__ __forceinline__ void collect(const Operand& x, const Operand& y, unsigned depth,
                                        const Pairs& pairs, unsigned first_row,
                                        const Sample& sample, const unsigned* gate,
                                        const Above& above, const List& list, unsigned* poison,
                                        float* positive) {
    __shared__ typename Tile::Storage storage;
    if (gate && !*gate) return;
    const unsigned across = (pairs.columns + Tile::SIDE - 1) / Tile::SIDE;
    const unsigned place = sample.tile();
    const unsigned i0 = first_row + place / across * Tile::SIDE;
    const unsigned j0 = place % across * Tile::SIDE;
    Tile tile;
    tile.template multiply<Layout::DEPTH, Layout::DEPTH>(x, i0, pairs.rows, y, j0, pairs.columns, 0,
                                                         depth, storage);
    const bool plain = all_negative<Tile>(pairs, i0, j0);
    Cells<Tile> cells;
    if (!plain) {
        cells.classify(pairs, i0, j0);
        if (positive && pairs.flags & INDEXED) {
#pragma unroll
            for (int r = 0; r < Tile::ROWS; ++r)
#pragma unroll
                for (int c = 0; c < Tile::COLUMNS; ++c)
                    if (cells.positive.get(r, c)) positive[i0 + Tile::row(r)] = tile.at(r, c);
        }
    }
    Bits<Tile> taken;
    taken.clear();
#pragma unroll
    for (int r = 0; r < Tile::ROWS; ++r) {
        const unsigned row = min(i0 + Tile::row(r), pairs.rows - 1);
        float top = -INFINITE, sum = 0.0f;
#pragma unroll
        for (int c = 0; c < Tile::COLUMNS; ++c) {
            top = fmaxf(top, tile.at(r, c));
            sum = fmaf(tile.at(r, c), 0.0f, sum);
        }
        // Rare, and always the same bits: the order does not matter.
        if (poison && sum != 0.0f) atomicOr(&poison[row], 0x7fc00000u);
        const Cut cut = pairs.cuts[static_cast<long long>(row) * pairs.cut_stride];
        // Without numbers enough the cut is below them all, and NaN counts too.
        if (top < cut.similarity && cut.key != 0) continue;
        unsigned bits = 0;
#pragma unroll
        for (int c = 0; c < Tile::COLUMNS; ++c) {
            const bool takes = includes(cut, tile.at(r, c), row, j0 + Tile::column(c));
            bits |= static_cast<unsigned>(takes && (plain || cells.negative.get(r, c))) << c;
        }
        taken.put_row(r, bits);
    }
    unsigned count = 0;
#pragma unroll
    for (const unsigned word : taken.word) count += __popc(word);
    if (count == 0) return;
    if (above.cut) {
        const Cut cut = *above.cut;
        unsigned hard = 0;
        each(
            tile, storage, [&](int r) { return taken.any(r); },
            [&](int r, int c, float similarity) {
                if (!taken.get(r, c)) return;
                const unsigned row = i0 + Tile::row(r), column = j0 + Tile::column(c);
                if (!includes(cut, similarity, row, column)) return;
                taken.drop(r, c);
                ++hard;
            });
        if (hard != 0) atomicAdd(above.count, static_cast<unsigned long long>(hard));
        count -= hard;
        if (count == 0) return;
    }
    unsigned long long to = atomicAdd(list.count, static_cast<unsigned long long>(count));
    each(
        tile, storage, [&](int r) { return taken.any(r); },
        [&](int r, int c, float similarity) {
            if (!taken.get(r, c)) return;
            if (to < list.capacity) {
                list.similarity[to] = similarity;
                list.row[to] = i0 + Tile::row(r);
                list.column[to] = j0 + Tile::column(c);
            }
            ++to;
        });
}

// Parameters: x is n x depth, y is m x depth, rows contiguous; pairs as in stats.cu, ranges per SIDE.
// count_matrix: one search; counters: 2^MATRIX_BITS, added to. Blocks: all tiles.
// count_rows: a search for each of the n rows; counters: [end_row - first_row][2^ROW_BITS], added
//     to; first_row a multiple of SIDE. Blocks: the tiles of these rows.
// collect: pairs.cuts: without MINED; gate: nothing is done where it is 0; may be null. above.count
//     and list: added to. poison: n, NaN's bits set where a row is not finite; positive: n, written
//     where a tile holds the row's one positive; both may be null. Tiles are those of the rows from
//     first_row on, a multiple of SIDE. Blocks: the tiles of the sample.
#define MINING(NAME, TILE, BLOCKS)                                                              \
    extern "C" __global__ void __launch_bounds__(TILE::THREADS, BLOCKS) count_matrix_##NAME(    \
        Operand x, Operand y, unsigned depth, Pairs pairs, Step step, const Search* search,     \
        unsigned long long* counters) {                                                         \
        count_matrix<TILE>(x, y, depth, pairs, step, search, counters);                         \
    }                                                                                           \
    extern "C" __global__ void __launch_bounds__(TILE::THREADS, BLOCKS) count_rows_##NAME(      \
        Operand x, Operand y, unsigned depth, Pairs pairs, unsigned first_row,                  \
        unsigned end_row, Step step, const Search* searches, unsigned* counters) {              \
        count_rows<TILE>(x, y, depth, pairs, first_row, end_row, step, searches, counters);     \
    }                                                                                           \
    extern "C" __global__ void __launch_bounds__(TILE::THREADS, BLOCKS) collect_##NAME(         \
        Operand x, Operand y, unsigned depth, Pairs pairs, unsigned first_row, Sample sample,   \
        const unsigned* gate, Above above, List list, unsigned* poison, float* positive) {      \
        collect<TILE>(x, y, depth, pairs, first_row, sample, gate, above, list, poison,         \
                      positive);                                                                \
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
