// Room: PTX wrappers. Counters in shared memory.
#pragma once

namespace ptx {

// Adds 1 to one of the words from this address of shared memory on (ptx/copy.cuh); in any order.
__device__ __forceinline__ void shared_increment(unsigned address, unsigned index) {
    asm volatile(
        "{\n\t.reg .u32 a;\n\tmad.lo.u32 a, %1, 4, %0;\n\tred.shared.add.u32 [a], 1;\n\t}"
        :
        : "r"(address), "r"(index)
        : "memory");
}

}  // namespace ptx
