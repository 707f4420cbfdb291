// Room: epilogues. The gradient of the loss with respect to a tile of similarities.
#pragma once

#include "epilogue/pairs.cuh"
#include "epilogue/terms.cuh"

namespace epilogue {

// Turns the tile at (i0, j0) of similarities into weights: 0 where a pair is neither positive nor
// negative. Gives the thread's sum of (S - M) G, M being its row's maximum: since the weights of a
// group add up to 0, that is sum of S G without its cancellation.
template <class Tile>
__device__ __forceinline__ float weigh(Tile& tile, const Pairs& pairs, unsigned i0, unsigned j0,
                                       const Coefficients& rows, float scale2) {
    float moment = 0.0f;
    Cells<Tile> cells;
    const bool plain = all_negative<Tile>(pairs, i0, j0);
    if (!plain) {
        cells.find(pairs, i0, j0);
        cells.mine(tile, pairs, i0, j0);
        if (pairs.flags & POSITIVES) cells.negative.clear();
    }
#pragma unroll
    for (int r = 0; r < Tile::ROWS; ++r) {
        const unsigned row = min(ptx::opaque(i0) + Tile::row(r), pairs.rows - 1);
        const float maximum = rows.maximum[row];
        const float negative = rows.negative[row];
        if (plain && pairs.flags & MINED) {
            const MinedRow<Tile> mined(pairs, row, j0);
            // A float for sure: kept as bits, all of the tile would be.
            mined.each_tie(tile, r, j0, [&](int c) {
                tile.put(r, c, ptx::opaque(next_below(mined.least)));
            });
#pragma unroll
            for (int c = 0; c < Tile::COLUMNS; ++c) {
                const float similarity = tile.at(r, c);
                const float some = negative_weight(similarity, maximum, negative, scale2);
                const float weight = similarity >= mined.least ? some : 0.0f;
                moment = fmaf(similarity - maximum, weight, moment);
                tile.put(r, c, weight);
            }
            continue;
        }
        if (plain) {
#pragma unroll
            for (int c = 0; c < Tile::COLUMNS; ++c) {
                const float similarity = tile.at(r, c);
                const float weight = negative_weight(similarity, maximum, negative, scale2);
                moment = fmaf(similarity - maximum, weight, moment);
                tile.put(r, c, weight);
            }
            continue;
        }
        const PositiveCoefficients positives(rows, row);
#pragma unroll
        for (int c = 0; c < Tile::COLUMNS; ++c) {
            const float similarity = tile.at(r, c);
            float weight = 0.0f;
            if (cells.negative.get(r, c))
                weight = negative_weight(similarity, maximum, negative, scale2);
            if (cells.positive.get(r, c)) weight = positives.weight(similarity, scale2);
            moment = fmaf(similarity - maximum, weight, moment);
            tile.put(r, c, weight);
        }
    }
    return moment;
}

}  // namespace epilogue
