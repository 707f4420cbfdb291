// Room: tile engines. One element of an operand, or of a matrix to be written in any type, for kernels
// without tiles.
#pragma once

#include "ptx/convert.cuh"
#include "tile/operand.cuh"

namespace tile {

// The element at this place of the operand's memory, as f32.
__device__ __forceinline__ float element(const Operand& x, long long at) {
    if (x.type == F32) return static_cast<const float*>(x.data)[at];
    const unsigned short bits = static_cast<const unsigned short*>(x.data)[at];
    return x.type == F16 ? ptx::f16_to_f32(bits) : ptx::bf16_to_f32(bits);
}

// Element k of a row, in all its parts.
__device__ __forceinline__ float embedding(const Operand& x, long long row, unsigned k) {
    const long long at = row * x.stride + k;
    float value = element(x, at);
    if (x.low) value = fmaf(LOW_UNIT, element(x, x.low + at), value);
    return x.factor ? value * x.factor[row] : value;
}

// A matrix to be written. Twin of launch::Destination.
struct Destination {
    void* data;
    long long stride;  // in elements
    unsigned rows;
    unsigned columns;
    int type;  // Type

    // Rounded to nearest.
    __device__ __forceinline__ void put(long long row, unsigned column, float value) const {
        const long long at = row * stride + column;
        if (type == F32)
            static_cast<float*>(data)[at] = value;
        else
            static_cast<unsigned short*>(data)[at] =
                type == F16 ? ptx::f32_to_f16(value) : ptx::f32_to_bf16(value);
    }
};

}  // namespace tile
