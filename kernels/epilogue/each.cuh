// Room: epilogues. A tile's elements one after the other, for bodies that are too long to be written
// out for each of them.
#pragma once

namespace epilogue {

// Calls body(r, c, element) for the thread's elements of the rows that wanted(r) holds for. The
// elements of a row pass through shared memory, which no other thread reads: `storage` is the
// product's, and the product is done with it.
template <class Tile, class Wanted, class Body>
__device__ __forceinline__ void each(const Tile& tile, typename Tile::Storage& storage,
                                     Wanted wanted, Body body) {
    using Row = float[Tile::COLUMNS][Tile::THREADS];
    static_assert(sizeof(Row) <= sizeof(storage), "a row of every thread at once");
    Row& row = reinterpret_cast<Row&>(storage);
#pragma unroll
    for (int r = 0; r < Tile::ROWS; ++r) {
        if (!wanted(r)) continue;
#pragma unroll
        for (int c = 0; c < Tile::COLUMNS; ++c) row[c][threadIdx.x] = tile.at(r, c);
#pragma unroll 1
        for (int c = 0; c < Tile::COLUMNS; ++c) body(r, c, row[c][threadIdx.x]);
    }
}

// Calls body(c, element) for the elements of one of the thread's rows that have a bit in `bits`. `r` is
// known at compile time.
template <class Tile, class Body>
__device__ __forceinline__ void each_set(const Tile& tile, typename Tile::Storage& storage, int r,
                                         unsigned bits, Body body) {
    using Row = float[Tile::COLUMNS / 4][Tile::THREADS][4];
    static_assert(sizeof(Row) <= sizeof(storage), "a row of every thread at once");
    Row& row = reinterpret_cast<Row&>(storage);
#pragma unroll
    for (int c = 0; c < Tile::COLUMNS; c += 4)
        *reinterpret_cast<float4*>(row[c / 4][threadIdx.x]) =
            make_float4(tile.at(r, c), tile.at(r, c + 1), tile.at(r, c + 2), tile.at(r, c + 3));
#pragma unroll 1
    for (; bits != 0; bits &= bits - 1) {
        const int c = __ffs(bits) - 1;
        body(c, row[c / 4][threadIdx.x][c % 4]);
    }
}

// The same of fours of columns: body(f, elements), `bits` having one for each four.
template <class Tile, class Body>
__device__ __forceinline__ void each_four(const Tile& tile, typename Tile::Storage& storage, int r,
                                          unsigned bits, Body body) {
    using Row = float4[Tile::COLUMNS / 4][Tile::THREADS];
    static_assert(sizeof(Row) <= sizeof(storage), "a row of every thread at once");
    float4* own = &reinterpret_cast<Row&>(storage)[0][threadIdx.x];
#pragma unroll
    for (int c = 0; c < Tile::COLUMNS; c += 4)
        own[c / 4 * Tile::THREADS] =
            make_float4(tile.at(r, c), tile.at(r, c + 1), tile.at(r, c + 2), tile.at(r, c + 3));
#pragma unroll 1
    for (; bits != 0; bits &= bits - 1) {
        const unsigned f = __ffs(bits) - 1;
        body(f, own[f * Tile::THREADS]);
    }
}

}  // namespace epilogue
