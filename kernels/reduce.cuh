// Sums over a block in a fixed order: deterministic, whatever the schedule.
#pragma once

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

}  // namespace reduce
