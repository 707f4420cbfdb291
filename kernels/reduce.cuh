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

// The sum of the values of the first SIZE threads up to this one's own; of the others nothing. All
// threads of the block. Stays in `shared`, where everyone may read it.
template <int SIZE, class Value>
__device__ __forceinline__ Value scan(Value value, Value (&shared)[SIZE]) {
    const unsigned me = threadIdx.x;
    if (me < SIZE) shared[me] = value;
    __syncthreads();
#pragma unroll 1
    for (unsigned reach = 1; reach < SIZE; reach *= 2) {
        const Value before = me < SIZE && me >= reach ? shared[me - reach] : 0;
        __syncthreads();
        if (me < SIZE) shared[me] += before;
        __syncthreads();
    }
    return me < SIZE ? shared[me] : 0;
}

}  // namespace reduce
