// Program: one panel of the gradient with respect to the similarities, G (rows x m), a few rows of
// the n x m matrix at a time.
//
// weights: S tiles of the panel's rows, turned into weights, written once as f32; and per tile the
//          sum of (S - M) G, for the gradient of the scale. Either may be left out.
//
// Grid: x = row tiles of the panel x column tiles; block = row tile * column tiles + column tile.
// Block: Tile::THREADS threads.

#include "epilogue/pairs.cuh"
#include "epilogue/store.cuh"
#include "epilogue/terms.cuh"
#include "epilogue/weights.cuh"
#include "reduce.cuh"
#include "tile/simt.cuh"

using namespace epilogue;
using tile::Layout;
using tile::Operand;

template <class Tile>
__device__ __forceinline__ void weights(const Operand& x, const Operand& y, unsigned depth,
                                        const Pairs& pairs, unsigned first_row, unsigned end_row,
                                        const Coefficients& rows, const float* scale,
                                        const Output& panel, double* moments) {
    __shared__ typename Tile::Storage storage;
    const unsigned across = (pairs.columns + Tile::SIDE - 1) / Tile::SIDE;
    const unsigned i0 = first_row + blockIdx.x / across * Tile::SIDE;
    const unsigned j0 = blockIdx.x % across * Tile::SIDE;
    Tile tile;
    tile.template multiply<Layout::DEPTH, Layout::DEPTH>(x, i0, end_row, y, j0, pairs.columns, 0,
                                                         depth, storage);
    const float moment = weigh(tile, pairs, i0, j0, rows, *scale * LOG2E);
    if (panel.data) store(tile, panel, i0 - first_row, j0, 1.0f, false);
    if (moments) {
        __shared__ double shared[Tile::THREADS];
        const double sum = reduce::block(static_cast<double>(moment), shared,
                                         [](double a, double b) { return a + b; });
        if (threadIdx.x == 0) moments[blockIdx.x] = sum;
    }
}

// Parameters: x is n x depth, y is m x depth; first_row a multiple of Tile::SIDE, end_row the end of
// the panel; pairs as in stats.cu; rows: coefficients of all n rows; scale one f32;
// panel: (end_row - first_row) x m, or data null; moments: one f64 a block, or null.
#define WEIGHTS(NAME, TILE, BLOCKS)                                                               \
    extern "C" __global__ void __launch_bounds__(TILE::THREADS, BLOCKS) weights_##NAME(           \
        Operand x, Operand y, unsigned depth, Pairs pairs, unsigned first_row, unsigned end_row,  \
        Coefficients rows, const float* scale, Output panel, double* moments) {                   \
        weights<TILE>(x, y, depth, pairs, first_row, end_row, rows, scale, panel, moments);       \
    }

WEIGHTS(simt128, tile::Large, 2)
WEIGHTS(simt32, tile::Small, 8)
