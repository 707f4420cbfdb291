// Room: epilogues. Whether similarities are finite: what is not makes a loss NaN, also where it is
// masked.
#pragma once

#include "epilogue/pairs.cuh"

namespace epilogue {

// Whether the thread's part of a tile is finite for sure. Where a product of two is, so are both, and one
// instruction tells of both: this is but for numbers beyond the root of the largest.
template <class Tile>
__device__ __forceinline__ bool surely_finite(const Tile& tile) {
    float all = 0.0f;
#pragma unroll
    for (int r = 0; r < Tile::ROWS; ++r)
#pragma unroll
        for (int c = 0; c < Tile::COLUMNS; c += 2) all = fmaf(tile.at(r, c), tile.at(r, c + 1), all);
    return fabsf(all) < INFINITE;
}

// 0, or NaN where one of the thread's elements of a row is not finite.
template <class Tile>
__device__ __forceinline__ float zero_of_row(const Tile& tile, int r) {
    float sum = 0.0f;
#pragma unroll
    for (int c = 0; c < Tile::COLUMNS; ++c) sum = fmaf(tile.at(r, c), 0.0f, sum);
    return sum;
}

}  // namespace epilogue
