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

// Groups of columns that lie side by side in a thread are written at once where the matrix is aligned
// for it and the tile lies in it whole.
template <class Tile, class Mix>
__device__ __forceinline__ void store(const Tile& tile, const Output& out, unsigned i0, unsigned j0,
                                      const Mix& mix) {
    constexpr int GROUP = Tile::GROUP;
    const bool wide = j0 + Tile::SIDE <= out.columns &&
        (reinterpret_cast<unsigned long long>(out.data) | out.stride * 4) % (GROUP * 4) == 0;
#pragma unroll
    for (int r = 0; r < Tile::ROWS; ++r) {
        const unsigned row = i0 + Tile::row(r);
        if (row >= out.rows) continue;
        float* line = out.data + row * out.stride + j0;
        const float from = mix.from(row), to = mix.to(row);
        if (wide) {
#pragma unroll
            for (int c = 0; c < Tile::COLUMNS; c += GROUP) {
                float* at = line + Tile::column(c);
                if (GROUP == 4) {
                    float4 old = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                    if (to != 0.0f) old = *reinterpret_cast<const float4*>(at);
                    *reinterpret_cast<float4*>(at) =
                        make_float4(fmaf(to, old.x, from * tile.at(r, c)),
                                    fmaf(to, old.y, from * tile.at(r, c + 1)),
                                    fmaf(to, old.z, from * tile.at(r, c + GROUP - 2)),
                                    fmaf(to, old.w, from * tile.at(r, c + GROUP - 1)));
                } else {
                    float2 old = make_float2(0.0f, 0.0f);
                    if (to != 0.0f) old = *reinterpret_cast<const float2*>(at);
                    *reinterpret_cast<float2*>(at) =
                        make_float2(fmaf(to, old.x, from * tile.at(r, c)),
                                    fmaf(to, old.y, from * tile.at(r, c + 1)));
                }
            }
        } else {
#pragma unroll
            for (int c = 0; c < Tile::COLUMNS; ++c) {
                const unsigned column = Tile::column(c);
                if (j0 + column < out.columns) {
                    const float old = to != 0.0f ? line[column] : 0.0f;
                    line[column] = fmaf(to, old, from * tile.at(r, c));
                }
            }
        }
    }
}

}  // namespace epilogue
