// Room: PTX wrappers. What is done for an element only where it is not below another number: by
// predicates instead of branches, since in a warp some lane does it almost always.
#pragma once

namespace ptx {

// How many of four numbers are not below `least`, by their bits, on top of `count`.
__device__ __forceinline__ void count_from(unsigned& count, const unsigned (&bits)[4], float least) {
    asm("{\n\t.reg .pred p;\n\t"
        "setp.ge.f32 p, %1, %5;\n\t@p add.u32 %0, %0, 1;\n\t"
        "setp.ge.f32 p, %2, %5;\n\t@p add.u32 %0, %0, 1;\n\t"
        "setp.ge.f32 p, %3, %5;\n\t@p add.u32 %0, %0, 1;\n\t"
        "setp.ge.f32 p, %4, %5;\n\t@p add.u32 %0, %0, 1;\n\t}"
        : "+r"(count)
        : "r"(bits[0]), "r"(bits[1]), "r"(bits[2]), "r"(bits[3]), "f"(least));
}

// Adds 1 where a number is above another.
__device__ __forceinline__ void count_above(unsigned& count, long long number, long long other) {
    asm("{\n\t.reg .pred p;\n\tsetp.gt.s64 p, %1, %2;\n\t@p add.u32 %0, %0, 1;\n\t}"
        : "+r"(count)
        : "l"(number), "l"(other));
}

// Stores those of four that are not below `least`, as pairs of `low` minus their number and their bits, one after the other from an address
// of global memory on.
__device__ __forceinline__ void append_from(unsigned long long to, const unsigned (&bits)[4],
                                            float least, unsigned low) {
    asm volatile(
        "{\n\t.reg .pred p;\n\t.reg .u32 l;\n\t"
        "setp.ge.f32 p, %1, %5;\n\t@p sub.u32 l, %6, 0;\n\t"
        "@p st.global.v2.b32 [%0], {l, %1};\n\t@p add.u64 %0, %0, 8;\n\t"
        "setp.ge.f32 p, %2, %5;\n\t@p sub.u32 l, %6, 1;\n\t"
        "@p st.global.v2.b32 [%0], {l, %2};\n\t@p add.u64 %0, %0, 8;\n\t"
        "setp.ge.f32 p, %3, %5;\n\t@p sub.u32 l, %6, 2;\n\t"
        "@p st.global.v2.b32 [%0], {l, %3};\n\t@p add.u64 %0, %0, 8;\n\t"
        "setp.ge.f32 p, %4, %5;\n\t@p sub.u32 l, %6, 3;\n\t"
        "@p st.global.v2.b32 [%0], {l, %4};\n\t@p add.u64 %0, %0, 8;\n\t}"
        : "+l"(to)
        : "r"(bits[0]), "r"(bits[1]), "r"(bits[2]), "r"(bits[3]), "f"(least), "r"(low)
        : "memory");
}

// Sets a bit for each of four that is not below `least`, from bit FIRST on.
template <int FIRST>
__device__ __forceinline__ void flags_from(unsigned& flags, const float (&values)[4], float least) {
    asm("{\n\t.reg .pred p;\n\t"
        "setp.ge.f32 p, %1, %5;\n\t@p or.b32 %0, %0, %6;\n\t"
        "setp.ge.f32 p, %2, %5;\n\t@p or.b32 %0, %0, %7;\n\t"
        "setp.ge.f32 p, %3, %5;\n\t@p or.b32 %0, %0, %8;\n\t"
        "setp.ge.f32 p, %4, %5;\n\t@p or.b32 %0, %0, %9;\n\t}"
        : "+r"(flags)
        : "f"(values[0]), "f"(values[1]), "f"(values[2]), "f"(values[3]), "f"(least),
          "n"(1u << FIRST), "n"(2u << FIRST), "n"(4u << FIRST), "n"(8u << FIRST));
}

// Takes the highest of some bits, which there is, and stores a pair: `low` minus its number, and what lies
// so many words behind an address of shared memory. At an address of global memory, which it moves on.
__device__ __forceinline__ void append_highest(unsigned& bits, unsigned from, unsigned low,
                                               unsigned long long& to) {
    asm volatile(
        "{\n\t.reg .u32 b, s, v;\n\tbfind.u32 b, %0;\n\tshl.b32 s, 1, b;\n\txor.b32 %0, %0, s;\n\t"
        "mad.lo.u32 s, b, 4, %2;\n\tld.shared.u32 v, [s];\n\tsub.u32 b, %3, b;\n\t"
        "st.global.v2.u32 [%1], {b, v};\n\tadd.u64 %1, %1, 8;\n\t}"
        : "+r"(bits), "+l"(to)
        : "r"(from), "r"(low)
        : "memory");
}

// The pair OFFSET bytes behind an address of global memory, if `left` is above NUMBER; else `none` is its
// second, and the first is anything.
template <int NUMBER, int OFFSET>
__device__ __forceinline__ void load_pair(unsigned long long from, int left, int none, unsigned& low,
                                          int& high) {
    asm volatile(
        "{\n\t.reg .pred p;\n\tsetp.gt.s32 p, %3, %5;\n\tmov.u32 %1, %4;\n\t"
        "@p ld.global.v2.u32 {%0, %1}, [%2 + %6];\n\t}"
        : "=&r"(low), "=&r"(high)
        : "l"(from), "r"(left), "r"(none), "n"(NUMBER), "n"(OFFSET)
        : "memory");
}

// Stores a pair, where the second is above `least`, as one of those from an address of global memory on:
// as many as a word of shared memory says, which counts it.
__device__ __forceinline__ void move_above(unsigned long long to, unsigned number, unsigned low, int high,
                                           int least) {
    asm volatile(
        "{\n\t.reg .pred p;\n\t.reg .u32 n;\n\t.reg .u64 a;\n\tsetp.gt.s32 p, %3, %4;\n\t"
        "@p atom.shared.add.u32 n, [%1], 1;\n\t@p mad.wide.u32 a, n, 8, %0;\n\t"
        "@p st.global.v2.u32 [a], {%2, %3};\n\t}"
        :
        : "l"(to), "r"(number), "r"(low), "r"(high), "r"(least)
        : "memory");
}

// The same; and those that are not above `last`, but not below `first`, among the few at an address of
// shared memory, which another word counts. If `left` is above NUMBER: others are not above `last`.
template <int NUMBER>
__device__ __forceinline__ void move_or_set_aside(unsigned long long to, unsigned number, unsigned few,
                                                  unsigned few_number, unsigned low, int high,
                                                  int last, int first, int left) {
    asm volatile(
        "{\n\t.reg .pred p, q;\n\t.reg .u32 n;\n\t.reg .u64 a;\n\tsetp.gt.s32 p|q, %5, %6;\n\t"
        "@p atom.shared.add.u32 n, [%1], 1;\n\t@p mad.wide.u32 a, n, 8, %0;\n\t"
        "@p st.global.v2.u32 [a], {%4, %5};\n\tsetp.ge.and.s32 q, %5, %7, q;\n\t"
        "setp.gt.and.s32 q, %8, %9, q;\n\t@q atom.shared.add.u32 n, [%3], 1;\n\t"
        "@q mad.lo.u32 n, n, 8, %2;\n\t@q st.shared.v2.u32 [n], {%4, %5};\n\t}"
        :
        : "l"(to), "r"(number), "r"(few), "r"(few_number), "r"(low), "r"(high), "r"(last),
          "r"(first), "r"(left), "n"(NUMBER)
        : "memory");
}

}  // namespace ptx
