// Room: PTX wrappers. Approximate f32 arithmetic of the special function unit, by name: nothing is
// approximated behind anyone's back.
#pragma once

namespace ptx {

// 2^x. Relative error 2^-22; subnormal results are 0; 2^-inf = 0; NaN stays.
__device__ __forceinline__ float ex2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// log2 x. Absolute error 2^-22 near 1, relative elsewhere.
__device__ __forceinline__ float lg2(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 1/x, relative error 2^-23 (1 ulp); for x of ordinary size.
__device__ __forceinline__ float rcp(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

}  // namespace ptx
