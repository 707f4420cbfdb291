// Room: PTX wrappers. Between 16-bit floating point and f32.
#pragma once

namespace ptx {

// IEEE binary16 from its bits; exact.
__device__ __forceinline__ float f16_to_f32(unsigned short bits) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(bits));
    return y;
}

// bfloat16 from its bits, the upper half of an f32; exact.
__device__ __forceinline__ float bf16_to_f32(unsigned short bits) {
    return __uint_as_float(static_cast<unsigned>(bits) << 16);
}

// Both of a word, the lower half first.
__device__ __forceinline__ float2 f16x2_to_f32(unsigned bits) {
    float2 y;
    asm("{.reg .b16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high;}"
        : "=f"(y.x), "=f"(y.y)
        : "r"(bits));
    return y;
}

__device__ __forceinline__ float2 bf16x2_to_f32(unsigned bits) {
    return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
}

// The nearest IEEE binary16, ties to even; infinite beyond its range.
__device__ __forceinline__ unsigned short f32_to_f16(float x) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}

// The nearest bfloat16, ties to even.
__device__ __forceinline__ unsigned short f32_to_bf16(float x) {
    unsigned short bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}

// Two of them in one word, `low` in the lower half.
__device__ __forceinline__ unsigned f32_to_f16x2(float low, float high) {
    unsigned bits;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}

__device__ __forceinline__ unsigned f32_to_bf16x2(float low, float high) {
    unsigned bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}

}  // namespace ptx
