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

__device__ __forceinline__ float shuffle_xor(float value, int mask) {
    return __uint_as_float(shuffle_xor(__float_as_uint(value), mask));
}

// The same of MASK, among those lanes; all lanes are named as such, so that they cost nothing.
template <int MASK, bool ALL>
__device__ __forceinline__ unsigned shuffle_xor(unsigned value, unsigned lanes) {
    unsigned other;
    if (ALL)
        asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, 0xffffffff;"
                     : "=r"(other)
                     : "r"(value), "n"(MASK));
    else
        asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, %3;"
                     : "=r"(other)
                     : "r"(value), "n"(MASK), "r"(lanes));
    return other;
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

// The value of lane `from`.
__device__ __forceinline__ unsigned shuffle(unsigned value, unsigned from) {
    unsigned other;
    asm volatile("shfl.sync.idx.b32 %0, %1, %2, 0x1f, 0xffffffff;"
                 : "=r"(other)
                 : "r"(value), "r"(from));
    return other;
}

__device__ __forceinline__ unsigned long long shuffle(unsigned long long value, unsigned from) {
    const unsigned low = shuffle(static_cast<unsigned>(value), from);
    const unsigned high = shuffle(static_cast<unsigned>(value >> 32), from);
    return static_cast<unsigned long long>(high) << 32 | low;
}

__device__ __forceinline__ float shuffle(float value, unsigned from) {
    return __uint_as_float(shuffle(__float_as_uint(value), from));
}

// The value of lane `from` of those side by side, WIDTH of them, a power of two.
template <int WIDTH, bool ALL>
__device__ __forceinline__ unsigned shuffle(unsigned value, unsigned from, unsigned lanes) {
    unsigned other;
    constexpr int AMONG = (32 - WIDTH) << 8 | 31;
    if (ALL)
        asm volatile("shfl.sync.idx.b32 %0, %1, %2, %3, 0xffffffff;"
                     : "=r"(other)
                     : "r"(value), "r"(from), "n"(AMONG));
    else
        asm volatile("shfl.sync.idx.b32 %0, %1, %2, %3, %4;"
                     : "=r"(other)
                     : "r"(value), "r"(from), "n"(AMONG), "r"(lanes));
    return other;
}

// The same of lane FROM, among all.
template <int WIDTH, int FROM>
__device__ __forceinline__ float shuffle(float value) {
    float other;
    asm volatile("shfl.sync.idx.b32 %0, %1, %2, %3, 0xffffffff;"
                 : "=f"(other)
                 : "f"(value), "n"(FROM), "n"((32 - WIDTH) << 8 | 31));
    return other;
}

// The value, and that of the lane REACH before this one added, if there is one among WIDTH side by side.
template <int REACH, int WIDTH, bool ALL>
__device__ __forceinline__ unsigned add_from_below(unsigned value, unsigned lanes) {
    constexpr int AMONG = (32 - WIDTH) << 8;
    if (ALL)
        asm volatile(
            "{\n\t.reg .pred p;\n\t.reg .u32 r;\n\tshfl.sync.up.b32 r|p, %0, %1, %2, 0xffffffff;"
            "\n\t@p add.u32 %0, %0, r;\n\t}"
            : "+r"(value)
            : "n"(REACH), "n"(AMONG));
    else
        asm volatile(
            "{\n\t.reg .pred p;\n\t.reg .u32 r;\n\tshfl.sync.up.b32 r|p, %0, %1, %2, %3;\n\t"
            "@p add.u32 %0, %0, r;\n\t}"
            : "+r"(value)
            : "n"(REACH), "n"(AMONG), "r"(lanes));
    return value;
}

// The sum over the lanes of the warp up to this one.
__device__ __forceinline__ unsigned warp_sum_up_to(unsigned value) {
    value = add_from_below<1, 32, true>(value, 0);
    value = add_from_below<2, 32, true>(value, 0);
    value = add_from_below<4, 32, true>(value, 0);
    value = add_from_below<8, 32, true>(value, 0);
    return add_from_below<16, 32, true>(value, 0);
}

}  // namespace ptx
