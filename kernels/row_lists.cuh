// The pairs of one row, as words (epilogue/select.cuh): their selection and their order, by LANES
// threads side by side in a warp. Eight rows a warp: most of what is done for a row is done once in
// each of its threads, and a row is short.
#pragma once

#include "epilogue/select.cuh"
#include "ptx/copy.cuh"
#include "ptx/shared.cuh"
#include "ptx/shuffle.cuh"
#include "ptx/vote.cuh"

namespace rows {

using epilogue::Word;

constexpr unsigned LANES = 4;

// Bits up to the highest that is set.
__device__ __forceinline__ unsigned width(unsigned value) { return 32 - __clz(value); }

// The threads of a row. TOGETHER: every exchange among them is one of all rows of the warp, which is one
// instruction then, not one for each row; all rows of the warp go the same way.
template <bool TOGETHER>
struct Group {
    unsigned lane = threadIdx.x % LANES;
    unsigned lanes = ((1u << LANES) - 1) << threadIdx.x % 32 / LANES * LANES;  // of the warp's, a mask

    static_assert(LANES == 4, "two steps");

    template <class Value, class Choose>
    __device__ __forceinline__ Value one(Value value, Choose choose) const {
        value = choose(value, static_cast<Value>(ptx::shuffle_xor<1, TOGETHER>(value, lanes)));
        return choose(value, static_cast<Value>(ptx::shuffle_xor<2, TOGETHER>(value, lanes)));
    }
    __device__ __forceinline__ int least(int value) const {
        return one(value, [](int a, int b) { return min(a, b); });
    }
    __device__ __forceinline__ int most(int value) const {
        return one(value, [](int a, int b) { return max(a, b); });
    }
    __device__ __forceinline__ unsigned most(unsigned value) const {
        return one(value, [](unsigned a, unsigned b) { return max(a, b); });
    }
    __device__ __forceinline__ float least(float value) const {
        return __uint_as_float(one(__float_as_uint(value), [](unsigned a, unsigned b) {
            return __float_as_uint(fminf(__uint_as_float(a), __uint_as_float(b)));
        }));
    }
    __device__ __forceinline__ float most(float value) const { return -least(-value); }
    __device__ __forceinline__ Word least(Word value) const { return ~most(~value); }
    __device__ __forceinline__ Word most(Word value) const {
        const int high = most(epilogue::key_of(value));
        return epilogue::word_of(
            high, most(epilogue::key_of(value) == high ? static_cast<unsigned>(value) : 0));
    }
    __device__ __forceinline__ unsigned long long sum(unsigned long long value) const {
        const auto half = [](unsigned long long all, int of) {
            return static_cast<unsigned>(all >> of * 32);
        };
        const auto both = [](unsigned low, unsigned high) {
            return static_cast<unsigned long long>(high) << 32 | low;
        };
        value += both(ptx::shuffle_xor<1, TOGETHER>(half(value, 0), lanes),
                      ptx::shuffle_xor<1, TOGETHER>(half(value, 1), lanes));
        return value + both(ptx::shuffle_xor<2, TOGETHER>(half(value, 0), lanes),
                            ptx::shuffle_xor<2, TOGETHER>(half(value, 1), lanes));
    }
    // The sum over the lanes up to this one.
    __device__ __forceinline__ unsigned up_to(unsigned value) const {
        value = ptx::add_from_below<1, LANES, TOGETHER>(value, lanes);
        return ptx::add_from_below<2, LANES, TOGETHER>(value, lanes);
    }
    // The value of a lane of the row, of which the last bits count.
    __device__ __forceinline__ unsigned of(unsigned value, unsigned lane) const {
        return ptx::shuffle<LANES, TOGETHER>(value, lane, lanes);
    }
    // The lanes of the row that say yes, as a mask of the warp's.
    __device__ __forceinline__ unsigned ballot(bool yes) const {
        return ptx::ballot(yes, TOGETHER ? 0xffffffff : lanes) & lanes;
    }
    // Whether one of all that are waited for says so.
    __device__ __forceinline__ bool any(bool yes) const {
        return ptx::any(yes, TOGETHER ? 0xffffffff : lanes);
    }
    __device__ __forceinline__ void sync() const { __syncwarp(TOGETHER ? 0xffffffff : lanes); }
};

// Bins of a row, in shared memory: what a selection counts into.
constexpr unsigned BIN_BITS = 7;
constexpr unsigned BINS = 1 << BIN_BITS;
constexpr unsigned LANE_QUADS = BINS / LANES / 4;  // fours of a lane, side by side
static_assert(LANE_QUADS % LANES == 0, "lanes take turns among them");
// Of as many rows side by side: each begins four banks further.
constexpr unsigned BINS_APART = BINS + 4;

// Bins of equal width, of which the first holds the largest keys up to `high`.
struct Bins {
    unsigned counts;  // their address
    unsigned high;
    unsigned shift;
    unsigned number;

    // Keys above `high`, which there are once bins have been cut into bins, wrap around to bins
    // that there are not: they are less than 2^32 minus a bin of before, which was all bins of now.
    __device__ __forceinline__ void add(unsigned key) const {
        ptx::shared_increment(counts, (high - key) >> shift, number);
    }
};

// Sets a row's bins to 0.
template <class Group>
__device__ __forceinline__ void clear_bins(const Group& group, unsigned* counters) {
    // Lanes are at different banks.
    uint4* const own = reinterpret_cast<uint4*>(counters) + LANE_QUADS * group.lane;
    group.sync();
#pragma unroll
    for (unsigned i = 0; i < LANE_QUADS; ++i)
        own[(i + group.lane * (LANE_QUADS / LANES)) % LANE_QUADS] = make_uint4(0, 0, 0, 0);
    group.sync();
}

// The bin that the last one wanted is in.
struct Bin {
    unsigned number;
    unsigned above;  // before it
    unsigned equal;  // in it
    bool exists;     // or fewer are in all bins: so many as `above` says
};

// The bin that the `wanted`-th is in, `above` being before all bins.
template <class Group>
__device__ __forceinline__ Bin find_bin(const Group& group, const unsigned* counters,
                                        unsigned above, unsigned wanted) {
    const uint4* const quads = reinterpret_cast<const uint4*>(counters);
    group.sync();
    unsigned sum = 0;
#pragma unroll
    for (unsigned i = 0; i < LANE_QUADS; ++i) {
        const uint4 four = quads[LANE_QUADS * group.lane +
                                 (i + group.lane * (LANE_QUADS / LANES)) % LANE_QUADS];
        sum += four.x + four.y + four.z + four.w;
    }
    const unsigned end = above + group.up_to(sum);
    // The first lane whose bins reach it, or the last; its bins are dealt to all lanes.
    const auto first_of = [&](unsigned lanes) { return lanes ? __ffs(lanes) - 1 : LANES - 1; };
    constexpr unsigned EACH = LANE_QUADS / LANES;
    const unsigned lanes = group.ballot(end >= wanted);
    unsigned lane = first_of(lanes);
    const unsigned first = (lane % LANES * LANES + group.lane) * EACH;
    unsigned counts[EACH][4], part = 0;
#pragma unroll
    for (unsigned i = 0; i < EACH; ++i) {
        const uint4 four = quads[first + i];
        counts[i][0] = four.x, counts[i][1] = four.y, counts[i][2] = four.z, counts[i][3] = four.w;
        part += four.x + four.y + four.z + four.w;
    }
    unsigned until = group.of(end - sum, lane) + group.up_to(part);
    lane = first_of(group.ballot(until >= wanted));
    until -= part;
    above = until;
    unsigned bin = first * 4;
#pragma unroll
    for (unsigned i = 0; i < EACH * 4; ++i) {
        until += counts[i / 4][i % 4];
        if (until < wanted) above = until, ++bin;
    }
    bin = group.of(bin, lane) % BINS;
    return Bin{bin, group.of(above, lane), counters[bin], lanes != 0};
}

// Where the keys wanted end.
struct Bound {
    unsigned key;    // the least that is taken
    unsigned last;   // the largest of its bin
    unsigned found;  // keys that are not below it
    unsigned equal;  // how many of them are in its bin
};

// Of a row that is `open`, the bound that at least `wanted` of its keys are not below, and
// enough(found, equal) says that this will do; all of them where there are fewer, and `equal` is 0. Keys
// are from `low` to `high`, signed or not, and each(bins) adds those of the lane.
//
// The range is cut into bins, and so is the bin that holds the last key wanted, until few enough are
// in it: mostly at once, since the largest lie thinly. 2^32 keys come to their end after six turns.
template <class Group, class Each, class Enough>
__device__ __forceinline__ Bound lower_bound(const Group& group, unsigned* counters, bool open,
                                             unsigned low, unsigned high, unsigned wanted,
                                             Enough enough, Each each) {
    const unsigned bits = width(high - low);
    Bins bins{ptx::shared_address(counters), high, bits > BIN_BITS ? bits - BIN_BITS : 0, BINS};
    Bound bound{low, high, 0, 0};
#pragma unroll 1
    do {
        clear_bins(group, counters);
        if (open) each(bins);
        // `found` so far: keys that are above bins.high.
        const Bin bin = find_bin(group, counters, bound.found, wanted);
        if (!open) continue;
        if (!bin.exists) {
            bound = Bound{low, high, bin.above, 0};
            open = false;
            continue;
        }
        bins.high -= bin.number << bins.shift;
        bound.key = bins.high - min(bins.high - low, (1u << bins.shift) - 1);
        bound.last = bins.high;
        bound.equal = bin.equal;
        open = bins.shift != 0 && !enough(bin.above + bin.equal, bin.equal);
        bound.found = open ? bin.above : bin.above + bin.equal;
        const unsigned bits = min(bins.shift, BIN_BITS);
        bins.shift -= bits;
        bins.number = 1u << bits;
    } while (group.any(open));
    return bound;
}

// Calls body(word) for the words of the lane. Four are on their way at a time.
template <class Group, class Some, class Body>
__device__ __forceinline__ void each_word(const Group& group, const Some* words, unsigned count,
                                          Body body) {
    const Some* word = words + group.lane;
    const Some* const end = words + count;
    if (count > 3 * LANES) {
#pragma unroll 1
        for (const Some* const last = end - 3 * LANES; word < last; word += 4 * LANES) {
            const Some some[4] = {word[0], word[LANES], word[2 * LANES], word[3 * LANES]};
#pragma unroll
            for (unsigned i = 0; i < 4; ++i) body(some[i]);
        }
    }
#pragma unroll 1
    for (; word < end; word += LANES) body(*word);
}

// A word by its halves.
struct alignas(8) Half {
    unsigned low;  // ~column
    int key;

    __device__ __forceinline__ Word word() const { return epilogue::word_of(key, low); }
};

__device__ __forceinline__ Half half_of(Word word) {
    return Half{static_cast<unsigned>(word), epilogue::key_of(word)};
}

template <class Group, class Body>
__device__ __forceinline__ void each_half(const Group& group, const Word* words, unsigned count,
                                          Body body) {
    each_word(group, reinterpret_cast<const Half*>(words), count, body);
}

// The largest key of the lane's words; the least there is where there are none.
template <class Group>
__device__ __forceinline__ int largest(const Group& group, const Word* words, unsigned count) {
    int most = epilogue::LEAST_KEY;
    each_half(group, words, count, [&](Half half) { most = max(most, half.key); });
    return most;
}

// A word that just `left` of those with this key are not below.
template <class Group>
__device__ __forceinline__ Word kth_of_key(const Group& group, unsigned* counters,
                                           const Word* words, unsigned count, int key,
                                           unsigned left) {
    const auto just = [&](unsigned found, unsigned) { return found == left; };
    const Bound columns = lower_bound(group, counters, true, 0, ~0u, left, just, [&](const Bins& bins) {
        each_half(group, words, count, [&](Half half) {
            if (half.key == key) bins.add(half.low);
        });
    });
    return epilogue::word_of(key, columns.key);
}

// A word that just `k` of the row's `count` are not below, 0 < k < count; no key is below `low`, none
// above `most`. No two words are alike.
template <class Group>
__device__ __forceinline__ Word kth(const Group& group, unsigned* counters, const Word* words,
                                    unsigned count, int low, int most, unsigned k) {
    const auto just = [&](unsigned found, unsigned) { return found == k; };
    const Bound keys = lower_bound(group, counters, true, low, most, k, just, [&](const Bins& bins) {
        each_half(group, words, count, [&](Half half) { bins.add(half.key); });
    });
    const int key = static_cast<int>(keys.key);
    if (keys.found == k) return epilogue::word_of(key, 0);
    // Some of those with the last key are too many.
    return kth_of_key(group, counters, words, count, key, k - (keys.found - keys.equal));
}

// Moves the words that are not below `least` to the front; gives the least of them.
template <class Group>
__device__ __forceinline__ Word keep(const Group& group, Word* words, unsigned count, Word least) {
    const unsigned before = group.lanes & ((1u << threadIdx.x % 32) - 1);
    unsigned kept = 0;
    Word last = epilogue::MOST_WORD;
#pragma unroll 1
    for (unsigned first = 0; first < count; first += LANES) {
        const unsigned i = first + group.lane;
        const Word word = i < count ? words[i] : 0;
        const bool keeps = i < count && word >= least;
        // All lanes have read before any writes; they write no farther than they have read.
        const unsigned votes = group.ballot(keeps);
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
