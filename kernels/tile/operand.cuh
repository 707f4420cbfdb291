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
};

}  // namespace tile
