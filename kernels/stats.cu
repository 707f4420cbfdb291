// Program: statistics of the similarity matrix S = X Y^T (n x m), tile by tile, S never stored.
//
// stats:  per row the largest negative similarity M and Z = sum of exp(s (S - M)) over negatives;
//         and, where a row has one positive, that positive's similarity.
// terms:  per row what its positives add up to (epilogue/terms.cuh), given the groups' M and Z;
//         for labels, where a row may have many; and, where they are wanted, the shares delta
//         themselves, in a panel (epilogue/panel.cuh) that holds the negatives, and per block the
//         sum of (S - M) delta.
//
// Grid: x = row tiles x splits; block = row tile * splits + split. A block walks the column tiles
// of its split, tiles_per_split of them, or its share of those that may match. Results go to
// [split][part][row], every row written by one thread of each of the PARTS that its tile engine
// deals a row to; rows.cu merges them in their order.
// Block: Tile::THREADS threads.

#include "epilogue/log_sum_exp.cuh"
#include "epilogue/pairs.cuh"
#include "epilogue/panel.cuh"
#include "epilogue/terms.cuh"
#include "reduce.cuh"
#include "tile/simt.cuh"
#include "tile/sm80.cuh"

using namespace epilogue;
using tile::Layout;
using tile::Operand;

// Which column tiles a block walks. Twin of launch::Walk.
struct Walk {
    unsigned splits;
    unsigned tiles_per_split;

    template <class Tile>
    __device__ __forceinline__ unsigned first_row() const {
        return blockIdx.x / splits * Tile::SIDE;
    }
    __device__ __forceinline__ unsigned split() const { return blockIdx.x % splits; }
    template <class Tile>
    __device__ __forceinline__ unsigned first_column() const {
        return split() * tiles_per_split * Tile::SIDE;
    }
    template <class Tile>
    __device__ __forceinline__ unsigned end_column(unsigned columns) const {
        const unsigned tiles = (columns + Tile::SIDE - 1) / Tile::SIDE;
        const unsigned end = (split() + 1) * tiles_per_split;
        return end < tiles ? end * Tile::SIDE : columns;
    }
};

// The similarities of positives, kept by `stats` for `terms`: those of the rows that have few enough.
// Twin of launch::Kept.
struct Kept {
    float* data;     // [rows][width], from the first column of a row's label on; null: none are
    unsigned width;  // a multiple of 4, at most 60 for each of the threads of `terms` that share a row

    // Whether a row's are, given where its label's columns begin and end.
    __device__ __forceinline__ bool holds(uint2 match) const { return match.y - match.x <= width; }
    // Where that of column 0 would be.
    __device__ __forceinline__ float* line(unsigned row, uint2 match) const {
        return data + (static_cast<long long>(row) * width - match.x);
    }
};

template <class Tile>
__device__ __forceinline__ void keep(const Tile& tile, const Bits<Tile>& positive,
                                     const Pairs& pairs, const Kept& kept, unsigned i0,
                                     unsigned j0) {
#pragma unroll
    for (int r = 0; r < Tile::ROWS; ++r) {
        const unsigned bits = positive.row(r);
        if (bits == 0) continue;
        const unsigned row = ptx::opaque(i0) + Tile::row(r);
        const uint2 match = pairs.row_matches[row];
        if (!kept.holds(match)) continue;
        float* line = kept.line(row, match) + j0;
#pragma unroll
        for (int c = 0; c < Tile::COLUMNS; ++c)
            if (bits >> c & 1) line[Tile::column(c)] = tile.at(r, c);
    }
}

template <class Tile>
__device__ __forceinline__ void stats(const Operand& x, const Operand& y, unsigned depth,
                                      const Pairs& pairs, const Walk& walk, const float* scale,
                                      float* maximum, float* sum, float* positive,
                                      const Kept& kept) {
    __shared__ typename Tile::Storage storage;
    const unsigned i0 = walk.first_row<Tile>();
    const unsigned end = walk.end_column<Tile>(pairs.columns);
    __shared__ typename LogSumExp<Tile>::Storage parked;
    LogSumExp<Tile> state(parked);
#pragma unroll 1
    for (unsigned j0 = walk.first_column<Tile>(); j0 < end; j0 += Tile::SIDE) {
        // Such a tile is for `terms` to go through, unless its rows are kept: all of one label.
        const bool positives = all_positive<Tile>(pairs, i0, j0);
        if (positives && !(kept.data && kept.holds(pairs.row_matches[i0]))) continue;
        Tile tile;
        tile.template multiply<Layout::DEPTH, Layout::DEPTH>(x, i0, pairs.rows, y, j0,
                                                             pairs.columns, 0, depth, storage);
        state.poison(tile);
        if (pairs.flags & MINED || !all_negative<Tile>(pairs, i0, j0)) {
            Cells<Tile> cells;
            cells.find(pairs, i0, j0);
            cells.mine(tile, pairs, i0, j0);
            if (kept.data) keep(tile, cells.positive, pairs, kept, i0, j0);
            if (positives) continue;
            if (pairs.flags & INDEXED && cells.positive.any()) {
#pragma unroll
                for (int r = 0; r < Tile::ROWS; ++r)
#pragma unroll
                    for (int c = 0; c < Tile::COLUMNS; ++c)
                        if (cells.positive.get(r, c))
                            positive[ptx::opaque(i0) + Tile::row(r)] = tile.at(r, c);
            }
#pragma unroll
            for (int r = 0; r < Tile::ROWS; ++r)
#pragma unroll
                for (int c = 0; c < Tile::COLUMNS; ++c)
                    if (!cells.negative.get(r, c)) tile.put(r, c, -INFINITE);
        }
        state.add(tile, *ptx::opaque(scale) * LOG2E);
    }
    const float scale2 = *scale * LOG2E;
    const long long offset =
        static_cast<long long>(walk.split() * Tile::PARTS + Tile::part()) * pairs.rows;
#pragma unroll(Tile::PARKS ? 1 : Tile::ROWS)
    for (int r = 0; r < Tile::ROWS; ++r) {
        float row_maximum, row_sum;
        state.row(r, scale2, row_maximum, row_sum);
        const unsigned row = i0 + Tile::row(r);
        if (Tile::row_leader() && row < pairs.rows) {
            maximum[offset + row] = row_maximum;
            sum[offset + row] = row_sum;
        }
    }
}

template <class Tile>
struct TermsScratch {
    double moments[Tile::THREADS];
    float maxima[Tile::THREADS / 32];
};

// How many threads of `terms` a row has where its positives are kept.
template <class Tile>
constexpr unsigned SHARING = Tile::THREADS / Tile::SIDE;

// Calls body(similarity) for the thread's part of what is kept of a row, by fours. self: which of them
// is not there, or as many as there may be.
template <class Tile, class Body>
__device__ __forceinline__ void each_kept(const float* line, unsigned count, unsigned self, Body body) {
    constexpr unsigned STEP = 4 * SHARING<Tile>;
    unsigned at = threadIdx.x % SHARING<Tile> * 4;
#pragma unroll 1
    for (; at + 4 <= count && self >= count; at += STEP) {
        const float4 four = *reinterpret_cast<const float4*>(line + at);
        body(four.x), body(four.y), body(four.z), body(four.w);
    }
#pragma unroll 1
    for (; at < count; at += STEP)
#pragma unroll 1
        for (unsigned e = at; e < min(at + 4, count); ++e)
            if (e != self) body(line[e]);
}

// What the positives of a row add up to, from what is kept of them, by so many threads side by side.
// match: where the columns of the row's label begin and end.
template <class Tile>
__device__ __forceinline__ void kept_terms(const Pairs& pairs, const Kept& kept, unsigned row,
                                           uint2 match, float scale2, float maximum,
                                           float log2_sum, Terms* partial) {
    const float* line = kept.line(row, match) + match.x;
    const unsigned count = match.y - match.x;
    const unsigned self = pairs.flags & SHARED ? row - match.x : count;
    float hardest = INFINITE;
    each_kept<Tile>(line, count, self,
                    [&](float similarity) { hardest = fminf(hardest, similarity); });
    // The same in all threads of a row: what they add up to then has one unit.
#pragma unroll
    for (int mask = 1; mask < SHARING<Tile>; mask *= 2)
        hardest = fminf(hardest, ptx::shuffle_xor(hardest, mask));
    Positives positives(hardest, maximum, log2_sum, scale2);
    each_kept<Tile>(line, count, self,
                    [&](float similarity) { positives.add(similarity, scale2); });
    float weight = positives.weight * positives.hardest, loss = positives.loss();
#pragma unroll
    for (int mask = 1; mask < SHARING<Tile>; mask *= 2) {
        weight += ptx::shuffle_xor(weight, mask);
        loss += ptx::shuffle_xor(loss, mask);
    }
    if (threadIdx.x % SHARING<Tile> != 0 || row >= pairs.rows) return;
    const unsigned positive = count - (self < count);
    partial[row] = hardest == INFINITE ? no_terms() : Terms{hardest, weight, loss, positive};
}

// The shares of a tile into a panel that holds the weights of the negatives, below zero: with their
// sign they are told from those. With a level of their own, whatever the type: it says how large they
// are beside the negatives.
template <class Tile>
__device__ __forceinline__ void keep(Tile& tile, const Bits<Tile>& positive, const Operand& x,
                                     const Operand& y, const Pairs& pairs, const Panel& panel,
                                     unsigned i0, unsigned j0, TermsScratch<Tile>& scratch) {
    if constexpr (Tile::LEVELS) {
        apply_factors(tile, x, y, pairs, i0, j0);
        const float exponent = raise(tile, scratch.maxima);
        // The next tile's product takes the shared memory back.
        __syncthreads();
        const unsigned across = (pairs.columns + Tile::SIDE - 1) / Tile::SIDE;
        if (threadIdx.x == 0)
            panel.levels[i0 / Tile::SIDE * across + j0 / Tile::SIDE] = Level{0.0f, exponent};
        store_some(tile, positive, panel, i0, j0);
    }
}

template <class Tile>
__device__ __forceinline__ void terms(const Operand& x, const Operand& y, unsigned depth,
                                      const Pairs& pairs, const Walk& walk, const float* scale,
                                      const float* group_maximum, const float* group_log2_sum,
                                      int group_stride, Terms* partial, const Panel& panel,
                                      double* moments, const Kept& kept) {
    __shared__ typename Tile::Storage storage;
    static_assert(sizeof(TermsScratch<Tile>) <= sizeof(storage), "used one after the other");
    TermsScratch<Tile>& scratch = reinterpret_cast<TermsScratch<Tile>&>(storage);
    const float scale2 = *scale * LOG2E;
    const unsigned i0 = walk.first_row<Tile>();
    const uint2 band = pairs.row_bands[i0 / Tile::SIDE];
    const unsigned each = tiles_per_split(band, walk.splits);
    const unsigned first = band.x + walk.split() * each, end = min(first + each, band.y);
    const long long offset =
        static_cast<long long>(walk.split() * Tile::PARTS + Tile::part()) * pairs.rows;
    if (panel.levels) {
        const unsigned across = (pairs.columns + Tile::SIDE - 1) / Tile::SIDE;
        // Beyond the band there are none.
        for (unsigned j = walk.split() * Tile::THREADS + threadIdx.x; j < across;
             j += walk.splits * Tile::THREADS)
            if (j < band.x || j >= band.y)
                panel.levels[i0 / Tile::SIDE * across + j] = no_level();
    }
    if (first >= end) {
        if (moments && threadIdx.x == 0) moments[blockIdx.x] = 0.0;
        return;
    }
    if (kept.data) {
        const unsigned row = i0 + threadIdx.x / SHARING<Tile>;
        const uint2 match = row < pairs.rows ? pairs.row_matches[row] : make_uint2(0, 0);
        if (__syncthreads_and(kept.holds(match))) {
            // All of the row's, whatever the split: the first one's.
            if (walk.split() == 0) {
                const unsigned group = row < pairs.rows ? row * group_stride : 0;
                kept_terms<Tile>(pairs, kept, row, match, scale2, group_maximum[group],
                                 group_log2_sum[group], partial);
            } else if (threadIdx.x < Tile::SIDE && i0 + threadIdx.x < pairs.rows) {
                partial[offset + i0 + threadIdx.x] = no_terms();
            }
            return;
        }
    }
    float maximum[Tile::ROWS], log2_sum[Tile::ROWS];
    Terms state[Tile::ROWS];
#pragma unroll
    for (int r = 0; r < Tile::ROWS; ++r) {
        const unsigned row = i0 + Tile::row(r);
        const unsigned group = row < pairs.rows ? row * group_stride : 0;
        maximum[r] = group_maximum[group];
        log2_sum[r] = group_log2_sum[group];
        state[r] = no_terms();
    }
    float moment = 0.0f;
#pragma unroll 1
    for (unsigned tile_column = first; tile_column < end; ++tile_column) {
        const unsigned j0 = tile_column * Tile::SIDE;
        if (!may_match<Tile>(pairs, i0, j0)) {
            if (panel.levels && threadIdx.x == 0) {
                const unsigned across = (pairs.columns + Tile::SIDE - 1) / Tile::SIDE;
                panel.levels[i0 / Tile::SIDE * across + tile_column] = no_level();
            }
            continue;
        }
        Tile tile;
        tile.template multiply<Layout::DEPTH, Layout::DEPTH>(x, i0, pairs.rows, y, j0,
                                                             pairs.columns, 0, depth, storage);
        Cells<Tile> cells;
        cells.find(pairs, i0, j0);
#pragma unroll
        for (int r = 0; r < Tile::ROWS; ++r) {
            float hardest = INFINITE;
#pragma unroll
            for (int c = 0; c < Tile::COLUMNS; ++c)
                if (cells.positive.get(r, c)) hardest = fminf(hardest, tile.at(r, c));
            // The same in all threads of a row: what they add up to then has one unit.
            Tile::row_reduce(
                [&](int mask) { hardest = fminf(hardest, ptx::shuffle_xor(hardest, mask)); });
            if (hardest == INFINITE) {
#pragma unroll
                for (int c = 0; c < Tile::COLUMNS; ++c) tile.put(r, c, 0.0f);
                continue;
            }
            Positives positives(hardest, maximum[r], log2_sum[r], scale2);
#pragma unroll
            for (int c = 0; c < Tile::COLUMNS; ++c) {
                float share = 0.0f;
                if (cells.positive.get(r, c)) share = positives.add(tile.at(r, c), scale2);
                tile.put(r, c, -share);
            }
            moment += positives.moments(maximum[r]);
            const Terms found{hardest, positives.weight * positives.hardest, positives.loss(),
                              static_cast<unsigned>(__popc(cells.positive.row(r)))};
            state[r] = merge(state[r], found, maximum[r], log2_sum[r], scale2);
        }
        if (panel.data) keep(tile, cells.positive, x, y, pairs, panel, i0, j0, scratch);
    }
#pragma unroll
    for (int r = 0; r < Tile::ROWS; ++r) {
        Tile::row_reduce([&](int mask) {
            state[r].weight += ptx::shuffle_xor(state[r].weight, mask);
            state[r].loss += ptx::shuffle_xor(state[r].loss, mask);
            state[r].count += ptx::shuffle_xor(state[r].count, mask);
        });
        const unsigned row = i0 + Tile::row(r);
        if (Tile::row_leader() && row < pairs.rows) partial[offset + row] = state[r];
    }
    if (moments) {
        const double sum = reduce::block(static_cast<double>(moment), scratch.moments,
                                         [](double a, double b) { return a + b; });
        if (threadIdx.x == 0) moments[blockIdx.x] = sum;
    }
}

// Parameters of both: x is n x depth, y is m x depth, rows contiguous; scale one positive f32 (NaN
// gives NaN).
// stats: maximum, sum: [splits][PARTS][n]; positive: n, written where a positive exists; may be null
// without INDEXED. Label and id ranges per SIDE of the tile.
// terms: LABELED, ranges and bands per 32; group_maximum, group_log2_sum: n with stride 1, or one
// with stride 0; partial: [splits][PARTS][n], written where a split has tiles; panel: n x m, 0 where
// pairs are positive, data null where it is not wanted; its levels: of the shares, [row tile][column
// tile]; moments: one f64 a block, or null.
#define STATS(NAME, TILE, BLOCKS)                                                                \
    extern "C" __global__ void __launch_bounds__(TILE::THREADS, BLOCKS) stats_##NAME(            \
        Operand x, Operand y, unsigned depth, Pairs pairs, Walk walk, const float* scale,        \
        float* maximum, float* sum, float* positive, Kept kept) {                                \
        stats<TILE>(x, y, depth, pairs, walk, scale, maximum, sum, positive, kept);              \
    }

#define STATS_SM80(NAME, ELEMENT)                                                  \
    using NAME##_Large = tile::Sm80Large<ELEMENT, Layout::DEPTH>;                  \
    using NAME##_Small = tile::Sm80Small<ELEMENT, Layout::DEPTH>;                  \
    STATS(NAME##_128, NAME##_Large, 2)                                             \
    STATS(NAME##_32, NAME##_Small, 8)

STATS(simt128, tile::Large, 2)
STATS(simt32, tile::Small, 8)
STATS_SM80(sm80_f16, tile::Half)
STATS_SM80(sm80_bf16, tile::Brain)

// Small tiles whatever the size: the fewer pairs a tile has, the more tiles have no positive.
#define TERMS(NAME, TILE)                                                                        \
    extern "C" __global__ void __launch_bounds__(TILE::THREADS, 8) terms_##NAME(                 \
        Operand x, Operand y, unsigned depth, Pairs pairs, Walk walk, const float* scale,        \
        const float* group_maximum, const float* group_log2_sum, int group_stride,               \
        Terms* partial, Panel panel, double* moments, Kept kept) {                               \
        terms<TILE>(x, y, depth, pairs, walk, scale, group_maximum, group_log2_sum,              \
                    group_stride, partial, panel, moments, kept);                                \
    }

TERMS(simt32, tile::Small)
TERMS(sm80_f16_32, sm80_f16_Small)
TERMS(sm80_bf16_32, sm80_bf16_Small)
