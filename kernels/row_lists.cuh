// The pairs of one row, as words (epilogue/select.cuh): their selection and their order, by LANES
// threads side by side in a warp. Four rows a warp: most of what is done for a row is done once in
// each of its threads, and a row is short.
#pragma once

#include "epilogue/select.cuh"
#include "ptx/math.cuh"
#include "ptx/shuffle.cuh"
#include "ptx/vote.cuh"

namespace rows {

using epilogue::Word;

constexpr unsigned LANES = 8;

// The threads of a row.
struct Group {
    unsigned lane;
    unsigned lanes;  // as a mask of the warp's

    __device__ __forceinline__ Group()
        : lane(threadIdx.x % LANES),
          lanes(((1u << LANES) - 1) << threadIdx.x % 32 / LANES * LANES) {}

    template <class Combine>
    __device__ __forceinline__ unsigned reduce(unsigned value, Combine combine) const {
#pragma unroll
        for (unsigned mask = 1; mask < LANES; mask *= 2)
            value = combine(value, ptx::shuffle_xor(value, mask, lanes));
        return value;
    }
    __device__ __forceinline__ unsigned sum(unsigned value) const {
        return reduce(value, [](unsigned a, unsigned b) { return a + b; });
    }
    __device__ __forceinline__ unsigned least(unsigned value) const {
        return reduce(value, [](unsigned a, unsigned b) { return min(a, b); });
    }
    __device__ __forceinline__ unsigned most(unsigned value) const {
        return reduce(value, [](unsigned a, unsigned b) { return max(a, b); });
    }
    __device__ __forceinline__ float least(float value) const {
#pragma unroll
        for (unsigned mask = 1; mask < LANES; mask *= 2)
            value = fminf(value, ptx::shuffle_xor(value, mask, lanes));
        return value;
    }
    __device__ __forceinline__ float most(float value) const {
#pragma unroll
        for (unsigned mask = 1; mask < LANES; mask *= 2)
            value = fmaxf(value, ptx::shuffle_xor(value, mask, lanes));
        return value;
    }
    __device__ __forceinline__ Word least(Word value) const {
        const unsigned high = least(static_cast<unsigned>(value >> 32));
        const bool mine = static_cast<unsigned>(value >> 32) == high;
        const unsigned low = least(mine ? static_cast<unsigned>(value) : 0xffffffffu);
        return static_cast<Word>(high) << 32 | low;
    }
    // The sum over the lanes before this one.
    __device__ __forceinline__ unsigned before(unsigned value) const {
        unsigned sum = 0;
#pragma unroll
        for (unsigned mask = 1; mask < LANES; mask *= 2) {
            const unsigned other = ptx::shuffle_xor(value, mask, lanes);
            if (lane & mask) sum += other;
            value += other;
        }
        return sum;
    }
    __device__ __forceinline__ void sync() const { __syncwarp(lanes); }
};

// Where `wanted` values may be found not to be below, if `many` are not below `low` and `few` are not
// below `high`: numbers of large values fall about exponentially.
__device__ __forceinline__ float interpolate(float low, float many, float high, float few,
                                             float wanted) {
    return high - (high - low) * (ptx::lg2(wanted / few) / ptx::lg2(many / few));
}

// Between two words that are not neighbours. Halves of the key always come to an end.
__device__ __forceinline__ Word between(Word low, unsigned many, Word high, unsigned few,
                                        unsigned wanted, unsigned turn) {
    using namespace epilogue;
    const unsigned first = key_of(low), last = key_of(high);
    if (last - first <= 1) return low + (high - low) / 2;
    const float a = similarity_of(first), b = similarity_of(last);
    float middle = 0.5f * a + 0.5f * b;
    if (turn < 3) middle = interpolate(a, many, b, few == 0 ? 0.5f : few, wanted);
    const unsigned key = turn < 16 ? order_key(middle) : 0;
    const bool inside = first < key && key < last;
    return static_cast<Word>(inside ? key : first + (last - first) / 2) << 32;
}

// A word that just `k` of the row's `count` are not below, 0 < k < count. No two words are alike;
// there is room for one more if they are odd in number.
__device__ __forceinline__ Word kth(const Group& group, Word* words, unsigned count, unsigned k) {
    if (count % 2 != 0 && group.lane == 0) words[count] = 0;
    group.sync();
    const ulonglong2* pairs = reinterpret_cast<const ulonglong2*>(words);
    const unsigned end = (count + 1) / 2;
    unsigned least = 0xffffffffu, most = 0;
#pragma unroll 1
    for (unsigned i = group.lane; i < end; i += LANES) {
        const ulonglong2 pair = pairs[i];
        const unsigned x = epilogue::key_of(pair.x), y = epilogue::key_of(pair.y);
        // Not the one more.
        least = min(least, min(x, i * 2 + 1 < count ? y : x));
        most = max(most, max(x, y));
    }
    // More than k are not below `low`, fewer are not below `high`.
    Word low = static_cast<Word>(group.least(least)) << 32;
    Word high = (static_cast<Word>(group.most(most)) + 1) << 32;
    unsigned many = count, few = 0;
#pragma unroll 1
    for (unsigned turn = 0;; ++turn) {
        const Word middle = between(low, many, high, few, k, turn);
        unsigned found = 0;
#pragma unroll 1
        for (unsigned i = group.lane; i < end; i += LANES) {
            const ulonglong2 pair = pairs[i];
            found += (pair.x >= middle) + (pair.y >= middle);
        }
        found = group.sum(found);
        if (found == k) return middle;
        if (found > k)
            low = middle, many = found;
        else
            high = middle, few = found;
    }
}

// Moves the words that are not below `least` to the front; gives the least of them.
__device__ __forceinline__ Word keep(const Group& group, Word* words, unsigned count, Word least) {
    const unsigned before = group.lanes & ((1u << threadIdx.x % 32) - 1);
    unsigned kept = 0;
    Word last = ~0ull;
#pragma unroll 1
    for (unsigned first = 0; first < count; first += LANES) {
        const unsigned i = first + group.lane;
        const Word word = i < count ? words[i] : 0;
        const bool keeps = i < count && word >= least;
        // All lanes have read before any writes; they write no farther than they have read.
        const unsigned votes = ptx::ballot(keeps, group.lanes);
        if (keeps) {
            words[kept + __popc(votes & before)] = word;
            last = min(last, word);
        }
        kept += __popc(votes);
    }
    group.sync();
    return group.least(last);
}

}  // namespace rows
