// Program: matrix products C = factor * A B^T, added to C where asked.
//
// rows_rows:        A and B by rows:          S = X Y^T
// rows_columns:     A by rows, B by columns:  dX = G Y
// columns_columns:  both by columns:          dY = G^T X
//
// Grid: x = row tiles x column tiles x splits of the sum, the split running fastest, then the
// column tile. With more than one split, split s writes its part to C + s * split_stride, factor 1,
// and add_splits puts the parts together in their order.
// Block: Tile::THREADS threads.

#include "epilogue/store.cuh"
#include "tile/simt.cuh"

using namespace epilogue;
using tile::Layout;
using tile::Operand;

template <class Tile, Layout A, Layout B>
__device__ __forceinline__ void product(const Operand& a, const Operand& b, unsigned depth,
                                        unsigned splits, unsigned split_depth,
                                        long long split_stride, const float* factor,
                                        int accumulate, Output out) {
    __shared__ typename Tile::Storage storage;
    const unsigned across = (out.columns + Tile::SIDE - 1) / Tile::SIDE;
    const unsigned split = blockIdx.x % splits;
    const unsigned place = blockIdx.x / splits;
    const unsigned i0 = place / across * Tile::SIDE;
    const unsigned j0 = place % across * Tile::SIDE;
    const unsigned begin = split * split_depth;
    Tile tile;
    tile.template multiply<A, B>(a, i0, out.rows, b, j0, out.columns, begin,
                                 min(begin + split_depth, depth), storage);
    out.data += split * split_stride;
    store(tile, out, i0, j0, factor ? *factor : 1.0f, accumulate);
}

// Parameters: a is out.rows x depth, b out.columns x depth, in the layouts of the kernel's name;
// (splits - 1) * split_depth < depth <= splits * split_depth, split_depth a multiple of 16 where
// splits > 1; factor: one f32, or null for 1.
#define PRODUCT(NAME, TILE, BLOCKS, A, B)                                                        \
    extern "C" __global__ void __launch_bounds__(TILE::THREADS, BLOCKS)                          \
        NAME(Operand a, Operand b, unsigned depth, unsigned splits, unsigned split_depth,        \
             long long split_stride, const float* factor, int accumulate, Output out) {          \
        product<TILE, A, B>(a, b, depth, splits, split_depth, split_stride, factor, accumulate,  \
                            out);                                                                \
    }

#define PRODUCTS(NAME, TILE, BLOCKS)                                                     \
    PRODUCT(rows_rows_##NAME, TILE, BLOCKS, Layout::DEPTH, Layout::DEPTH)                \
    PRODUCT(rows_columns_##NAME, TILE, BLOCKS, Layout::DEPTH, Layout::SIDE)              \
    PRODUCT(columns_columns_##NAME, TILE, BLOCKS, Layout::SIDE, Layout::SIDE)

PRODUCTS(simt128, tile::Large, 2)
PRODUCTS(simt32, tile::Small, 8)

// C = factor * (sum of the parts in their order), added to C where asked.
// parts: [splits][rows][columns], split_stride apart. Grid-stride over the elements, 256 threads.
extern "C" __global__ void __launch_bounds__(256)
    add_splits(const float* parts, unsigned splits, long long split_stride, const float* factor,
               int accumulate, Output out) {
    const long long count = static_cast<long long>(out.rows) * out.columns;
    const float scale = factor ? *factor : 1.0f;
    for (long long i = blockIdx.x * 256ll + threadIdx.x; i < count; i += gridDim.x * 256ll) {
        float sum = parts[i];
        for (unsigned split = 1; split < splits; ++split) sum += parts[split * split_stride + i];
        float* to = out.data + i / out.columns * out.stride + i % out.columns;
        *to = accumulate ? *to + scale * sum : scale * sum;
    }
}
