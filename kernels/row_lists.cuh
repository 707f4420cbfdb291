// The pairs of one row, as words (epilogue/select.cuh): their selection and their order, by LANES
// threads side by side in a warp. Four rows a warp: most of what is done for a row is done once in
// each of its threads, and a row is short.
#pragma once

#include "epilogue/select.cuh"
#include "ptx/copy.cuh"
#include "ptx/math.cuh"
#include "ptx/shared.cuh"
#include "ptx/shuffle.cuh"
#include "ptx/vote.cuh"

namespace rows {

using epilogue::Word;

constexpr unsigned LANES = 8;

// Bits up to the highest that is set.
__device__ __forceinline__ unsigned width(unsigned value) { return 32 - __clz(value); }

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
    __device__ __forceinline__ Word least(Word value) const { return ~most(~value); }
    __device__ __forceinline__ Word most(Word value) const {
        const unsigned high = most(static_cast<unsigned>(value >> 32));
        const bool mine = static_cast<unsigned>(value >> 32) == high;
        const unsigned low = most(mine ? static_cast<unsigned>(value) : 0);
        return static_cast<Word>(high) << 32 | low;
    }
    __device__ __forceinline__ unsigned long long sum(unsigned long long value) const {
#pragma unroll
        for (unsigned mask = 1; mask < LANES; mask *= 2) {
            const unsigned low = ptx::shuffle_xor(static_cast<unsigned>(value), mask, lanes);
            const unsigned high = ptx::shuffle_xor(static_cast<unsigned>(value >> 32), mask, lanes);
            value += static_cast<unsigned long long>(high) << 32 | low;
        }
        return value;
    }
    // The sum over the lanes up to this one.
    __device__ __forceinline__ unsigned up_to(unsigned value) const {
#pragma unroll
        for (unsigned reach = 1; reach < LANES; reach *= 2)
            value = ptx::add_from_below(value, reach, LANES, lanes);
        return value;
    }
    __device__ __forceinline__ void sync() const { __syncwarp(lanes); }
};

// Bins of a row, in shared memory: what a selection counts into.
constexpr unsigned BIN_BITS = 6;
constexpr unsigned BINS = 1 << BIN_BITS;
static_assert(BINS / LANES == 8, "two times four bins a lane");

// Bins of equal width, of which the first holds the largest keys up to `high`.
struct Bins {
    unsigned counts;  // their address
    unsigned high;
    unsigned shift;
    unsigned number;

    // Keys above `high`, which there are once bins have been cut into bins, wrap around to bins
    // that there are not: they are less than 2^32 minus a bin of before, which was all bins of now.
    __device__ __forceinline__ void add(unsigned key) const {
        const unsigned bin = (high - key) >> shift;
        if (bin < number) ptx::shared_increment(counts, bin);
    }
};

// Where the keys wanted end.
struct Bound {
    unsigned key;    // the least that is taken
    unsigned last;   // the largest of its bin
    unsigned found;  // keys that are not below it
    unsigned equal;  // how many of them are in its bin
};

// The bound that at least `wanted` of a row's keys are not below, and enough(found, equal) says that
// this will do; all of them where there are fewer. Keys are from `low` to `high`, and each(bins) adds
// those of the lane; or where `total` is not 0, so many keys are from `low` on. If then too many of
// them are above `high`, `equal` is 0.
//
// The range is cut into bins, and so is the bin that holds the last key wanted, until few enough are
// in it: mostly at once, since the largest lie thinly. 2^32 keys come to their end after six turns.
template <class Each, class Enough>
__device__ __forceinline__ Bound lower_bound(const Group& group, unsigned* counters, unsigned low,
                                             unsigned high, unsigned total, unsigned wanted,
                                             Enough enough, Each each) {
    const unsigned bits = width(high - low);
    Bins bins{ptx::shared_address(counters), high, bits > BIN_BITS ? bits - BIN_BITS : 0, BINS};
    unsigned above = 0;  // keys that are above bins.high
    uint4* own = reinterpret_cast<uint4*>(counters) + 2 * group.lane;
#pragma unroll 1
    while (true) {
        own[0] = own[1] = make_uint4(0, 0, 0, 0);
        group.sync();
        each(bins);
        group.sync();
        const uint4 first = own[0], second = own[1];
        const unsigned counts[8] = {first.x,  first.y,  first.z,  first.w,
                                    second.x, second.y, second.z, second.w};
        unsigned sum = 0;
#pragma unroll
        for (unsigned i = 0; i < 8; ++i) sum += counts[i];
        unsigned end = group.up_to(sum);
        if (total != 0) {
            above = total - ptx::shuffle(end, LANES - 1, LANES, group.lanes);
            if (above >= wanted) return Bound{high, high, above, 0};
            total = 0;
        }
        end += above;
        const unsigned lanes = ptx::ballot(end >= wanted, group.lanes);
        if (lanes == 0)
            return Bound{low, high, ptx::shuffle(end, LANES - 1, LANES, group.lanes), 0};
        // The first lane whose bins reach the last one wanted; the bin, and what is above it.
        const unsigned lane = __ffs(lanes) - 1;
        unsigned bin = group.lane * 8, equal = 0;
        above = end - sum;
        if (threadIdx.x % 32 == lane) {
#pragma unroll
            for (unsigned i = 0; i < 8; ++i) {
                equal = counts[i];
                if (above + equal >= wanted) break;
                above += equal, ++bin;
            }
        }
        bin = ptx::shuffle(bin, lane, LANES, group.lanes);
        above = ptx::shuffle(above, lane, LANES, group.lanes);
        equal = ptx::shuffle(equal, lane, LANES, group.lanes);
        bins.high -= bin << bins.shift;
        if (enough(above + equal, equal) || bins.shift == 0)
            return Bound{bins.high - min(bins.high - low, (1u << bins.shift) - 1), bins.high,
                         above + equal, equal};
        const unsigned bits = min(bins.shift, BIN_BITS);
        bins.shift -= bits;
        bins.number = 1u << bits;
    }
}

// The largest key of a row's words; 0 where there are none.
__device__ __forceinline__ unsigned largest(const Group& group, const Word* words, unsigned count) {
    // Low half first: ~column, key.
    const uint2* halves = reinterpret_cast<const uint2*>(words);
    const uint2* const end = halves + count;
    unsigned most = 0;
    for (const uint2* word = halves + group.lane; word < end; word += LANES)
        most = max(most, word->y);
    return group.most(most);
}

// Words of one bin that are compared with one another, in a row so long that this spares more than it
// takes: they take the bins' place.
constexpr unsigned FEW = 16;
constexpr unsigned LONG = 256;
static_assert(sizeof(unsigned) * BINS >= sizeof(Word) * (FEW + 1), "with their number before them");

// A word that just `k` of the row's `count` are not below, 0 < k < count; no key is below `low`, none
// above `most`. No two words are alike. MAY_BE_LONG: whether rows of LONG words and more have a way of
// their own.
template <bool MAY_BE_LONG>
__device__ __forceinline__ Word kth(const Group& group, unsigned* counters, const Word* words,
                                    unsigned count, unsigned low, unsigned most, unsigned k) {
    // Low half first: ~column, key.
    const uint2* halves = reinterpret_cast<const uint2*>(words);
    const uint2* const end = halves + count;
    halves += group.lane;
    unsigned high = most;
    const bool is_long = MAY_BE_LONG && count >= LONG;
    if (is_long && most - low < 1u << 30) {
        // Where keys lie the more thinly the larger they are, the k-th is this part of the way up, or
        // less: the rest is left out at first.
        const float all = ptx::lg2(static_cast<float>(count));
        const float way = 2.5f * (all - ptx::lg2(static_cast<float>(k))) * ptx::rcp(all);
        if (way < 1.0f) high = low + static_cast<unsigned>(static_cast<float>(most - low) * way);
    }
    const unsigned few = is_long ? FEW : 0;
    const auto enough = [&](unsigned found, unsigned equal) { return found == k || equal <= few; };
    Bound keys;
#pragma unroll 1
    while (true) {
        const unsigned total = is_long ? count : 0;
        keys = lower_bound(group, counters, low, high, total, k, enough, [&](const Bins& bins) {
            for (const uint2* word = halves; word < end; word += LANES) bins.add(word->y);
        });
        if (keys.equal != 0) break;
        high = most;
    }
    const Word least = static_cast<Word>(keys.key) << 32;
    if (keys.found == k) return least;
    const unsigned left = k - (keys.found - keys.equal);
    if (MAY_BE_LONG && keys.equal <= few) {
        Word* some = reinterpret_cast<Word*>(counters) + 1;
        group.sync();
        if (group.lane == 0) counters[0] = 0;
        group.sync();
        for (const uint2* word = halves; word < end; word += LANES)
            if (word->y - keys.key <= keys.last - keys.key)
                some[atomicAdd(&counters[0], 1)] = *reinterpret_cast<const Word*>(word);
        group.sync();
        Word best = 0;
        for (unsigned i = group.lane; i < keys.equal; i += LANES) {
            unsigned place = 1;
            for (unsigned other = 0; other < keys.equal; ++other) place += some[other] > some[i];
            if (place == left) best = some[i];
        }
        group.sync();
        return group.most(best);
    }
    // Some of those with the last key are too many.
    const auto just = [&](unsigned found, unsigned) { return found == left; };
    const Bound columns =
        lower_bound(group, counters, 0, ~0u, 0, left, just, [&](const Bins& bins) {
            for (const uint2* word = halves; word < end; word += LANES)
                if (word->y == keys.key) bins.add(word->x);
        });
    return least | columns.key;
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
