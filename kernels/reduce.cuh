// Sums over a block in a fixed order: deterministic, whatever the schedule.
#pragma once

#include "ptx/shuffle.cuh"

namespace reduce {

// The combination of all threads' values, in a fixed tree: thread t with t + size/2, and so on.
// Right in thread 0. THREADS is a power of two; shared memory may be reused afterwards.
template <int THREADS, class Value, class Combine>
__device__ __forceinline__ Value block(Value value, Value (&shared)[THREADS], Combine combine) {
    shared[threadIdx.x] = value;
    __syncthreads();
#pragma unroll 1
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half)
            shared[threadIdx.x] = combine(shared[threadIdx.x], shared[threadIdx.x + half]);
        __syncthreads();
    }
    const Value result = shared[0];
    __syncthreads();
    return result;
}

// The sum of the values of the first `size` threads up to this one's own, whole warps; of the others
// nothing. All threads of the block. Stays in `shared`, where everyone may read it.
template <int SIZE, class Value>
__device__ __forceinline__ Value scan(Value value, Value (&shared)[SIZE], unsigned size = SIZE) {
    static_assert(SIZE % 32 == 0, "whole warps");
    const unsigned me = threadIdx.x, lane = me % 32;
    if (me < size) {
#pragma unroll
        for (int reach = 1; reach < 32; reach *= 2) {
            const Value before = ptx::shuffle_up(value, reach);
            if (lane >= reach) value += before;
        }
        shared[me] = value;
    }
    __syncthreads();
    // The last of a warp has all of it.
    for (unsigned last = 31; me < size && last < me / 32 * 32; last += 32) value += shared[last];
    __syncthreads();
    if (me < size) shared[me] = value;
    __syncthreads();
    return me < size ? value : 0;
}

}  // namespace reduce
