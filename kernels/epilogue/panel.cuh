// Room: epilogues. A tile into a panel of 16-bit weights, for an engine whose operands those are.
#pragma once

#include "epilogue/levels.cuh"
#include "epilogue/pairs.cuh"
#include "ptx/shuffle.cuh"
#include "tile/operand.cuh"

namespace epilogue {

// Twin of launch::Panel. A multiple of 8 columns wide, so that whole groups are stored.
struct Panel {
    void* data;        // null: it is not wanted
    long long stride;  // in elements
    long long low;     // sm80: where the second of two 16-bit parts lies (tile/operand.cuh), or 0
    Level* levels;     // one a tile, or null where the type needs none
    unsigned rows;
    unsigned columns;
};

// The largest of all threads' values, in all of them. `shared`: one float a warp; may be used again
// after the next barrier.
template <int THREADS>
__device__ __forceinline__ float block_maximum(float value, float* shared) {
#pragma unroll
    for (int mask = 1; mask < 32; mask *= 2) value = fmaxf(value, ptx::shuffle_xor(value, mask));
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
    __syncthreads();
#pragma unroll
    for (int warp = 0; warp < THREADS / 32; ++warp) value = fmaxf(value, shared[warp]);
    return value;
}

// Both embeddings' factors: what is stored is the operand of products with embeddings as they lie.
template <class Tile>
__device__ __forceinline__ void apply_factors(Tile& tile, const tile::Operand& x, const tile::Operand& y,
                                              const Pairs& pairs, unsigned i0, unsigned j0) {
    if (!x.factor) return;
    float right[Tile::COLUMNS];
#pragma unroll
    for (int c = 0; c < Tile::COLUMNS; ++c)
        right[c] = y.factor[min(j0 + Tile::column(c), pairs.columns - 1)];
#pragma unroll
    for (int r = 0; r < Tile::ROWS; ++r) {
        const float left = x.factor[min(i0 + Tile::row(r), pairs.rows - 1)];
#pragma unroll
        for (int c = 0; c < Tile::COLUMNS; ++c) tile.put(r, c, tile.at(r, c) * (left * right[c]));
    }
}

// Where the largest element of a tile is brought to in a narrow type: below its overflow at 2^16,
// leaving 2^-39 of it above underflow.
constexpr int TOP = 14;

// Multiplies the tile by the power of two that brings its largest element to 2^TOP .. 2^(TOP + 1);
// gives the exponent of what that takes back, -inf for a tile of zeros. NaN stays and does not count.
template <class Tile>
__device__ __forceinline__ float raise(Tile& tile, float* shared) {
    float top = 0.0f;
#pragma unroll
    for (int r = 0; r < Tile::ROWS; ++r)
#pragma unroll
        for (int c = 0; c < Tile::COLUMNS; ++c) top = fmaxf(top, fabsf(tile.at(r, c)));
    top = block_maximum<Tile::THREADS>(top, shared);
    if (top == 0.0f) return -INFINITE;
    // In halves: the power itself may lie outside f32's range.
    const int exponent = static_cast<int>(__float_as_uint(top) >> 23) - 127 - TOP;
    const int half = exponent / 2;
    tile.scale(power_of_two(-half));
    tile.scale(power_of_two(half - exponent));
    return exponent;
}

// Four elements side by side, of a panel of one 16-bit part or two.
template <class Element>
__device__ __forceinline__ void put_group(const Panel& panel, unsigned short* at,
                                          const float (&values)[4]) {
    const uint2 high =
        make_uint2(Element::pack(values[0], values[1]), Element::pack(values[2], values[3]));
    *reinterpret_cast<uint2*>(at) = high;
    if (!panel.low) return;
    constexpr float UNITS = 1.0f / tile::LOW_UNIT;
    *reinterpret_cast<uint2*>(at + panel.low) =
        make_uint2(Element::pack((values[0] - Element::first(high.x)) * UNITS,
                                 (values[1] - Element::second(high.x)) * UNITS),
                   Element::pack((values[2] - Element::first(high.y)) * UNITS,
                                 (values[3] - Element::second(high.y)) * UNITS));
}

template <class Element>
__device__ __forceinline__ void get_group(const Panel& panel, const unsigned short* at,
                                          float (&values)[4]) {
    const uint2 high = *reinterpret_cast<const uint2*>(at);
    values[0] = Element::first(high.x), values[1] = Element::second(high.x);
    values[2] = Element::first(high.y), values[3] = Element::second(high.y);
    if (!panel.low) return;
    const uint2 low = *reinterpret_cast<const uint2*>(at + panel.low);
    values[0] = fmaf(Element::first(low.x), tile::LOW_UNIT, values[0]);
    values[1] = fmaf(Element::second(low.x), tile::LOW_UNIT, values[1]);
    values[2] = fmaf(Element::first(low.y), tile::LOW_UNIT, values[2]);
    values[3] = fmaf(Element::second(low.y), tile::LOW_UNIT, values[3]);
}

// The tile at (i0, j0) of the panel. What lies beyond its columns must be 0.
template <class Tile>
__device__ __forceinline__ void store(const Tile& tile, const Panel& panel, unsigned i0,
                                      unsigned j0) {
    static_assert(Tile::GROUP == 4, "eight bytes at once");
    const unsigned column = j0 + Tile::column(0);
#pragma unroll
    for (int r = 0; r < Tile::ROWS; ++r) {
        const unsigned row = i0 + Tile::row(r);
        if (row >= panel.rows) continue;
        unsigned short* line =
            static_cast<unsigned short*>(panel.data) + row * panel.stride + column;
#pragma unroll
        for (int c = 0; c < Tile::COLUMNS; c += 4) {
            // At a fixed distance.
            const int further = Tile::column(c) - Tile::column(0);
            if (column + further >= panel.columns) continue;
            const float values[4] = {tile.at(r, c), tile.at(r, c + 1), tile.at(r, c + 2),
                                     tile.at(r, c + 3)};
            put_group<typename Tile::Element>(panel, line + further, values);
        }
    }
}

// Those of these bits alone; the others keep what they are.
template <class Tile>
__device__ __forceinline__ void store_some(const Tile& tile, const Bits<Tile>& bits,
                                           const Panel& panel, unsigned i0, unsigned j0) {
    using Element = typename Tile::Element;
#pragma unroll
    for (int r = 0; r < Tile::ROWS; ++r) {
        unsigned short* line =
            static_cast<unsigned short*>(panel.data) + (i0 + Tile::row(r)) * panel.stride;
#pragma unroll
        for (int c = 0; c < Tile::COLUMNS; c += 4) {
            const unsigned some = bits.row(r) >> c & 15;
            if (some == 0) continue;
            unsigned short* at = line + j0 + Tile::column(c);
            float values[4];
            if (some != 15) get_group<Element>(panel, at, values);
#pragma unroll
            for (int e = 0; e < 4; ++e)
                if (some >> e & 1) values[e] = tile.at(r, c + e);
            put_group<Element>(panel, at, values);
        }
    }
}

}  // namespace epilogue
