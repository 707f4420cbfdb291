// Program: matrix products C = factor * A B^T, added to C where asked.
//
// rows_rows:        A and B by rows:          S = X Y^T
// rows_columns:     A by rows, B by columns:  dX = G Y
// columns_columns:  both by columns:          dY = G^T X
//
// Grid: x = row tiles x column tiles x splits of the sum, the split running fastest, then the
// column tile. Where a sum is split, each writes its part, as summed, to a matrix of its own, and
// add_splits puts the parts together in their order.
// Block: Tile::THREADS threads.

#include "epilogue/levels.cuh"
#include "epilogue/store.cuh"
#include "ptx/opaque.cuh"
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

// Where A is known to be nothing but zeros, nothing is read: for every 2^bits rows of the result A
// has something between two multiples of 2^bits along the sum alone, counted from `start` before its
// beginning. Twin of launch::Band.
struct Band {
    const uint2* tiles;  // null: everywhere
    unsigned bits;
    unsigned start;

    // Long bands are split as far as they can be; a part is this long at least.
    static constexpr unsigned PART = 512;

    // From where to where the sum of these rows runs, of one of `depth`; (0, 0) for nowhere.
    __device__ __forceinline__ uint2 span(unsigned row, unsigned depth) const {
        const uint2 band = tiles[row >> bits];
        const unsigned begin = max(band.x << bits, start) - start;
        const unsigned end = min(max(band.y << bits, start) - start, depth);
        return begin < end ? make_uint2(begin, end) : make_uint2(0, 0);
    }
    // In how many parts it is summed.
    __device__ __forceinline__ static unsigned parts(uint2 span, unsigned splits) {
        return min((span.y - span.x + PART - 1) / PART, splits);
    }
    __device__ __forceinline__ unsigned parts(unsigned row, unsigned depth, unsigned splits) const {
        return parts(span(row, depth), splits);
    }
    // The part of this number; empty where there are not so many.
    __device__ __forceinline__ uint2 part(unsigned row, unsigned depth, unsigned number,
                                          unsigned splits) const {
        const uint2 all = span(row, depth);
        const unsigned count = max(parts(all, splits), 1);
        // A multiple of the slices along the sum; some parts longer, and others empty.
        const unsigned slices = (all.y - all.x + 31) / 32;
        const unsigned first = all.x + slices * min(number, count) / count * 32;
        const unsigned end = all.x + slices * min(number + 1, count) / count * 32;
        return make_uint2(min(first, all.y), min(end, all.y));
    }
};

template <class Tile, Layout A, Layout B>
__device__ __forceinline__ void product(const Operand& a, const Operand& b, unsigned depth,
                                        unsigned splits, unsigned split_depth,
                                        float* parts, const Mix& mix, const Band& band,
                                        const Output& out) {
    __shared__ typename Tile::Storage storage;
    const unsigned across = (out.columns + Tile::SIDE - 1) / Tile::SIDE;
    const unsigned split = blockIdx.x % splits;
    const unsigned place = blockIdx.x / splits;
    const unsigned i0 = place / across * Tile::SIDE;
    const unsigned j0 = place % across * Tile::SIDE;
    unsigned begin = split * split_depth;
    unsigned end = min(begin + split_depth, depth);
    if (band.tiles) {
        const uint2 part = band.part(i0, depth, split, splits);
        if (part.x == part.y) return;
        begin = part.x;
        end = part.y;
    }
    Tile tile;
    if constexpr (Tile::LEVELS && B == Layout::SIDE) {
        tile.template multiply<A, B>(a, i0, out.rows, b, j0, out.columns, begin, end, storage,
                                     Steps(mix.levels, i0));
    } else {
        tile.template multiply<A, B>(a, i0, out.rows, b, j0, out.columns, begin, end, storage);
    }
    // Made anew: kept, they would cost registers of the tile's.
    const unsigned parts_of_rows =
        band.tiles ? band.parts(ptx::opaque(i0), depth, splits) : splits;
    if (parts_of_rows == 1) {
        store(tile, out, i0, j0, mix);
    } else {
        const long long place = ptx::opaque(blockIdx.x) % splits;
        const Output part{parts + place * out.rows * out.columns, out.columns, out.rows, out.columns};
        store(tile, part, i0, j0, Plainly{1.0f, false});
    }
}

// Parameters: a is out.rows x depth, b out.columns x depth, in the layouts of the kernel's name;
// (splits - 1) * split_depth < depth <= splits * split_depth, split_depth a multiple of 32 where
// splits > 1; parts: [splits][out.rows][out.columns] then; levels where A is a panel of an engine that keeps them; with a band the result is added
// to what is there.
#define PRODUCT(NAME, TILE, BLOCKS, A, B)                                                       \
    extern "C" __global__ void __launch_bounds__(TILE::THREADS, BLOCKS)                         \
        NAME(Operand a, Operand b, unsigned depth, unsigned splits, unsigned split_depth,       \
             float* parts, Mix mix, Band band, Output out) {                                    \
        product<TILE, A, B>(a, b, depth, splits, split_depth, parts, mix, band, out);           \
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

// C from the sum of the parts in their order, where there is more than one: parts as above.
// Grid-stride over 16 rows, two a warp, 256 threads.
constexpr unsigned ADD_ROWS = 16;
extern "C" __global__ void __launch_bounds__(256)
    add_splits(const float* parts, unsigned splits, unsigned depth, Mix mix, Band band, Output out) {
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const long long whole = static_cast<long long>(out.rows) * out.columns;
    const bool aligned = out.columns % 4 == 0 &&
        (reinterpret_cast<unsigned long long>(out.data) | out.stride * 4) % 16 == 0;
    const unsigned step = gridDim.x * ADD_ROWS;
    for (unsigned first = blockIdx.x * ADD_ROWS; first < out.rows; first += step) {
        // They lie in one tile of a band.
        const unsigned count = band.tiles ? band.parts(first, depth, splits) : splits;
        if (count < 2) continue;
        for (unsigned row = first + warp; row < min(first + ADD_ROWS, out.rows); row += 8) {
            const float from = mix.from(row), to = mix.to(row);
            const float* part = parts + static_cast<long long>(row) * out.columns;
            float* line = out.data + row * out.stride;
            for (unsigned k = lane * 4; aligned && k < out.columns; k += 128) {
                float4 sum = *reinterpret_cast<const float4*>(part + k);
                for (unsigned split = 1; split < count; ++split) {
                    const float4 more = *reinterpret_cast<const float4*>(part + split * whole + k);
                    sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
                }
                float4* at = reinterpret_cast<float4*>(line + k);
                float4 old = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                if (to != 0.0f) old = *at;
                *at = make_float4(fmaf(to, old.x, from * sum.x), fmaf(to, old.y, from * sum.y),
                                  fmaf(to, old.z, from * sum.z), fmaf(to, old.w, from * sum.w));
            }
            for (unsigned k = lane; !aligned && k < out.columns; k += 32) {
                float sum = part[k];
                for (unsigned split = 1; split < count; ++split) sum += part[split * whole + k];
                line[k] = fmaf(to, to != 0.0f ? line[k] : 0.0f, from * sum);
            }
        }
    }
}
