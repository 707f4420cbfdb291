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

// What becomes of a sum on its way into a matrix: to * row's to + sum * factor * row's from.
// As plain as that unless an epilogue with levels (levels.cuh) says otherwise.
struct Plainly {
    float factor;
    bool accumulate;
    __device__ __forceinline__ float from(unsigned) const { return factor; }
    __device__ __forceinline__ float to(unsigned) const { return accumulate ? 1.0f : 0.0f; }
};

// Whole groups of columns that lie side by side in a thread are written at once where the matrix is
// aligned for it.
template <class Tile, class Mix>
__device__ __forceinline__ void store(const Tile& tile, const Output& out, unsigned i0, unsigned j0,
                                      const Mix& mix) {
    constexpr int GROUP = Tile::GROUP;
    const bool wide =
        (reinterpret_cast<unsigned long long>(out.data) | out.stride * 4) % (GROUP * 4) == 0;
#pragma unroll
    for (int r = 0; r < Tile::ROWS; ++r) {
        const unsigned row = i0 + Tile::row(r);
        if (row >= out.rows) continue;
        float* line = out.data + row * out.stride;
        const float from = mix.from(row), to = mix.to(row);
#pragma unroll
        for (int c = 0; c < Tile::COLUMNS; c += GROUP) {
            const unsigned column = j0 + Tile::column(c);
            float* at = line + column;
            if (wide && column + GROUP <= out.columns) {
                if (GROUP == 4) {
                    float4 value = make_float4(from * tile.at(r, c), from * tile.at(r, c + 1),
                                               from * tile.at(r, c + GROUP - 2),
                                               from * tile.at(r, c + GROUP - 1));
                    if (to != 0.0f) {
                        const float4 old = *reinterpret_cast<const float4*>(at);
                        value = make_float4(fmaf(to, old.x, value.x), fmaf(to, old.y, value.y),
                                            fmaf(to, old.z, value.z), fmaf(to, old.w, value.w));
                    }
                    *reinterpret_cast<float4*>(at) = value;
                } else {
                    float2 value = make_float2(from * tile.at(r, c), from * tile.at(r, c + 1));
                    if (to != 0.0f) {
                        const float2 old = *reinterpret_cast<const float2*>(at);
                        value = make_float2(fmaf(to, old.x, value.x), fmaf(to, old.y, value.y));
                    }
                    *reinterpret_cast<float2*>(at) = value;
                }
                continue;
            }
#pragma unroll
            for (int e = 0; e < GROUP; ++e) {
                if (column + e >= out.columns) continue;
                const float value = from * tile.at(r, c + e);
                at[e] = to != 0.0f ? fmaf(to, at[e], value) : value;
            }
        }
    }
}

}  // namespace epilogue
