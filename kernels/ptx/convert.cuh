// Room: PTX wrappers. 16-bit floating point to f32; exact.
#pragma once

namespace ptx {

// IEEE binary16 from its bits.
__device__ __forceinline__ float f16_to_f32(unsigned short bits) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(bits));
    return y;
}

// bfloat16 from its bits: the upper half of an f32.
__device__ __forceinline__ float bf16_to_f32(unsigned short bits) {
    return __uint_as_float(static_cast<unsigned>(bits) << 16);
}

}  // namespace ptx
