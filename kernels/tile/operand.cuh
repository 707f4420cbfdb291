// Room: tile engines. How a matrix lies in memory, whichever engine reads it.
#pragma once

namespace tile {

// Element types, as the host numbers them.
enum Type : int { F32 = 0, F16 = 1, BF16 = 2 };

// Which index of an operand is contiguous.
enum class Layout {
    DEPTH,  // element (i, k) at data[i * stride + k]: rows of embeddings in S = X Y^T
    SIDE,   // element (i, k) at data[k * stride + i]: the embeddings in G Y, both operands of G^T X
};

// What an element's second part counts: element = high + low * LOW_UNIT.
constexpr float LOW_UNIT = 1.0f / 2048.0f;

// One operand of a product C[i, j] = sum over k of A[i, k] B[j, k]. Twin of launch::Operand.
//
// sm80 alone: an operand may be a pair of matrices of one shape, high and low, the second lying `low` elements after `data` (0: there is none); and its rows may have a factor each, by which C is
// multiplied.
struct Operand {
    const void* data;
    long long stride;  // in elements
    int type;          // Type
    int aligned;       // whether data and every stride step are multiples of 16 bytes
    const float* factor;  // one a row, or null for 1; of DEPTH operands
    long long low;

    // The row at a place of a tile's rows. Of DEPTH operands.
    __device__ __forceinline__ static unsigned row(unsigned place) { return place; }
};

// Some rows, named by a table.
struct SomeRows {
    const unsigned* rows;
    unsigned number;  // at least 1

    // Beyond the last the last again.
    __device__ __forceinline__ unsigned row(unsigned place) const {
        return rows[min(place, number - 1)];
    }
};

// An operand of which only some rows are wanted, as if these were all.
struct Picked : Operand {
    SomeRows some;

    __device__ __forceinline__ Picked(const Operand& all, const SomeRows& some)
        : Operand(all), some(some) {}
    __device__ __forceinline__ unsigned row(unsigned place) const { return some.row(place); }
};

}  // namespace tile
