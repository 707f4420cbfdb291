// Room: tile engines. One element of an operand, for kernels without tiles.
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

}  // namespace tile
