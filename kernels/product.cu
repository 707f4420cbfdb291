// Program: matrix products C = factor * A B^T, added to C where asked.
//
// rows_rows:        A and B by rows:          S = X Y^T
// rows_columns:     A by rows, B by columns:  dX = G Y
// columns_columns:  both by columns:          dY = G^T X
//
// Grid: x = row tiles x column tiles x splits of the sum, the split running fastest, then the
// column tile. With more than one split, split s writes its part to C + s * split_stride, as summed,
// and add_splits puts the parts together in their order.
// Block: Tile::THREADS threads.

#include "epilogue/levels.cuh"
#include "epilogue/store.cuh"
#include "tile/simt.cuh"
#include "tile/sm80.cuh"

using namespace epilogue;
using tile::Layout;
using tile::Operand;

// What becomes of the sums (epilogue/store.cuh).
struct Mix {
    const float* factor;   // one f32, or null for 1
    const float* divisor;  // one f32 a row, or null for 1; 0 gives 0
    Levels levels;         // of the operand A, if it is a panel that has some
    int accumulate;        // whether to add to what is there

    __device__ __forceinline__ float from(unsigned row) const {
        float value = levels.from_sum(row);
        if (factor) value *= *factor;
        if (!divisor) return value;
        const float by = divisor[row];
        return by == 0.0f ? 0.0f : value / by;
    }
    __device__ __forceinline__ float to(unsigned row) const {
        return accumulate ? levels.from_before(row) : 0.0f;
    }
};

template <class Tile, Layout A, Layout B>
__device__ __forceinline__ void product(const Operand& a, const Operand& b, unsigned depth,
                                        unsigned splits, unsigned split_depth,
                                        long long split_stride, const Mix& mix, Output out) {
    __shared__ typename Tile::Storage storage;
    const unsigned across = (out.columns + Tile::SIDE - 1) / Tile::SIDE;
    const unsigned split = blockIdx.x % splits;
    const unsigned place = blockIdx.x / splits;
    const unsigned i0 = place / across * Tile::SIDE;
    const unsigned j0 = place % across * Tile::SIDE;
    const unsigned begin = split * split_depth;
    const unsigned end = min(begin + split_depth, depth);
    Tile tile;
    if constexpr (Tile::LEVELS && B == Layout::SIDE) {
        tile.template multiply<A, B>(a, i0, out.rows, b, j0, out.columns, begin, end, storage,
                                     Steps(mix.levels, i0));
    } else {
        tile.template multiply<A, B>(a, i0, out.rows, b, j0, out.columns, begin, end, storage);
    }
    out.data += split * split_stride;
    if (splits > 1) {
        store(tile, out, i0, j0, Plainly{1.0f, false});
    } else {
        store(tile, out, i0, j0, mix);
    }
}

// Parameters: a is out.rows x depth, b out.columns x depth, in the layouts of the kernel's name;
// (splits - 1) * split_depth < depth <= splits * split_depth, split_depth a multiple of 32 where
// splits > 1; levels where A is a panel of an engine that keeps them.
#define PRODUCT(NAME, TILE, BLOCKS, A, B)                                                       \
    extern "C" __global__ void __launch_bounds__(TILE::THREADS, BLOCKS)                         \
        NAME(Operand a, Operand b, unsigned depth, unsigned splits, unsigned split_depth,       \
             long long split_stride, Mix mix, Output out) {                                     \
        product<TILE, A, B>(a, b, depth, splits, split_depth, split_stride, mix, out);          \
    }

#define PRODUCTS(NAME, BY_ROWS, BY_COLUMNS, BLOCKS)                                       \
    PRODUCT(rows_rows_##NAME, BY_ROWS, BLOCKS, Layout::DEPTH, Layout::DEPTH)              \
    PRODUCT(rows_columns_##NAME, BY_COLUMNS, BLOCKS, Layout::DEPTH, Layout::SIDE)         \
    PRODUCT(columns_columns_##NAME, BY_COLUMNS, BLOCKS, Layout::SIDE, Layout::SIDE)

#define PRODUCTS_SM80(NAME, ELEMENT)                                  \
    using NAME##_LargeRows = tile::Sm80Large<ELEMENT, Layout::DEPTH>; \
    using NAME##_LargeColumns = tile::Sm80Large<ELEMENT, Layout::SIDE>; \
    using NAME##_SmallRows = tile::Sm80Small<ELEMENT, Layout::DEPTH>; \
    using NAME##_SmallColumns = tile::Sm80Small<ELEMENT, Layout::SIDE>; \
    PRODUCTS(NAME##_128, NAME##_LargeRows, NAME##_LargeColumns, 2)    \
    PRODUCTS(NAME##_32, NAME##_SmallRows, NAME##_SmallColumns, 8)

PRODUCTS(simt128, tile::Large, tile::Large, 2)
PRODUCTS(simt32, tile::Small, tile::Small, 8)
PRODUCTS_SM80(sm80_f16, tile::Half)
PRODUCTS_SM80(sm80_bf16, tile::Brain)

// C from the sum of the parts in their order.
// parts: [splits][rows][columns], split_stride apart. Grid-stride over the elements, 256 threads.
extern "C" __global__ void __launch_bounds__(256)
    add_splits(const float* parts, unsigned splits, long long split_stride, Mix mix, Output out) {
    const long long count = static_cast<long long>(out.rows) * out.columns;
    for (long long i = blockIdx.x * 256ll + threadIdx.x; i < count; i += gridDim.x * 256ll) {
        float sum = parts[i];
        for (unsigned split = 1; split < splits; ++split) sum += parts[split * split_stride + i];
        const unsigned row = i / out.columns;
        float* at = out.data + row * out.stride + i % out.columns;
        const float value = mix.from(row) * sum, to = mix.to(row);
        *at = to != 0.0f ? fmaf(to, *at, value) : value;
    }
}
