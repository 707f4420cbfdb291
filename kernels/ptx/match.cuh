// Room: PTX wrappers. Which lanes of a warp hold the same value; all 32 lanes take part.
#pragma once

namespace ptx {

// One bit for every lane that holds the caller's value, the caller's own among them.
__device__ __forceinline__ unsigned match_any(unsigned value) {
    unsigned lanes;
    asm volatile("match.any.sync.b32 %0, %1, 0xffffffff;" : "=r"(lanes) : "r"(value));
    return lanes;
}

}  // namespace ptx
