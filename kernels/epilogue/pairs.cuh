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
    POSITIVES = 32,  // negatives weigh nothing: what is wanted lies in the bands
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
    const uint2* row_matches;        // rows: first and end of the columns of a row's label, where
                                     // labels lie in order; else null
    const uint2* row_label_ranges;   // ceil(rows / SIDE)
    const uint2* column_label_ranges;
    const uint2* row_id_ranges;
    const uint2* column_id_ranges;
    const uint2* row_bands;          // of every row tile: first and end of the column tiles that
    const uint2* column_bands;       // may hold equal labels with it; and of every column tile,
                                     // whose bands lie in those of the rows
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
    __device__ __forceinline__ void fill() {
        constexpr unsigned ALL = COUNT % 32 == 0 ? ~0u : (1u << COUNT % 32) - 1;
#pragma unroll
        for (unsigned& w : word) w = ALL;
    }
    __device__ __forceinline__ bool get(int r, int c) const {
        // A row lies in one word: `c` may be known at run time only.
        const int bit = r * Tile::COLUMNS;
        return word[bit / 32] >> (bit % 32 + c) & 1;
    }
    __device__ __forceinline__ void drop(int r, int c) {
        const int bit = r * Tile::COLUMNS;
        word[bit / 32] &= ~(1u << (bit % 32 + c));
    }
    // A row's, bit c for column c.
    __device__ __forceinline__ unsigned row(int r) const {
        constexpr unsigned ROW = Tile::COLUMNS == 32 ? ~0u : (1u << Tile::COLUMNS % 32) - 1;
        const int bit = r * Tile::COLUMNS;
        return word[bit / 32] >> (bit % 32) & ROW;
    }
    // All of a row at once: bit c of `bits` for column c. The bits were clear.
    __device__ __forceinline__ void put_row(int r, unsigned bits) {
        static_assert(32 % Tile::COLUMNS == 0, "a row lies in one word");
        const int bit = r * Tile::COLUMNS;
        word[bit / 32] |= bits << (bit % 32);
    }
    // The same for columns c to c + 3.
    __device__ __forceinline__ void put_four(int r, int c, unsigned bits) {
        const int bit = r * Tile::COLUMNS;
        word[bit / 32] |= bits << (bit % 32 + c);
    }
    __device__ __forceinline__ void keep_row(int r, unsigned bits) {
        const int bit = r * Tile::COLUMNS;
        constexpr unsigned ROW = Tile::COLUMNS == 32 ? ~0u : (1u << Tile::COLUMNS % 32) - 1;
        word[bit / 32] &= ~((ROW & ~bits) << (bit % 32));
    }
    // Whether there is one in this row.
    __device__ __forceinline__ bool any(int r) const {
        constexpr unsigned ROW = Tile::COLUMNS == 32 ? ~0u : (1u << Tile::COLUMNS % 32) - 1;
        const int bit = r * Tile::COLUMNS;
        return (word[bit / 32] >> (bit % 32) & ROW) != 0;
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

// Whether the tile at (i0, j0) lies beyond its row's band. The same answer in every thread.
template <class Tile>
__device__ __forceinline__ bool beyond_band(const Pairs& pairs, unsigned i0, unsigned j0) {
    const uint2 band = pairs.row_bands[i0 / Tile::SIDE];
    return j0 / Tile::SIDE < band.x || j0 / Tile::SIDE >= band.y;
}

// Whether every pair of the tile at (i0, j0) is a negative one, mined or not, as far as can be told at
// once. The same answer in every thread.
template <class Tile>
__device__ __forceinline__ bool all_negative(const Pairs& pairs, unsigned i0, unsigned j0) {
    const unsigned flags = pairs.flags;
    bool plain = i0 + Tile::SIDE <= pairs.rows && j0 + Tile::SIDE <= pairs.columns;
    if (flags & POSITIVES) plain = false;
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

// Whether every pair of the tile at (i0, j0) is a positive one: of one label, and no self-pairs.
// The same answer in every thread.
template <class Tile>
__device__ __forceinline__ bool all_positive(const Pairs& pairs, unsigned i0, unsigned j0) {
    if (!(pairs.flags & LABELED)) return false;
    // What says no most often comes first.
    const uint2 rows = pairs.row_label_ranges[i0 / Tile::SIDE];
    if (rows.x != rows.y) return false;
    const uint2 columns = pairs.column_label_ranges[j0 / Tile::SIDE];
    if (columns.x != rows.x || columns.y != rows.x) return false;
    if (pairs.flags & SHARED && i0 == j0) return false;
    return i0 + Tile::SIDE <= pairs.rows && j0 + Tile::SIDE <= pairs.columns;
}

// Which negatives of a row are mined, of the columns that a thread has of a tile: those not below
// `least`; but where ties are broken among these columns (`split`), those at `least` only up to column
// `last`.
template <class Tile>
struct MinedRow {
    float least;
    unsigned last;
    bool split;

    __device__ __forceinline__ MinedRow(const Pairs& pairs, unsigned row, unsigned j0) {
        // As a whole, and compared as a whole: nothing here is a branch.
        const uint4 cut = *reinterpret_cast<const uint4*>(
            pairs.cuts + static_cast<long long>(row) * pairs.cut_stride);
        const auto place = [](unsigned row, unsigned column) {
            return static_cast<unsigned long long>(row) << 32 | column;
        };
        last = cut.z;
        const bool none = place(row, j0 + Tile::column(0)) > place(cut.y, last);
        const bool some = place(row, j0 + Tile::column(Tile::COLUMNS - 1)) > place(cut.y, last);
        const float similarity = __uint_as_float(cut.x);
        least = none ? next_above(similarity) : similarity;
        split = some && !none;
    }
    // Calls drop(c) for the columns that are at `least` and not mined.
    template <class Drop>
    __device__ __forceinline__ void each_tie(const Tile& tile, int r, unsigned j0, Drop drop) const {
        if (!split) return;
        // Rare: nothing of it is done beforehand.
        j0 = ptx::opaque(j0);
#pragma unroll
        for (int c = 0; c < Tile::COLUMNS; ++c)
            if (tile.at(r, c) == least && j0 + Tile::column(c) > last) drop(c);
    }
};

// The rows of the matrix, where they lie.
struct AllRows {
    unsigned number;

    __device__ __forceinline__ static unsigned row(unsigned place) { return place; }
};

// The thread's part of the tile at (i0, j0), pair by pair.
template <class Tile>
struct Cells {
    Bits<Tile> negative;
    Bits<Tile> positive;

    __device__ __forceinline__ void classify(const Pairs& pairs, unsigned i0, unsigned j0) {
        if (all_positive<Tile>(pairs, i0, j0)) {
            negative.clear();
            positive.fill();
            return;
        }
        classify(pairs, i0, j0, AllRows{pairs.rows});
    }

    // The same of rows that lie where rows.row(place) says: AllRows, or tile::SomeRows.
    template <class Rows>
    __device__ __forceinline__ void classify(const Pairs& pairs, unsigned i0, unsigned j0,
                                             const Rows& rows) {
        static_assert(Tile::GROUP == 4, "four columns side by side");
        const unsigned flags = pairs.flags;
        negative.clear();
        positive.clear();
// Four columns at a time, all rows of theirs: the keys of more would cost the registers that the tile
// is in.
#pragma unroll 1
        for (int c = 0; c < Tile::COLUMNS; c += 4) {
            // Row numbers and key addresses are always the same, but may not occupy registers.
            i0 = ptx::opaque(i0);
            const unsigned j = j0 + Tile::column(c);
            const unsigned count = j < pairs.columns ? min(pairs.columns - j, 4) : 0;
            const unsigned inside = (1u << count) - 1;
            unsigned labels[4], ids[4];
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const bool exists = e < count;
                labels[e] = flags & LABELED && exists ? pairs.column_labels[j + e] : 0;
                ids[e] = flags & IDS && exists ? pairs.column_ids[j + e] : 0;
            }
#pragma unroll
            for (int r = 0; r < Tile::ROWS; ++r) {
                const unsigned place = i0 + Tile::row(r);
                if (place >= rows.number) continue;
                const unsigned row = rows.row(place);
                unsigned matches = 0, excluded = 0;
                if (flags & LABELED) matches = equal(labels, pairs.row_labels[row]);
                if (flags & INDEXED) matches = at(positive_column(pairs, row), j);
                if (flags & IDS) excluded = equal(ids, pairs.row_ids[row]);
                if (flags & SHARED) {
                    const unsigned self = at(row, j);
                    excluded |= self;
                    matches &= ~self;
                }
                matches &= inside;
                positive.put_four(r, c, matches);
                negative.put_four(r, c, inside & ~(excluded | matches));
            }
        }
    }

    // The same in kernels that may know where the columns of a row's label begin and end.
    __device__ __forceinline__ void find(const Pairs& pairs, unsigned i0, unsigned j0) {
        if (!pairs.row_matches || pairs.flags & IDS) return classify(pairs, i0, j0);
        negative.clear();
        positive.clear();
        if (all_positive<Tile>(pairs, i0, j0)) {
            positive.fill();
            return;
        }
        i0 = ptx::opaque(i0);
        const unsigned inside = between(0, pairs.columns, j0);
#pragma unroll
        for (int r = 0; r < Tile::ROWS; ++r) {
            const unsigned row = i0 + Tile::row(r);
            if (row >= pairs.rows) continue;
            const uint2 match = pairs.row_matches[row];
            const unsigned matches = between(match.x, match.y, j0);
            const unsigned self = pairs.flags & SHARED ? between(row, row + 1, j0) : 0;
            positive.put_row(r, matches & ~self);
            negative.put_row(r, inside & ~(matches | self));
        }
    }

    // Takes the negatives that are not mined away, where pairs are mined.
    __device__ __forceinline__ void mine(const Tile& tile, const Pairs& pairs, unsigned i0,
                                         unsigned j0) {
        if (!(pairs.flags & MINED)) return;
        i0 = ptx::opaque(i0);
#pragma unroll
        for (int r = 0; r < Tile::ROWS; ++r) {
            const unsigned row = min(i0 + Tile::row(r), pairs.rows - 1);
            const MinedRow<Tile> mined(pairs, row, j0);
            unsigned kept = 0;
#pragma unroll
            for (int c = 0; c < Tile::COLUMNS; ++c)
                kept |= static_cast<unsigned>(tile.at(r, c) >= mined.least) << c;
            mined.each_tie(tile, r, j0, [&](int c) { kept &= ~(1u << c); });
            negative.keep_row(r, kept);
        }
    }

private:
    __device__ __forceinline__ static unsigned equal(const unsigned (&keys)[4], unsigned key) {
        unsigned bits = 0;
#pragma unroll
        for (int e = 0; e < 4; ++e) bits |= static_cast<unsigned>(keys[e] == key) << e;
        return bits;
    }
    // Of the thread's columns those from `first` to before `end`: as many groups of four at a time as
    // lie within 31 columns.
    __device__ __forceinline__ static unsigned between(unsigned first, unsigned end, unsigned j0) {
        constexpr int STEP = Tile::GROUP_STEP, TOGETHER = STEP > 27 ? 1 : 27 / STEP + 1;
        constexpr int REACH = (TOGETHER - 1) * STEP + 4;
        unsigned bits = 0;
#pragma unroll
        for (int c = 0; c < Tile::COLUMNS; c += 4 * TOGETHER) {
            const unsigned j = j0 + Tile::column(c);
            const unsigned all = (1u << within(end, j, REACH)) - (1u << within(first, j, REACH));
#pragma unroll
            for (int group = 0; group < TOGETHER && c + 4 * group < Tile::COLUMNS; ++group)
                bits |= (all >> group * STEP & 15) << (c + 4 * group);
        }
        return bits;
    }
    // How many of so many columns from j on lie before this one.
    __device__ __forceinline__ static unsigned within(unsigned column, unsigned j, int reach) {
        return min(max(static_cast<int>(column - j), 0), reach);
    }
    // Of four columns from j on, this one.
    __device__ __forceinline__ static unsigned at(unsigned column, unsigned j) {
        return column - j < 4 ? 1u << (column - j) : 0;
    }
};

}  // namespace epilogue
