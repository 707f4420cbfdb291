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

// A positive's margin, in units of ln 2: its softplus is ln2 * max(margin, 0) + log1p.
struct Margin {
    float margin;
    float below;  // 2^-|margin|
    float log1p;  // ln(1 + below)

    // S, and M and log2 Z of its group; scale2 = s log2(e).
    __device__ __forceinline__ Margin(float similarity, float maximum, float log2_sum,
                                      float scale2)
        : margin(fmaf(scale2, maximum - similarity, log2_sum)),
          below(ptx::ex2(-fabsf(margin))),
          log1p(log1p_unit(below)) {}

    __device__ __forceinline__ float softplus() const {
        // max() would lose a NaN.
        return fmaf(LN2, margin < 0.0f ? 0.0f : margin, log1p);
    }
    // delta.
    __device__ __forceinline__ float share() const {
        return (margin > 0.0f ? 1.0f : below) * ptx::rcp(1.0f + below);
    }
};

// ln(delta / delta_hardest) of two positives of one group. Where both are easy the margins are
// large and nearly cancel: then it is s (S_hardest - S), exact, and not a difference of margins.
__device__ __forceinline__ float log_share(const Margin& pair, float similarity,
                                           const Margin& hardest, float hardest_similarity,
                                           float scale2) {
    const float linear = hardest.margin <= 0.0f ? scale2 * (hardest_similarity - similarity)
                                                : fminf(pair.margin, 0.0f);
    return fmaf(LN2, linear, hardest.log1p - pair.log1p);
}

// What the positives of one row add up to.
struct Terms {
    float hardest;   // the smallest similarity of a positive; +inf where there is none
    float weight;    // sum of delta / delta_hardest
    float loss;      // sum of softplus(u)
    unsigned count;  // positives
};

__device__ __forceinline__ Terms no_terms() { return Terms{INFINITE, 0.0f, 0.0f, 0}; }

// Both together; their group has maximum M and log2 Z.
__device__ __forceinline__ Terms merge(const Terms& a, const Terms& b, float maximum,
                                       float log2_sum, float scale2) {
    if (a.count == 0) return b;
    if (b.count == 0) return a;
    const bool first = a.hardest <= b.hardest;
    const float hard = first ? a.hardest : b.hardest;
    const float easy = first ? b.hardest : a.hardest;
    const float share = ptx::ex2(LOG2E * log_share(Margin(easy, maximum, log2_sum, scale2), easy,
                                                   Margin(hard, maximum, log2_sum, scale2), hard,
                                                   scale2));
    const float hard_weight = first ? a.weight : b.weight;
    const float easy_weight = first ? b.weight : a.weight;
    return Terms{hard, fmaf(easy_weight, share, hard_weight), a.loss + b.loss, a.count + b.count};
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

__device__ __forceinline__ float positive_weight(float similarity, const Coefficients& rows,
                                                 unsigned row, float scale2) {
    const float margin = fmaf(scale2, rows.maximum[row] - similarity, rows.log2_sum[row]);
    const float share = ptx::rcp(1.0f + ptx::ex2(-fabsf(margin)));
    const float easy =
        margin > 0.0f ? 1.0f
                      : ptx::ex2(fmaf(scale2, rows.base[row] - similarity, rows.offset[row]));
    return -rows.positive[row] * easy * share;
}

}  // namespace epilogue
