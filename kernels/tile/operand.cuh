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

// One operand of a product C[i, j] = sum over k of A[i, k] B[j, k]. Twin of launch::Operand.
struct Operand {
    const void* data;
    long long stride;  // in elements
    int type;          // Type
    int aligned;       // whether data and every stride step are multiples of 16 bytes
};

}  // namespace tile
