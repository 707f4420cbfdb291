// Room: epilogues. The family's arithmetic on the device; src/loss/formula.rs is its twin, and the
// place where the formulas are derived.
//
// A group of negatives is kept as its largest similarity M and Z = sum of exp(s (S - M)), so that
// s (S - M) is exact where s S is huge. The margin of a positive is u = s (M - S) + ln Z; its term
// is softplus(u), its share delta = sigmoid(u). Inside tiles logarithms are to base 2: s and ln Z
// come multiplied by log2(e). Small kernels, which do O(n) work, compute in f64.
#pragma once

#include "epilogue/pairs.cuh"
#include "ptx/math.cuh"

namespace epilogue {

constexpr float LOG2E = 1.44269504088896340736f;
constexpr float LN2 = 0.693147180559945309417f;

// ln(1 + e) for 0 <= e <= 1, relative error below 3e-7: 2 artanh(e / (2 + e)).
__device__ __forceinline__ float log1p_unit(float e) {
    const float z = e * ptx::rcp(2.0f + e);
    const float q = z * z;
    float series = 1.0f / 15.0f;
    series = fmaf(series, q, 1.0f / 13.0f);
    series = fmaf(series, q, 1.0f / 11.0f);
    series = fmaf(series, q, 1.0f / 9.0f);
    series = fmaf(series, q, 1.0f / 7.0f);
    series = fmaf(series, q, 1.0f / 5.0f);
    series = fmaf(series, q, 1.0f / 3.0f);
    return 2.0f * fmaf(series * q, z, z);
}

// ln(1 + e) for e >= 0, relative error below 4e-7.
__device__ __forceinline__ float log1p(float e) {
    const float unit = log1p_unit(e < 1.0f ? e : 1.0f);
    // From 2 on the logarithm is exact enough as it is. NaN stays.
    return e <= 1.0f ? unit : LN2 * ptx::lg2(1.0f + e);
}

// What the positives of one row add up to.
struct Terms {
    float hardest;   // the smallest similarity of a positive; +inf where there is none
    float weight;    // sum of delta / delta_hardest
    float loss;      // sum of softplus(u)
    unsigned count;  // positives
};

__device__ __forceinline__ Terms no_terms() { return Terms{INFINITE, 0.0f, 0.0f, 0}; }

// u in units of ln 2, of a positive whose group has maximum M and log2 Z; scale2 = s log2(e).
__device__ __forceinline__ float log2_margin(float similarity, float maximum, float log2_sum,
                                             float scale2) {
    return fmaf(scale2, maximum - similarity, log2_sum);
}

// The positives of one row and group, added one after the other:
//   delta = 2^min(u, 0) / (1 + 2^-|u|)
// Where all are easy, u <= 0, margins are large and nearly cancel in ratios of shares. There they
// are counted from the hardest's: 2^u = 2^(s (S_hardest - S)) 2^u_hardest, whose first factor is
// exact.
struct Positives {
    float reference;  // the hardest's similarity, or M where not all are easy
    float offset;     // 0, or log2 Z
    float unit;       // what 2^-|u| takes to be 2^-|margin|: 2^u_hardest, or 1
    float hardest;    // 1 + 2^-|u| of the hardest
    float weight;     // sum of delta / unit
    float moment;     // sum of (reference - S) delta / unit
    float linear;     // sum of max(u, 0); NaN if a similarity is not finite
    float product;    // of 1 + 2^-|u|, less 1: the sum of their logarithms in one

    __device__ __forceinline__ Positives(float hardest_similarity, float maximum, float log2_sum,
                                         float scale2)
        : weight(0.0f), moment(0.0f), linear(0.0f), product(0.0f) {
        const float margin = log2_margin(hardest_similarity, maximum, log2_sum, scale2);
        const float below = ptx::ex2(-fabsf(margin));
        const bool easy = margin <= 0.0f;
        reference = easy ? hardest_similarity : maximum;
        offset = easy ? 0.0f : log2_sum;
        unit = easy ? below : 1.0f;
        hardest = 1.0f + below;
    }
    // Gives delta.
    __device__ __forceinline__ float add(float similarity, float scale2) {
        const float above = reference - similarity;
        const float u = fmaf(scale2, above, offset);
        const float power = ptx::ex2(-fabsf(u));
        const float below = unit * power;
        const float own = (u > 0.0f ? 1.0f : power) * ptx::rcp(1.0f + below);
        weight += own;
        moment = fmaf(above, own, moment);
        // What is not finite becomes NaN: nothing else may have seen it.
        linear = fmaf(similarity, 0.0f, linear + fmaxf(u, 0.0f));
        product = fmaf(product, below, product + below);
        return unit * own;
    }
    // Sum of softplus(u); of at most 60, for the product's sake.
    __device__ __forceinline__ float loss() const { return fmaf(LN2, linear, log1p(product)); }
    // Sum of (S - M) delta.
    __device__ __forceinline__ float moments(float maximum) const {
        // Without negatives M is -inf, and must not meet another infinity.
        const float from = maximum == -INFINITE ? 0.0f : maximum;
        return unit * fmaf(weight, reference - from, -moment);
    }
};

// Both together; their group has maximum M and log2 Z.
__device__ __forceinline__ Terms merge(const Terms& a, const Terms& b, float maximum,
                                       float log2_sum, float scale2) {
    if (a.hardest == INFINITE) return b;
    if (b.hardest == INFINITE) return a;
    const bool first = a.hardest <= b.hardest;
    const float hard = first ? a.hardest : b.hardest;
    // delta of the easier by that of the harder.
    Positives easy(hard, maximum, log2_sum, scale2);
    easy.add(first ? b.hardest : a.hardest, scale2);
    const float share = easy.weight * easy.hardest;
    const float hard_weight = first ? a.weight : b.weight;
    const float easy_weight = first ? b.weight : a.weight;
    return Terms{hard, fmaf(easy_weight, share, hard_weight), a.loss + b.loss, a.count + b.count};
}

// How many tiles of its band a row of tiles gives to each of so many splits, one after the other;
// those of a narrow band are not worth a block each, and the last splits have none.
constexpr unsigned SPLIT_TILES = 4;  // twin of passes::TERMS_SPLIT_TILES
__device__ __forceinline__ unsigned tiles_per_split(uint2 band, unsigned splits) {
    return max((band.y - band.x + splits - 1) / splits, SPLIT_TILES);
}

// Gradient coefficients of a row, from which every weight of the row follows:
//   negative:   negative * 2^(s2 (S - maximum))
//   positive:  -positive * 2^(offset + s2 (base - S)) / (1 + 2^u)    where u <= 0
//              -positive / (1 + 2^-u)                                where u > 0
// with s2 = s log2(e), u = s2 (maximum - S) + log2_sum. `base` is `maximum` and `offset` is
// `log2_sum`, or, where all positives are easy and weights are normalised, `base` is the hardest
// positive's similarity: `offset` is then of ordinary size where ln W is not.
// Twin of launch::Coefficients; arrays of one f32 a row.
struct Coefficients {
    float* maximum;
    float* negative;
    float* log2_sum;
    float* base;
    float* offset;
    float* positive;
};

__device__ __forceinline__ float negative_weight(float similarity, float maximum, float negative,
                                                 float scale2) {
    return negative * ptx::ex2(scale2 * (similarity - maximum));
}

// What the weights of one row's positives follow from.
struct PositiveCoefficients {
    float maximum;
    float log2_sum;
    float base;
    float offset;
    float positive;

    __device__ __forceinline__ PositiveCoefficients(const Coefficients& rows, unsigned row)
        : maximum(rows.maximum[row]), log2_sum(rows.log2_sum[row]), base(rows.base[row]),
          offset(rows.offset[row]), positive(rows.positive[row]) {}

    __device__ __forceinline__ float weight(float similarity, float scale2) const {
        const float margin = log2_margin(similarity, maximum, log2_sum, scale2);
        const float share = ptx::rcp(1.0f + ptx::ex2(-fabsf(margin)));
        const float below = log2_margin(similarity, base, offset, scale2);
        const float easy = margin > 0.0f ? 1.0f : ptx::ex2(below);
        return -positive * easy * share;
    }
};

__device__ __forceinline__ float positive_weight(float similarity, const Coefficients& rows,
                                                 unsigned row, float scale2) {
    return PositiveCoefficients(rows, row).weight(similarity, scale2);
}

}  // namespace epilogue
