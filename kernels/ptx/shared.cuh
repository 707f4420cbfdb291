// Room: PTX wrappers. Counters in shared memory.
#pragma once

namespace ptx {

// Adds 1 to one of the words from this address of shared memory on (ptx/copy.cuh), if there are more
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

}  // namespace ptx
