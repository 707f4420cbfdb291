// Room: epilogues. Log-sum-exp of the negatives of each row, over the column tiles that a block
// walks: a running maximum M and Z = sum of exp(s (S - M)) per thread, parked in shared memory where
// the next product needs the registers; the threads of a row come together at the end. A similarity
// that is not finite makes Z NaN, also where the pair is masked.
#pragma once

#include "epilogue/finite.cuh"
#include "epilogue/pairs.cuh"
#include "epilogue/terms.cuh"
#include "ptx/math.cuh"
#include "ptx/shuffle.cuh"

namespace epilogue {

// M and Z of a thread's rows: in shared memory, where a thread reads only what it wrote itself.
template <class Tile, bool PARKED = Tile::PARKS>
struct Running {
    struct Storage {
        float maximum[Tile::ROWS][Tile::THREADS];
        float sum[Tile::ROWS][Tile::THREADS];
    };
    Storage& parked;
    __device__ __forceinline__ explicit Running(Storage& storage) : parked(storage) {}
    __device__ __forceinline__ float& maximum(int r) { return parked.maximum[r][threadIdx.x]; }
    __device__ __forceinline__ float& sum(int r) { return parked.sum[r][threadIdx.x]; }
};

// Or in registers.
template <class Tile>
struct Running<Tile, false> {
    struct Storage {};
    float maxima[Tile::ROWS];
    float sums[Tile::ROWS];
    __device__ __forceinline__ explicit Running(Storage&) {}
    __device__ __forceinline__ float& maximum(int r) { return maxima[r]; }
    __device__ __forceinline__ float& sum(int r) { return sums[r]; }
};

template <class Tile>
struct LogSumExp {
    using Storage = typename Running<Tile>::Storage;

    Running<Tile> running;
    __device__ __forceinline__ explicit LogSumExp(Storage& storage) : running(storage) {
#pragma unroll
        for (int r = 0; r < Tile::ROWS; ++r) {
            running.maximum(r) = -INFINITE;
            running.sum(r) = 0.0f;
        }
    }
    // Lets similarities that are not finite make their rows NaN: before any pair is masked.
    __device__ __forceinline__ void poison(const Tile& tile) {
        if (surely_finite(tile)) return;
#pragma unroll
        for (int r = 0; r < Tile::ROWS; ++r) running.sum(r) += zero_of_row(tile, r);
    }

    // Adds a tile whose masked pairs are -inf.
    __device__ __forceinline__ void add(const Tile& tile, float scale2) {
#pragma unroll
        for (int r = 0; r < Tile::ROWS; ++r) {
            const float before = running.maximum(r);
            float top = before;
#pragma unroll
            for (int c = 0; c < Tile::COLUMNS; ++c) top = fmaxf(top, tile.at(r, c));
            // No negative yet: any reference will do, infinity minus infinity will not.
            const float reference = top == -INFINITE ? 0.0f : top;
            float sum = running.sum(r) * ptx::ex2(scale2 * (before - reference));
#pragma unroll
            for (int c = 0; c < Tile::COLUMNS; ++c)
                sum += ptx::ex2(scale2 * (tile.at(r, c) - reference));
            running.maximum(r) = top;
            running.sum(r) = sum;
        }
    }

    // Brings the threads of each row together; row r's leader gets M and Z.
    __device__ __forceinline__ void row(int r, float scale2, float& maximum, float& sum) {
        maximum = running.maximum(r);
        sum = running.sum(r);
        Tile::row_reduce([&](int mask) {
            const float other_maximum = ptx::shuffle_xor(maximum, mask);
            const float other_sum = ptx::shuffle_xor(sum, mask);
            const float top = fmaxf(maximum, other_maximum);
            const float reference = top == -INFINITE ? 0.0f : top;
            sum = sum * ptx::ex2(scale2 * (maximum - reference)) +
                  other_sum * ptx::ex2(scale2 * (other_maximum - reference));
            maximum = top;
        });
    }
};

}  // namespace epilogue
