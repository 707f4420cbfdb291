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
    static_assert(SIZE % 32 == 0 && SIZE <= 1024, "whole warps, as many as a warp has lanes");
    const unsigned me = threadIdx.x, lane = me % 32;
    const auto sum_up_to = [&](Value value) {
#pragma unroll
        for (int reach = 1; reach < 32; reach *= 2) {
            const Value before = ptx::shuffle_up(value, reach);
            if (lane >= reach) value += before;
        }
        return value;
    };
    if (me < size) value = sum_up_to(value);
    if (me < size && lane == 31) shared[me / 32] = value;
    __syncthreads();
    if (me < size) {
        // Every warp adds up those before it.
        const Value before = sum_up_to(lane < me / 32 ? shared[lane] : 0);
        value += ptx::shuffle(before, 31);
    }
    __syncthreads();
    if (me < size) shared[me] = value;
    __syncthreads();
    return me < size ? value : 0;
}

}  // namespace reduce
