// Room: epilogues. Which pairs of a tile are negative, which positive: masked inside the tile.
#pragma once

#include "epilogue/select.cuh"
#include "ptx/opaque.cuh"

namespace epilogue {

constexpr float INFINITE = __builtin_bit_cast(float, 0x7f800000u);

// The mark of a row without a positive in an explicit index.
constexpr unsigned NO_POSITIVE = 0xffffffffu;

enum Flag : unsigned {
    INDEXED = 1,  // one positive a row: column index[i], or column i where index is null
    LABELED = 2,  // pairs of equal labels are positive
    SHARED = 4,   // anchors and candidates are one set: self-pairs are excluded
    IDS = 8,      // pairs of equal ids that are not positive are excluded
    MINED = 16,   // negatives below their row's cut do not count
};

// What is known of the pairs of an n x m matrix; null where a flag says so. Twin of launch::Pairs.
// The ranges hold the smallest and the largest key of every SIDE rows or columns.
struct Pairs {
    unsigned rows;
    unsigned columns;
    unsigned flags;
    unsigned cut_stride;             // 1: a cut for each row, 0: one for all
    const unsigned* index;           // rows
    const unsigned* row_labels;      // rows
    const unsigned* column_labels;   // columns
    const unsigned* row_ids;         // rows
    const unsigned* column_ids;      // columns
    const uint2* row_label_ranges;   // ceil(rows / SIDE)
    const uint2* column_label_ranges;
    const uint2* row_id_ranges;
    const uint2* column_id_ranges;
    const Cut* cuts;                 // rows, or one
};

// The column of a row's one positive, or NO_POSITIVE where it has none. An index beyond the last
// column matches no column of a tile.
__device__ __forceinline__ unsigned positive_column(const Pairs& pairs, unsigned row) {
    const unsigned column = pairs.index ? pairs.index[row] : row;
    return pairs.flags & SHARED && column == row ? NO_POSITIVE : column;
}

__device__ __forceinline__ bool disjoint(uint2 a, uint2 b) { return a.y < b.x || b.y < a.x; }

// One bit for every element that a thread holds of a tile.
template <class Tile>
struct Bits {
    static constexpr int COUNT = Tile::ROWS * Tile::COLUMNS;
    unsigned word[(COUNT + 31) / 32];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (unsigned& w : word) w = 0;
    }
    __device__ __forceinline__ bool get(int r, int c) const {
        const int bit = r * Tile::COLUMNS + c;
        return word[bit / 32] >> (bit % 32) & 1;
    }
    __device__ __forceinline__ void put(int r, int c, bool value) {
        const int bit = r * Tile::COLUMNS + c;
        word[bit / 32] |= static_cast<unsigned>(value) << (bit % 32);
    }
    // All of a row at once: bit c of `bits` for column c.
    __device__ __forceinline__ void put_row(int r, unsigned bits) {
        static_assert(32 % Tile::COLUMNS == 0, "a row lies in one word");
        const int bit = r * Tile::COLUMNS;
        word[bit / 32] |= bits << (bit % 32);
    }
    __device__ __forceinline__ void remove(const Bits& other) {
#pragma unroll
        for (int i = 0; i < (COUNT + 31) / 32; ++i) word[i] &= ~other.word[i];
    }
    __device__ __forceinline__ void keep_row(int r, unsigned bits) {
        const int bit = r * Tile::COLUMNS;
        constexpr unsigned ROW = Tile::COLUMNS == 32 ? ~0u : (1u << Tile::COLUMNS % 32) - 1;
        word[bit / 32] &= ~((ROW & ~bits) << (bit % 32));
    }
    __device__ __forceinline__ bool any() const {
        unsigned all = 0;
#pragma unroll
        for (unsigned w : word) all |= w;
        return all != 0;
    }
};

// Whether the tile at (i0, j0) can hold a pair of equal labels. The same answer in every thread.
template <class Tile>
__device__ __forceinline__ bool may_match(const Pairs& pairs, unsigned i0, unsigned j0) {
    return !disjoint(pairs.row_label_ranges[i0 / Tile::SIDE],
                     pairs.column_label_ranges[j0 / Tile::SIDE]);
}

// Whether every pair of the tile at (i0, j0) is a negative one, as far as can be told at once. The
// same answer in every thread.
template <class Tile>
__device__ __forceinline__ bool all_negative(const Pairs& pairs, unsigned i0, unsigned j0) {
    const unsigned flags = pairs.flags;
    bool plain = i0 + Tile::SIDE <= pairs.rows && j0 + Tile::SIDE <= pairs.columns;
    if (flags & MINED) plain = false;
    // Tiles are square and on one grid: the diagonal only crosses those with equal corners.
    if (flags & SHARED || (flags & INDEXED && !pairs.index)) plain = plain && i0 != j0;
    if (flags & INDEXED && pairs.index) plain = false;
    if (plain && flags & LABELED) plain = !may_match<Tile>(pairs, i0, j0);
    if (plain && flags & IDS) {
        plain = disjoint(pairs.row_id_ranges[i0 / Tile::SIDE],
                         pairs.column_id_ranges[j0 / Tile::SIDE]);
    }
    return plain;
}

// The thread's part of the tile at (i0, j0), pair by pair.
template <class Tile>
struct Cells {
    Bits<Tile> negative;
    Bits<Tile> positive;

    __device__ __forceinline__ void classify(const Pairs& pairs, unsigned i0, unsigned j0) {
        const unsigned flags = pairs.flags;
        // Row numbers and key addresses are the same for all tiles of a row of tiles, but may not
        // occupy registers while the next tile is multiplied.
        i0 = ptx::opaque(i0);
        Bits<Tile> excluded;
        negative.clear();
        positive.clear();
        excluded.clear();
        unsigned inside = 0;
#pragma unroll
        for (int c = 0; c < Tile::COLUMNS; ++c)
            inside |= static_cast<unsigned>(j0 + Tile::column(c) < pairs.columns) << c;
#pragma unroll
        for (int r = 0; r < Tile::ROWS; ++r)
            negative.put_row(r, i0 + Tile::row(r) < pairs.rows ? inside : 0);
        if (flags & LABELED) matches(positive, pairs, pairs.row_labels, pairs.column_labels, i0, j0);
        if (flags & IDS) matches(excluded, pairs, pairs.row_ids, pairs.column_ids, i0, j0);
        if (flags & SHARED) {
            Bits<Tile> self;
            self.clear();
#pragma unroll
            for (int r = 0; r < Tile::ROWS; ++r)
#pragma unroll
                for (int c = 0; c < Tile::COLUMNS; ++c)
                    self.put(r, c, i0 + Tile::row(r) == j0 + Tile::column(c));
            negative.remove(self);
            positive.remove(self);
        }
        if (flags & INDEXED) {
#pragma unroll
            for (int r = 0; r < Tile::ROWS; ++r) {
                const unsigned row = i0 + Tile::row(r);
                const unsigned match = row < pairs.rows ? positive_column(pairs, row) : NO_POSITIVE;
#pragma unroll
                for (int c = 0; c < Tile::COLUMNS; ++c) {
                    // Beyond the last column nothing matches, whatever the index says.
                    const unsigned column = j0 + Tile::column(c);
                    positive.put(r, c, column == match && column < pairs.columns);
                }
            }
        }
        negative.remove(excluded);
        negative.remove(positive);
    }

    // Takes the negatives below their cuts away, where pairs are mined.
    __device__ __forceinline__ void mine(const Tile& tile, const Pairs& pairs, unsigned i0,
                                         unsigned j0) {
        if (!(pairs.flags & MINED)) return;
        i0 = ptx::opaque(i0);
#pragma unroll
        for (int r = 0; r < Tile::ROWS; ++r) {
            const unsigned row = min(i0 + Tile::row(r), pairs.rows - 1);
            const Cut cut = pairs.cuts[static_cast<long long>(row) * pairs.cut_stride];
            unsigned kept = 0;
#pragma unroll
            for (int c = 0; c < Tile::COLUMNS; ++c)
                kept |= static_cast<unsigned>(mined(cut, tile.at(r, c), row, j0 + Tile::column(c)))
                        << c;
            negative.keep_row(r, kept);
        }
    }

private:
    __device__ __forceinline__ static void matches(Bits<Tile>& bits, const Pairs& pairs,
                                                   const unsigned* row_keys,
                                                   const unsigned* column_keys, unsigned i0,
                                                   unsigned j0) {
        unsigned keys[Tile::COLUMNS];
#pragma unroll
        for (int c = 0; c < Tile::COLUMNS; ++c) {
            const unsigned column = j0 + Tile::column(c);
            keys[c] = column < pairs.columns ? column_keys[column] : 0;
        }
#pragma unroll
        for (int r = 0; r < Tile::ROWS; ++r) {
            const unsigned row = i0 + Tile::row(r);
            if (row < pairs.rows) {
                const unsigned key = row_keys[row];
#pragma unroll
                for (int c = 0; c < Tile::COLUMNS; ++c)
                    bits.put(r, c, key == keys[c] && j0 + Tile::column(c) < pairs.columns);
            }
        }
    }
};

}  // namespace epilogue
