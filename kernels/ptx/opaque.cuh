// Room: PTX wrappers. Hides from the compiler where a value comes from.
#pragma once

namespace ptx {

// The value itself. What is computed from it inside a loop is computed there, not before the loop
// and kept in registers that the loop needs.
__device__ __forceinline__ unsigned opaque(unsigned value) {
    asm volatile("" : "+r"(value));
    return value;
}

__device__ __forceinline__ float opaque(float value) {
    asm volatile("" : "+f"(value));
    return value;
}

template <class Value>
__device__ __forceinline__ const Value* opaque(const Value* pointer) {
    asm volatile("" : "+l"(pointer));
    return pointer;
}

}  // namespace ptx
