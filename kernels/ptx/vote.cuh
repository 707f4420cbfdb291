// Room: PTX wrappers. Votes of the lanes of a warp that are named.
#pragma once

namespace ptx {

// One bit for every lane of these that says yes.
__device__ __forceinline__ unsigned ballot(bool yes, unsigned lanes) {
    unsigned votes;
    asm volatile(
        "{\n\t.reg .pred p;\n\tsetp.ne.u32 p, %1, 0;\n\tvote.sync.ballot.b32 %0, p, %2;\n\t}"
        : "=r"(votes)
        : "r"(static_cast<unsigned>(yes)), "r"(lanes));
    return votes;
}

// Whether one of these lanes says yes.
__device__ __forceinline__ bool any(bool yes, unsigned lanes) {
    unsigned found;
    asm volatile(
        "{\n\t.reg .pred p, q;\n\tsetp.ne.u32 p, %1, 0;\n\tvote.sync.any.pred q, p, %2;\n\t"
        "selp.u32 %0, 1, 0, q;\n\t}"
        : "=r"(found)
        : "r"(static_cast<unsigned>(yes)), "r"(lanes));
    return found != 0;
}

}  // namespace ptx
