// Room: PTX wrappers. Shared memory by its addresses (ptx/copy.cuh).
#pragma once

namespace ptx {

// Adds 1 to one of the words from this address on, if there are more of them than `index`; in any order.
__device__ __forceinline__ void shared_increment(unsigned address, unsigned index,
                                                 unsigned number) {
    asm volatile(
        "{\n\t.reg .pred p;\n\t.reg .u32 a;\n\tsetp.lt.u32 p, %1, %2;\n\t"
        "mad.lo.u32 a, %1, 4, %0;\n\t@p red.shared.add.u32 [a], 1;\n\t}"
        :
        : "r"(address), "r"(index), "r"(number)
        : "memory");
}

// Adds 1 to one of LAST + 1 words, in any order: the first for values from `high` on, the last for those
// down to `low` and for NaN, `scale` being the inverse of what lies between. `words`: as fraction_words
// gives it. By bits of numbers from 2^23 on, which are whole.
template <int LAST>
__device__ __forceinline__ void shared_increment_fraction(unsigned words, float value, float low,
                                                          float scale) {
    asm volatile(
        "{\n\t.reg .b32 t;\n\tsub.f32 t, %1, %2;\n\tmul.sat.f32 t, t, %3;\n\t"
        "fma.rn.f32 t, t, %4, 0f4B000000;\n\tmad.lo.u32 t, t, -4, %0;\n\t"
        "red.shared.add.u32 [t], 1;\n\t}"
        :
        : "r"(words), "f"(value), "f"(low), "f"(scale), "f"(static_cast<float>(LAST))
        : "memory");
}

template <int LAST>
__device__ __forceinline__ unsigned fraction_words(unsigned address) {
    return address + LAST * 4 + 0x4b000000u * 4;
}

__device__ __forceinline__ float shared_load(unsigned address) {
    float value;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
    return value;
}

}  // namespace ptx
