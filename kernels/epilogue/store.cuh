// Room: epilogues. A tile into a row-major f32 matrix.
#pragma once

namespace epilogue {

// A matrix to be written. Twin of launch::Output.
struct Output {
    float* data;
    long long stride;  // in elements
    unsigned rows;
    unsigned columns;
};

// C = factor * tile, added to what is there where `accumulate`. Whole groups of four columns are
// written at once where C is aligned for it.
template <class Tile>
__device__ __forceinline__ void store(const Tile& tile, const Output& out, unsigned i0, unsigned j0,
                                      float factor, bool accumulate) {
    const bool wide = (reinterpret_cast<unsigned long long>(out.data) | out.stride * 4) % 16 == 0;
#pragma unroll
    for (int r = 0; r < Tile::ROWS; ++r) {
        const unsigned row = i0 + Tile::row(r);
        if (row >= out.rows) continue;
        float* line = out.data + row * out.stride;
#pragma unroll
        for (int c = 0; c < Tile::COLUMNS; c += 4) {
            const unsigned column = j0 + Tile::column(c);
            if (wide && column + 3 < out.columns) {
                float4* to = reinterpret_cast<float4*>(line + column);
                float4 value = make_float4(factor * tile.at(r, c), factor * tile.at(r, c + 1),
                                           factor * tile.at(r, c + 2), factor * tile.at(r, c + 3));
                if (accumulate) {
                    const float4 old = *to;
                    value = make_float4(old.x + value.x, old.y + value.y, old.z + value.z,
                                        old.w + value.w);
                }
                *to = value;
                continue;
            }
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                if (column + e >= out.columns) continue;
                const float value = factor * tile.at(r, c + e);
                line[column + e] = accumulate ? line[column + e] + value : value;
            }
        }
    }
}

}  // namespace epilogue
