// Room: PTX wrappers. Shared memory by its addresses (ptx/copy.cuh).
#pragma once

namespace ptx {

// Adds 1 to one of the words from this address on, if there are more
// of them than `index`; in any order.
__device__ __forceinline__ void shared_increment(unsigned address, unsigned index,
                                                 unsigned number) {
    asm volatile(
        "{\n\t.reg .pred p;\n\t.reg .u32 a;\n\tsetp.lt.u32 p, %1, %2;\n\t"
        "mad.lo.u32 a, %1, 4, %0;\n\t@p red.shared.add.u32 [a], 1;\n\t}"
        :
        : "r"(address), "r"(index), "r"(number)
        : "memory");
}

__device__ __forceinline__ float shared_load(unsigned address) {
    float value;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
    return value;
}

}  // namespace ptx
