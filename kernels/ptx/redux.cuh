// Room: PTX wrappers. What the 32 lanes of a warp hold, in one instruction; all of them take part.
#pragma once

namespace ptx {

#define REDUX(NAME, OPERATION)                                          \
    __device__ __forceinline__ unsigned NAME(unsigned value) {          \
        unsigned all;                                                   \
        asm volatile("redux.sync." OPERATION " %0, %1, 0xffffffff;"     \
                     : "=r"(all)                                        \
                     : "r"(value));                                     \
        return all;                                                     \
    }
REDUX(warp_min, "min.u32")
REDUX(warp_max, "max.u32")
REDUX(warp_or, "or.b32")
REDUX(warp_sum, "add.u32")
#undef REDUX

}  // namespace ptx
