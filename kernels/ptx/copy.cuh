// Room: PTX wrappers. Addresses of memory; asynchronous copies from global to shared memory, past the
// registers.
#pragma once

namespace ptx {

// The address that shared-memory instructions take.
__device__ __forceinline__ unsigned shared_address(const void* pointer) {
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// The address that instructions on global memory take.
__device__ __forceinline__ unsigned long long global_address(const void* pointer) {
    return __cvta_generic_to_global(pointer);
}

// And back.
template <class Value>
__device__ __forceinline__ Value* of_global(unsigned long long address) {
    return static_cast<Value*>(__cvta_global_to_generic(address));
}

// The address of one of the elements of SIZE bytes from an address on.
template <int SIZE>
__device__ __forceinline__ unsigned long long element_address(unsigned long long from,
                                                              unsigned index) {
    unsigned long long address;
    asm("mad.wide.u32 %0, %1, %2, %3;" : "=l"(address) : "r"(index), "n"(SIZE), "l"(from));
    return address;
}

// Of elements of any size.
__device__ __forceinline__ unsigned long long element_address(unsigned long long from,
                                                              unsigned index, unsigned size) {
    unsigned long long address;
    asm("mad.wide.u32 %0, %1, %2, %3;" : "=l"(address) : "r"(index), "r"(size), "l"(from));
    return address;
}

// Starts a copy of 16 bytes, both sides aligned to 16, from global to shared memory, OFFSET bytes behind
// an address.
template <int OFFSET>
__device__ __forceinline__ void copy16(unsigned to, unsigned long long from) {
    asm volatile("cp.async.cg.shared.global [%0 + %2], [%1], 16;"
                 :
                 : "r"(to), "l"(from), "n"(OFFSET)
                 : "memory");
}

// The first `valid` bytes are read, the rest are zeros.
template <int OFFSET>
__device__ __forceinline__ void copy16(unsigned to, unsigned long long from, unsigned valid) {
    asm volatile("cp.async.cg.shared.global [%0 + %3], [%1], 16, %2;"
                 :
                 : "r"(to), "l"(from), "r"(valid), "n"(OFFSET)
                 : "memory");
}

// Closes a group of copies; a group may be empty.
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most PENDING of this thread's groups, the latest ones, are still on their way.
template <int PENDING>
__device__ __forceinline__ void copy_wait() {
    asm volatile("cp.async.wait_group %0;" : : "n"(PENDING) : "memory");
}

}  // namespace ptx
