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

constexpr unsigned PIECE = 8;

// PIECE elements side by side from this place on, a multiple of PIECE from the row's beginning, of
// which `count` are there and the rest 0: in two loads at most where rows are aligned.
__device__ __forceinline__ void load_piece(const Operand& x, long long at, unsigned count,
                                           float (&value)[PIECE]) {
    if (!x.aligned || count < PIECE) {
#pragma unroll
        for (unsigned j = 0; j < PIECE; ++j) value[j] = j < count ? element(x, at + j) : 0.0f;
        return;
    }
    if (x.type == F32) {
        const float4* from =
            reinterpret_cast<const float4*>(static_cast<const float*>(x.data) + at);
        const float4 first = from[0], second = from[1];
        value[0] = first.x, value[1] = first.y, value[2] = first.z, value[3] = first.w;
        value[4] = second.x, value[5] = second.y, value[6] = second.z, value[7] = second.w;
        return;
    }
    const uint4 raw =
        *reinterpret_cast<const uint4*>(static_cast<const unsigned short*>(x.data) + at);
    const unsigned words[PIECE / 2] = {raw.x, raw.y, raw.z, raw.w};
    const auto split = [&](float2 convert(unsigned)) {
#pragma unroll
        for (unsigned e = 0; e < PIECE; e += 2) {
            const float2 two = convert(words[e / 2]);
            value[e] = two.x, value[e + 1] = two.y;
        }
    };
    if (x.type == F16)
        split(ptx::f16x2_to_f32);
    else
        split(ptx::bf16x2_to_f32);
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
