// Room: epilogues. Levels: what lets a panel of weights be kept in few bits. Every tile of the panel
// has a level of its own; what is stored stands for
//
//     stored * 2^(unit * reference + exponent)
//
// `reference` is a similarity, with unit = s log2(e), where weights are taken before their group's
// log-sum-exp is known, relative to the largest similarity of the tile; `exponent` brings the largest
// element of the tile to the upper end of a narrow type. A product over the panel then goes from the
// level of one tile to that of the next by multiplying its sums; both gradients see the levels of the
// same tiles. Differences of references come before the multiplication: unit * reference may be huge.
#pragma once

#include "epilogue/terms.cuh"
#include "ptx/math.cuh"
#include "ptx/opaque.cuh"

namespace epilogue {

__device__ __forceinline__ float power_of_two(int exponent) {
    return __uint_as_float(static_cast<unsigned>(exponent + 127) << 23);
}

// Twin of launch::LEVEL_BYTES.
struct Level {
    float reference;
    float exponent;  // -inf: nothing but zeros is stored
};

__device__ __forceinline__ Level no_level() { return Level{0.0f, -INFINITE}; }
__device__ __forceinline__ bool empty(const Level& level) { return level.exponent == -INFINITE; }

// log2 of a's unit in b's.
__device__ __forceinline__ float above(const Level& a, const Level& b, float unit) {
    return fmaf(unit, a.reference - b.reference, a.exponent - b.exponent);
}

__device__ __forceinline__ Level higher(const Level& a, const Level& b, float unit) {
    if (empty(a)) return b;
    return !empty(b) && above(b, a, unit) > 0.0f ? b : a;
}

// What the shares of positives are multiplied by among weights of negatives relative to the largest
// similarity of all: mantissa * 2^exponent, the mantissa from 1/2 to 1. Three f32.
struct ShareFactors {
    float moment;  // and what their part of the sum of (S - M) G is multiplied by
    float mantissa;
    float exponent;
};

// What is this far below another tile, in powers of two, is lost in its rounding.
constexpr float NEGLIGIBLE = 60.0f;

// The levels of a panel, for a product whose sum runs over its rows or columns. Twin of
// launch::Levels; `tiles` null where there are none.
struct Levels {
    const Level* tiles;    // [row tile of the panel][column tile]
    const Level* results;  // of every row tile of the result: the highest that enters it
    const Level* before;   // relative results: the level of what stands there, or null for nothing
    const float* unit;     // or null for 0
    unsigned side;         // of a tile
    unsigned row_step;     // in `tiles`, from one row tile of the result to the next
    unsigned depth_step;   // and from one tile along the sum to the next
    int relative;          // whether the result keeps its level, or is brought to level 0

    __device__ __forceinline__ float units() const { return unit ? *unit : 0.0f; }
    // Which of the results this row is in. The division stays where it is asked for.
    __device__ __forceinline__ unsigned tile(unsigned row) const { return ptx::opaque(row) / side; }
    // What a sum in the result's level is multiplied by.
    __device__ __forceinline__ float from_sum(unsigned row) const {
        if (!tiles || relative) return 1.0f;
        const Level level = results[tile(row)];
        if (empty(level)) return 0.0f;
        // A whole number; in halves, since the power itself may be subnormal.
        const int exponent = static_cast<int>(level.exponent), half = exponent / 2;
        return power_of_two(half) * power_of_two(exponent - half);
    }
    // What stands in the result already is multiplied by; 0: it may not even be read.
    __device__ __forceinline__ float from_before(unsigned row) const {
        if (!tiles || !relative) return 1.0f;
        if (!before) return 0.0f;
        const unsigned at = tile(row);
        const Level level = before[at];
        return empty(level) ? 0.0f : ptx::ex2(above(level, results[at], units()));
    }
};

// Takes a product through the levels of its operand, for the rows of one tile of the result.
struct Steps {
    static constexpr bool SCALED = true;
    const Level* tiles;  // null: there are no levels
    unsigned side;
    unsigned step;
    float unit;
    Level result;
    Level now;

    __device__ __forceinline__ Steps(const Levels& levels, unsigned i0)
        : tiles(levels.tiles), side(levels.side), step(levels.depth_step), unit(0.0f),
          result(no_level()), now(no_level()) {
        if (!tiles) return;
        unit = levels.units();
        result = levels.results[i0 / side];
        tiles += i0 / side * levels.row_step;
    }
    __device__ __forceinline__ bool enter(unsigned k, float& factor) {
        if (!tiles) return true;
        const Level level = tiles[k / side * step];
        if (empty(level) || !(above(level, result, unit) > -NEGLIGIBLE)) return false;
        if (!empty(now)) factor = ptx::ex2(above(now, level, unit));
        now = level;
        return true;
    }
    __device__ __forceinline__ float leave() const {
        return empty(now) ? 1.0f : ptx::ex2(above(now, result, unit));
    }
};

}  // namespace epilogue
