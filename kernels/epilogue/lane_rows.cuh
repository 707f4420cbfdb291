// Room: epilogues. A warp's part of a tile dealt to its lanes anew: a row to each, or half of one, where
// the product's layout deals four of a row's lanes a quarter of its columns each. What is done for the
// few elements of a row that are wanted is then done once for the row, and in as many turns as the
// fullest row has.
#pragma once

#include "ptx/copy.cuh"
#include "ptx/shuffle.cuh"

namespace epilogue {

// Of Sm80, B by rows: lane l holds, of the rows l / 4 + 8 r, of every 16 columns those four from
// l % 4 * 4 on.
template <class Tile>
struct LaneRows {
    static constexpr int LANES = 4;  // of a row
    static constexpr int WORDS = Tile::WARP_COLUMNS / 32;
    static_assert(Tile::GROUP == 4, "columns come by fours");
    static_assert((Tile::ROWS == 4 && WORDS == 2) || (Tile::ROWS == 2 && WORDS == 1),
                  "a row for each lane, or for two");
    // Floats between rows of a warp in shared memory: two rows' fours lie on all banks.
    static constexpr int PITCH = 48;
    static_assert(Tile::THREADS / 32 * Tile::WARP_ROWS * PITCH * 4 <= sizeof(typename Tile::Storage),
                  "32 columns of all rows at once");

    __device__ __forceinline__ static unsigned lane() { return threadIdx.x % LANES; }
    // Which of the rows l / 4 + 8 r is this lane's.
    __device__ __forceinline__ static unsigned own() {
        return Tile::ROWS == 4 ? lane() % 2 * 2 + lane() / 2 : lane() % 2;
    }
    // The row of the tile.
    __device__ __forceinline__ static unsigned row() {
        return Tile::warp_row() + own() * 8 + Tile::lane() / 4;
    }
    // What the lane that has row R says, for all four of its lanes.
    template <int R>
    __device__ __forceinline__ static float of_row(float value) {
        return ptx::shuffle<LANES, Tile::ROWS == 4 ? R % 2 * 2 + R / 2 : R>(value);
    }

    // A bit for each of the row's columns of the warp; of those that the lane has, where two have a row.
    unsigned bits[WORDS];

    // From the product's layout: byte g of flags[r] has, as its low four bits, those of the thread's
    // columns 4 g to 4 g + 3.
    __device__ __forceinline__ explicit LaneRows(unsigned (&flags)[Tile::ROWS]) {
        const bool odd = lane() & 1, upper = lane() & 2;
#pragma unroll
        for (int r = 0; r < Tile::ROWS; ++r) flags[r] <<= odd ? 4 : 0;
        // Of half of the rows, what two lanes have.
        constexpr int HALF = Tile::ROWS / 2;
        unsigned kept[HALF];
#pragma unroll
        for (int r = 0; r < HALF; ++r) {
            const unsigned given = odd ? flags[r] : flags[r + HALF];
            kept[r] = (odd ? flags[r + HALF] : flags[r]) | ptx::shuffle_xor<1, true>(given, 0);
        }
        // Of one row, what two have and what the other two have.
        const unsigned mine = upper ? kept[HALF - 1] : kept[0];
        const unsigned other = ptx::shuffle_xor<2, true>(upper ? kept[0] : kept[HALF - 1], 0);
        const unsigned low = upper ? other : mine, high = upper ? mine : other;
        bits[0] = __byte_perm(low, high, 0x5140);
        if (WORDS == 2)
            bits[WORDS - 1] = __byte_perm(low, high, 0x7362);
        else
            bits[0] &= upper ? 0xffff0000u : 0xffffu;
    }

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int w = 0; w < WORDS; ++w) bits[w] = 0;
    }
    __device__ __forceinline__ void fill() {
#pragma unroll
        for (int w = 0; w < WORDS; ++w)
            bits[w] = Tile::ROWS == 4 ? 0xffffffffu : lane() & 2 ? 0xffff0000u : 0xffffu;
    }
    __device__ __forceinline__ unsigned number() const {
        unsigned number = 0;
#pragma unroll
        for (int w = 0; w < WORDS; ++w) number += __popc(bits[w]);
        return number;
    }

    // Calls body(bits, column, address) for the words of bits, which it may change: `column` of the tile
    // and `address` in shared memory of the element that is the first bit's, further ones side by side.
    // All lanes of the warp; `storage` is the product's, and the product is done with it.
    template <class Body>
    __device__ __forceinline__ void each_word(const Tile& tile, typename Tile::Storage& storage,
                                              Body body) {
        float4* const warp = reinterpret_cast<float4*>(&storage) +
                             threadIdx.x / 32 * (Tile::WARP_ROWS * PITCH / 4);
        float4* const to = warp + Tile::lane() / 4 * (PITCH / 4) + lane();
        const unsigned from =
            ptx::shared_address(warp + (own() * 8 + Tile::lane() / 4) * (PITCH / 4));
#pragma unroll
        for (int w = 0; w < WORDS; ++w) {
            __syncwarp();
#pragma unroll
            for (int r = 0; r < Tile::ROWS; ++r)
#pragma unroll
                for (int g = 0; g < 2; ++g) {
                    const int c = w * 8 + g * 4;
                    to[r * 8 * PITCH / 4 + g * 4] = make_float4(
                        tile.at(r, c), tile.at(r, c + 1), tile.at(r, c + 2), tile.at(r, c + 3));
                }
            __syncwarp();
            body(bits[w], Tile::warp_column() + w * 32, from);
        }
    }
};

}  // namespace epilogue
