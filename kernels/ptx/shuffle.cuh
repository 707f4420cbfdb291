// Room: PTX wrappers. Exchange between the lanes of a warp; all 32 lanes take part, or those named.
#pragma once

namespace ptx {

// The value of the lane whose number differs in the bits of `mask`.
__device__ __forceinline__ unsigned shuffle_xor(unsigned value, int mask) {
    unsigned other;
    asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, 0xffffffff;"
                 : "=r"(other)
                 : "r"(value), "r"(mask));
    return other;
}

__device__ __forceinline__ unsigned shuffle_xor(unsigned value, int mask, unsigned lanes) {
    unsigned other;
    asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, %3;"
                 : "=r"(other)
                 : "r"(value), "r"(mask), "r"(lanes));
    return other;
}

__device__ __forceinline__ float shuffle_xor(float value, int mask) {
    return __uint_as_float(shuffle_xor(__float_as_uint(value), mask));
}

__device__ __forceinline__ float shuffle_xor(float value, int mask, unsigned lanes) {
    return __uint_as_float(shuffle_xor(__float_as_uint(value), mask, lanes));
}

// The value of the lane `by` below; the caller's own where there is none.
__device__ __forceinline__ unsigned shuffle_up(unsigned value, int by) {
    unsigned other;
    asm volatile("shfl.sync.up.b32 %0, %1, %2, 0, 0xffffffff;"
                 : "=r"(other)
                 : "r"(value), "r"(by));
    return other;
}

__device__ __forceinline__ unsigned long long shuffle_up(unsigned long long value, int by) {
    const unsigned low = shuffle_up(static_cast<unsigned>(value), by);
    const unsigned high = shuffle_up(static_cast<unsigned>(value >> 32), by);
    return static_cast<unsigned long long>(high) << 32 | low;
}

}  // namespace ptx
