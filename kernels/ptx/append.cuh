// Room: PTX wrappers. What is done for an element only where it is not below another number: by
// predicates instead of branches, since in a warp some lane does it almost always.
#pragma once

namespace ptx {

// How many of four are not below `least`, on top of `count`.
__device__ __forceinline__ void count_from(unsigned& count, const float (&values)[4], float least) {
    asm("{\n\t.reg .pred p;\n\t"
        "setp.ge.f32 p, %1, %5;\n\t@p add.u32 %0, %0, 1;\n\t"
        "setp.ge.f32 p, %2, %5;\n\t@p add.u32 %0, %0, 1;\n\t"
        "setp.ge.f32 p, %3, %5;\n\t@p add.u32 %0, %0, 1;\n\t"
        "setp.ge.f32 p, %4, %5;\n\t@p add.u32 %0, %0, 1;\n\t}"
        : "+r"(count)
        : "f"(values[0]), "f"(values[1]), "f"(values[2]), "f"(values[3]), "f"(least));
}

// A bit for each of four that is not below `least`.
__device__ __forceinline__ unsigned bits_from(const float (&values)[4], float least) {
    unsigned bits;
    asm("{\n\t.reg .pred p;\n\tmov.u32 %0, 0;\n\t"
        "setp.ge.f32 p, %1, %5;\n\t@p or.b32 %0, %0, 1;\n\t"
        "setp.ge.f32 p, %2, %5;\n\t@p or.b32 %0, %0, 2;\n\t"
        "setp.ge.f32 p, %3, %5;\n\t@p or.b32 %0, %0, 4;\n\t"
        "setp.ge.f32 p, %4, %5;\n\t@p or.b32 %0, %0, 8;\n\t}"
        : "=&r"(bits)
        : "f"(values[0]), "f"(values[1]), "f"(values[2]), "f"(values[3]), "f"(least));
    return bits;
}

// Stores those, as pairs of `low` minus their number and their bits, one after the other from an address
// of global memory on, which it returns moved on. The first of the four has the number FIRST.
template <int FIRST>
__device__ __forceinline__ unsigned long long append_from(unsigned long long to,
                                                          const float (&values)[4], float least,
                                                          unsigned low) {
    asm volatile(
        "{\n\t.reg .pred p;\n\t.reg .u32 l;\n\t"
        "setp.ge.f32 p, %1, %5;\n\t@p sub.u32 l, %6, %7;\n\t"
        "@p st.global.u32 [%0], l;\n\t@p st.global.f32 [%0 + 4], %1;\n\t@p add.u64 %0, %0, 8;\n\t"
        "setp.ge.f32 p, %2, %5;\n\t@p sub.u32 l, %6, %8;\n\t"
        "@p st.global.u32 [%0], l;\n\t@p st.global.f32 [%0 + 4], %2;\n\t@p add.u64 %0, %0, 8;\n\t"
        "setp.ge.f32 p, %3, %5;\n\t@p sub.u32 l, %6, %9;\n\t"
        "@p st.global.u32 [%0], l;\n\t@p st.global.f32 [%0 + 4], %3;\n\t@p add.u64 %0, %0, 8;\n\t"
        "setp.ge.f32 p, %4, %5;\n\t@p sub.u32 l, %6, %10;\n\t"
        "@p st.global.u32 [%0], l;\n\t@p st.global.f32 [%0 + 4], %4;\n\t@p add.u64 %0, %0, 8;\n\t}"
        : "+l"(to)
        : "f"(values[0]), "f"(values[1]), "f"(values[2]), "f"(values[3]), "f"(least), "r"(low),
          "n"(FIRST), "n"(FIRST + 1), "n"(FIRST + 2), "n"(FIRST + 3)
        : "memory");
    return to;
}

// The address that instructions on global memory take.
__device__ __forceinline__ unsigned long long global_address(const void* pointer) {
    return __cvta_generic_to_global(pointer);
}

}  // namespace ptx
