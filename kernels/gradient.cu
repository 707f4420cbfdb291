// Program: one panel of the gradient with respect to the similarities, G (rows x m), a few rows of
// the n x m matrix at a time.
//
// weights:       S tiles of the panel's rows, turned into weights; and per tile the sum of
//                (S - M) G, for the gradient of the scale. Either may be left out. simt keeps them
//                in f32; sm80 in 16 bits, or twice that, times the factors of both embeddings, as
//                the operand of the products to come (epilogue/panel.cuh). Of POSITIVES alone, tiles
//                beyond the bands are neither computed nor written.
// exponentials:  the weights of all negatives before their one group's log-sum-exp is known: each
//                tile relative to its own largest similarity, which becomes its level, with what the
//                tile adds to the group; and, where a row has one positive, that positive's
//                similarity. With it, a loss and its gradients are three products instead of four.
//
// join:          gives the shares of the positives that stats.cu's `terms` has left among them the
//                unit of the negatives, tile by tile: one panel, one level a tile, for both.
//
// Grid: x, as many blocks as there are tiles of the panel, or for `weights` fewer; tile = row tile *
// column tiles + column tile. Block: Tile::THREADS threads.

#include "epilogue/finite.cuh"
#include "epilogue/pairs.cuh"
#include "epilogue/panel.cuh"
#include "epilogue/store.cuh"
#include "epilogue/terms.cuh"
#include "epilogue/weights.cuh"
#include "reduce.cuh"
#include "tile/simt.cuh"
#include "tile/sm80.cuh"

using namespace epilogue;
using tile::Layout;
using tile::Operand;

// Shared memory once the product is done with it.
template <class Tile>
struct Scratch {
    double2 sums[Tile::THREADS];
    float maxima[2][Tile::THREADS / 32];
};

template <class Tile>
__device__ __forceinline__ void weights(const Operand& x, const Operand& y, unsigned depth,
                                        const Pairs& pairs, unsigned first_row, unsigned end_row,
                                        const Coefficients& rows, const float* scale,
                                        const Panel& panel, double* moments) {
    __shared__ typename Tile::Storage storage;
    static_assert(sizeof(Scratch<Tile>) <= sizeof(storage), "used one after the other");
    Scratch<Tile>& scratch = reinterpret_cast<Scratch<Tile>&>(storage);
    const unsigned across = (pairs.columns + Tile::SIDE - 1) / Tile::SIDE;
    const unsigned tiles = (end_row - first_row + Tile::SIDE - 1) / Tile::SIDE * across;
    // A loop though a block may have one tile: what the product needs of the thread's place is then made
    // before it, not in each of its slices.
#pragma unroll 1
    for (unsigned place = blockIdx.x; place < tiles; place += gridDim.x) {
        const unsigned i0 = first_row + place / across * Tile::SIDE;
        const unsigned j0 = place % across * Tile::SIDE;
        if (pairs.flags & POSITIVES && beyond_band<Tile>(pairs, i0, j0)) {
            if (threadIdx.x == 0) {
                if (panel.levels) panel.levels[place] = no_level();
                if (moments) moments[place] = 0.0;
            }
            continue;
        }
        Tile tile;
        tile.template multiply<Layout::DEPTH, Layout::DEPTH>(x, i0, end_row, y, j0, pairs.columns, 0,
                                                             depth, storage);
        const float moment = weigh(tile, pairs, i0, j0, rows, *scale * LOG2E);
        if (panel.data) {
            if constexpr (Tile::LEVELS) {
                apply_factors(tile, x, y, pairs, i0, j0);
                if (panel.levels) {
                    const float exponent = raise(tile, scratch.maxima[0]);
                    if (threadIdx.x == 0) panel.levels[place] = Level{0.0f, exponent};
                }
                store(tile, panel, i0 - first_row, j0);
            } else {
                const Output out{static_cast<float*>(panel.data), panel.stride, panel.rows,
                                 panel.columns};
                store(tile, out, i0 - first_row, j0, Plainly{1.0f, false});
            }
        }
        if (moments) {
            auto& sums = reinterpret_cast<double(&)[Tile::THREADS]>(scratch.sums);
            const double sum = reduce::block(static_cast<double>(moment), sums,
                                             [](double a, double b) { return a + b; });
            if (threadIdx.x == 0) moments[place] = sum;
        }
        __syncthreads();
    }
}

// What a tile adds to the group of all negatives: its largest similarity M, Z = sum of
// exp(s (S - M)), and the sum of (S - M) exp(s (S - M)). Twin of launch::TileSums.
struct TileSums {
    float* maximum;
    float* sum;
    double* moment;
};

template <class Tile>
__device__ __forceinline__ void exponentials(const Operand& x, const Operand& y, unsigned depth,
                                             const Pairs& pairs, unsigned first_row,
                                             unsigned end_row, const float* scale,
                                             const Panel& panel, const TileSums& sums,
                                             float* positive) {
    __shared__ typename Tile::Storage storage;
    static_assert(sizeof(Scratch<Tile>) <= sizeof(storage), "used one after the other");
    Scratch<Tile>& scratch = reinterpret_cast<Scratch<Tile>&>(storage);
    const unsigned across = (pairs.columns + Tile::SIDE - 1) / Tile::SIDE;
    const unsigned i0 = first_row + blockIdx.x / across * Tile::SIDE;
    const unsigned j0 = blockIdx.x % across * Tile::SIDE;
    // Such a tile is for stats.cu's `terms` to go through. Its zeros are copied, if not multiplied, or
    // become shares.
    if (all_positive<Tile>(pairs, i0, j0)) {
        Tile zeros;
        zeros.fill(0.0f);
        store(zeros, panel, i0 - first_row, j0);
        if (threadIdx.x == 0) {
            panel.levels[blockIdx.x] = no_level();
            sums.maximum[blockIdx.x] = -INFINITE;
            sums.sum[blockIdx.x] = 0.0f;
            sums.moment[blockIdx.x] = 0.0;
        }
        return;
    }
    Tile tile;
    tile.template multiply<Layout::DEPTH, Layout::DEPTH>(x, i0, end_row, y, j0, pairs.columns, 0,
                                                         depth, storage);
    Cells<Tile> cells;
    const bool plain = all_negative<Tile>(pairs, i0, j0);
    if (!plain) {
        cells.find(pairs, i0, j0);
        // Nobody asks where those of labels are.
        if (!positive) cells.positive.clear();
    }
    float top = -INFINITE;
#pragma unroll
    for (int r = 0; r < Tile::ROWS; ++r)
#pragma unroll
        for (int c = 0; c < Tile::COLUMNS; ++c) {
            const float similarity = tile.at(r, c);
            if (!plain && cells.positive.get(r, c))
                positive[ptx::opaque(i0) + Tile::row(r)] = similarity;
            if (plain || cells.negative.get(r, c)) top = fmaxf(top, similarity);
        }
    top = block_maximum<Tile::THREADS>(top, scratch.maxima[0]);
    if (threadIdx.x == 0) sums.maximum[blockIdx.x] = top;
    // Without a negative any reference will do.
    const float reference = top == -INFINITE ? 0.0f : top;
    const float scale2 = *ptx::opaque(scale) * LOG2E;
    float sum = 0.0f, moment = 0.0f;
    if (!surely_finite(tile)) {
#pragma unroll
        for (int r = 0; r < Tile::ROWS; ++r) sum += zero_of_row(tile, r);
    }
#pragma unroll
    for (int r = 0; r < Tile::ROWS; ++r)
#pragma unroll
        for (int c = 0; c < Tile::COLUMNS; ++c) {
            const float below = tile.at(r, c) - reference;
            float weight = ptx::ex2(scale2 * below);
            if (!plain && !cells.negative.get(r, c)) weight = 0.0f;
            sum += weight;
            moment = fmaf(below, weight, moment);
            tile.put(r, c, weight);
        }
    apply_factors(tile, x, y, pairs, i0, j0);
    float exponent = top == -INFINITE ? -INFINITE : 0.0f;
    if (Tile::Element::NARROW) exponent = raise(tile, scratch.maxima[1]);
    store(tile, panel, i0 - first_row, j0);
    const double2 all =
        reduce::block(make_double2(sum, moment), scratch.sums, [](double2 a, double2 b) {
            return make_double2(a.x + b.x, a.y + b.y);
        });
    if (threadIdx.x == 0) {
        panel.levels[blockIdx.x] = Level{reference, exponent};
        sums.sum[blockIdx.x] = all.x;
        sums.moment[blockIdx.x] = all.y;
    }
}

// Of the shares' levels and bands.
constexpr unsigned STEP = 32;
constexpr unsigned JOIN_THREADS = 64;
constexpr unsigned JOIN_SPLITS = 4;  // of a row of tiles. Twin of launch::JOIN_SPLITS

// One tile, `steps` steps wide and high, whose first are (i0, j0). share(i, j): log2 of the unit that
// shares have there; -inf where there are none.
template <class Element, class Share>
__device__ __forceinline__ void join_tile(const Panel& panel, unsigned i0, unsigned j0,
                                          unsigned steps, Share share, Level& level,
                                          const ShareFactors& factors, float maximum, float unit) {
    float top = -INFINITE;
    for (unsigned i = i0; i < i0 + steps; ++i)
        for (unsigned j = j0; j < j0 + steps; ++j) top = fmaxf(top, share(i, j));
    if (top == -INFINITE) return;
    const Level negatives = level;
    const bool none = empty(negatives);
    // Either unit relative to M: a difference of similarities comes first. The higher becomes both's.
    const float highest = factors.exponent + top;
    const float below = none ? 0.0f : unit * (maximum - negatives.reference);
    const bool lead = none || highest + below > negatives.exponent;
    const float shrink =
        none ? 0.0f : lead ? ptx::ex2(negatives.exponent - below - highest) : 1.0f;
    const float beyond = lead ? -top : factors.exponent + below - negatives.exponent;
    __syncthreads();
    if (lead && threadIdx.x == 0) level = Level{maximum, highest};
    for (unsigned i = i0; i < i0 + steps; ++i) {
        for (unsigned j = j0; j < j0 + steps; ++j) {
            const float own = share(i, j);
            if (own == -INFINITE && !lead) continue;
            const float grow = factors.mantissa * ptx::ex2(own + beyond);
            for (unsigned at = threadIdx.x; at < STEP * STEP / 4; at += JOIN_THREADS) {
                const unsigned row = i * STEP + at / (STEP / 4);
                const unsigned column = j * STEP + at % (STEP / 4) * 4;
                if (row >= panel.rows || column >= panel.columns) continue;
                unsigned short* group =
                    static_cast<unsigned short*>(panel.data) + row * panel.stride + column;
                float values[4];
                get_group<Element>(panel, group, values);
#pragma unroll
                for (float& value : values) value *= value < 0.0f ? grow : shrink;
                put_group<Element>(panel, group, values);
            }
        }
    }
}

template <class Element>
__device__ __forceinline__ void join(const Panel& panel, unsigned side, const Level* share_levels,
                                     const uint2* bands, const ShareFactors* factors,
                                     const float* maximum, const float* unit) {
    const unsigned steps = side / STEP;
    const unsigned rows = (panel.rows + STEP - 1) / STEP, columns = (panel.columns + STEP - 1) / STEP;
    const unsigned tile_row = blockIdx.x / JOIN_SPLITS, i0 = tile_row * steps;
    const auto share = [&](unsigned i, unsigned j) {
        if (i >= rows) return -INFINITE;
        const uint2 band = bands[i];
        if (j < band.x || j >= band.y) return -INFINITE;
        return share_levels[i * columns + j].exponent;
    };
    unsigned first = columns, end = 0;
    for (unsigned i = i0; i < min(i0 + steps, rows); ++i) {
        const uint2 band = bands[i];
        if (band.x < band.y) first = min(first, band.x), end = max(end, band.y);
    }
    Level* levels = panel.levels + tile_row * ((panel.columns + side - 1) / side);
    for (unsigned j = first / steps + blockIdx.x % JOIN_SPLITS; j * steps < end; j += JOIN_SPLITS)
        join_tile<Element>(panel, i0, j * steps, steps, share, levels[j], *factors, *maximum, *unit);
}

// Parameters: x is n x depth, y is m x depth; first_row a multiple of Tile::SIDE, end_row the
// end of the panel; pairs as in stats.cu; scale one f32; panel: (end_row - first_row) x m.
// weights: rows: coefficients of all n rows; panel.data may be null; panel.levels one a tile for
// sm80_f16, else null; moments: one f64 a tile, or null.
// exponentials: panel.levels and sums one a tile; positive: n, written where a positive exists; null
// without INDEXED.
// join: panel: n x m, its levels in tiles of `side`; share_levels: as `terms` leaves them; bands: of 32
// rows each, in tiles of 32; maximum: M first; unit: s log2(e). Grid: its rows of tiles x JOIN_SPLITS,
// the split running fastest; block: JOIN_THREADS.
#define WEIGHTS(NAME, TILE, BLOCKS)                                                               \
    extern "C" __global__ void __launch_bounds__(TILE::THREADS, BLOCKS) weights_##NAME(           \
        Operand x, Operand y, unsigned depth, Pairs pairs, unsigned first_row, unsigned end_row,  \
        Coefficients rows, const float* scale, Panel panel, double* moments) {                    \
        weights<TILE>(x, y, depth, pairs, first_row, end_row, rows, scale, panel, moments);       \
    }

#define EXPONENTIALS(NAME, TILE, BLOCKS)                                                          \
    extern "C" __global__ void __launch_bounds__(TILE::THREADS, BLOCKS) exponentials_##NAME(      \
        Operand x, Operand y, unsigned depth, Pairs pairs, unsigned first_row, unsigned end_row,  \
        const float* scale, Panel panel, TileSums sums, float* positive) {                        \
        exponentials<TILE>(x, y, depth, pairs, first_row, end_row, scale, panel, sums, positive); \
    }

#define WEIGHTS_SM80(NAME, ELEMENT)                               \
    using NAME##_Large = tile::Sm80Large<ELEMENT, Layout::DEPTH>; \
    using NAME##_Small = tile::Sm80Small<ELEMENT, Layout::DEPTH>; \
    WEIGHTS(NAME##_128, NAME##_Large, 2)                          \
    WEIGHTS(NAME##_32, NAME##_Small, 8)                           \
    EXPONENTIALS(NAME##_128, NAME##_Large, 2)                     \
    EXPONENTIALS(NAME##_32, NAME##_Small, 8)

WEIGHTS(simt128, tile::Large, 2)
WEIGHTS(simt32, tile::Small, 8)
WEIGHTS_SM80(sm80_f16, tile::Half)
WEIGHTS_SM80(sm80_bf16, tile::Brain)

#define JOIN(NAME, ELEMENT)                                                                       \
    extern "C" __global__ void __launch_bounds__(JOIN_THREADS, 16) join_##NAME(                   \
        Panel panel, unsigned side, const Level* share_levels, const uint2* bands,                \
        const ShareFactors* factors, const float* maximum, const float* unit) {                   \
        join<ELEMENT>(panel, side, share_levels, bands, factors, maximum, unit);                  \
    }

JOIN(f16, tile::Half)
JOIN(bf16, tile::Brain)
