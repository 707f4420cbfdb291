// Program: the small kernels, O(n d) or O(n) work: normalisation of rows, and what lies between the
// passes over tiles: merging of partial results in a fixed order, the loss, coefficients.
// What is O(n) is computed in f64.

#include "epilogue/levels.cuh"
#include "epilogue/pairs.cuh"
#include "epilogue/store.cuh"
#include "epilogue/terms.cuh"
#include "ptx/redux.cuh"
#include "ptx/shuffle.cuh"
#include "reduce.cuh"
#include "tile/element.cuh"

using namespace epilogue;
using tile::Destination;
using tile::element;
using tile::Operand;

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
constexpr double LOG2E_F64 = 1.44269504088896340736;
constexpr double ABSENT = -1e308;  // stands for a logarithm of 0 in sums of exponentials

__device__ __forceinline__ long long thread_index() {
    return static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
}

// Threads of a block whose threads have a row each and much to do for it, in f64: rows are few, and
// multiprocessors many.
constexpr int ROW_THREADS = 64;
__device__ __forceinline__ long long row_index() {
    return static_cast<long long>(blockIdx.x) * ROW_THREADS + threadIdx.x;
}

// ln(1 + e^u) and ln(sigmoid(u)), as in formula.rs.
__device__ __forceinline__ double softplus(double u) {
    return (u < 0.0 ? 0.0 : u) + log1p(exp(-fabs(u)));
}
__device__ __forceinline__ double log_sigmoid(double u) { return -softplus(-u); }

// ---- Scalars -------------------------------------------------------------------------------------

// A scalar argument to where kernels read it: out[0] = device ? *device : value; NaN where it should
// be finite and above 0 (`positive`) and is not. Grid 1, block 1.
extern "C" __global__ void scalar(float value, const float* device, int positive, float* out) {
    const float given = device ? *device : value;
    const bool good = given > 0.0f && given < INFINITE;
    *out = !positive || good ? given : __uint_as_float(0x7fc00000u);
}

// ---- Normalisation of rows -----------------------------------------------------------------------

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int mask = 1; mask < 32; mask *= 2) value += ptx::shuffle_xor(value, mask);
    return value;
}

// What makes a row a unit vector: x * power * inverse, power a power of two that keeps squares
// within f32's range; both 0 where the norm is at most `eps`, NaN where an element is not finite.
struct Unit {
    float power;
    float inverse;
};

// floor(log2 m) of a magnitude, away from the ends where 2^-floor(log2 m) has no inverse.
__device__ __forceinline__ int binade(float magnitude) {
    return static_cast<int>(min(max(__float_as_uint(magnitude) >> 23, 2u), 252u)) - 127;
}

// The row's largest magnitude; all lanes of the warp get it.
__device__ __forceinline__ float row_top(const Operand& x, long long row, unsigned depth) {
    const long long start = row * x.stride;
    float top = 0.0f;
    for (unsigned k = threadIdx.x % 32; k < depth; k += 32)
        top = fmaxf(top, fabsf(element(x, start + k)));
#pragma unroll
    for (int mask = 1; mask < 32; mask *= 2) top = fmaxf(top, ptx::shuffle_xor(top, mask));
    return top;
}

__device__ __forceinline__ Unit unit(const Operand& x, long long row, unsigned depth, float eps) {
    const unsigned lane = threadIdx.x % 32;
    const long long start = row * x.stride;
    const float power = power_of_two(-binade(row_top(x, row, depth)));
    float sum = 0.0f, poison = 0.0f;
    for (unsigned k = lane; k < depth; k += 32) {
        const float whole = element(x, start + k);
        poison = fmaf(whole, 0.0f, poison);
        const float value = whole * power;
        sum = fmaf(value, value, sum);
    }
    const float norm = sqrtf(warp_sum(sum)) + warp_sum(poison);
    // The norm itself is norm / power; it may overflow, and is then above eps all the same.
    if (norm / power <= eps) return Unit{0.0f, 0.0f};
    return Unit{power, 1.0f / norm};
}

// Which row of the caller's a row is, where rows are in an order of their own (order.cu).
__device__ __forceinline__ long long source_row(const unsigned* order, long long row) {
    return order ? order[row] : row;
}

// out = rows of x, in the given order, divided by their norms. Grid: ceil(rows / 8), a warp a row.
extern "C" __global__ void __launch_bounds__(THREADS)
    normalize(Operand x, unsigned depth, float eps, const unsigned* order, Output out) {
    const long long row = static_cast<long long>(blockIdx.x) * WARPS + threadIdx.x / 32;
    if (row >= out.rows) return;
    const long long source = source_row(order, row);
    const Unit scale = unit(x, source, depth, eps);
    for (unsigned k = threadIdx.x % 32; k < depth; k += 32)
        out.data[row * out.stride + k] =
            element(x, source * x.stride + k) * scale.power * scale.inverse;
}

// out = (g - u (u . g)) / |x|, u = x / |x|: the gradient with respect to x from that of its unit
// rows, which are in the given order. Without one out may be g where both are f32. Grid: ceil(rows / 8),
// a warp a row.
extern "C" __global__ void __launch_bounds__(THREADS)
    normalize_backward(Operand x, Operand g, unsigned depth, float eps, const unsigned* order,
                       Destination out) {
    const long long row = static_cast<long long>(blockIdx.x) * WARPS + threadIdx.x / 32;
    if (row >= out.rows) return;
    const long long source = source_row(order, row);
    const Unit scale = unit(x, source, depth, eps);
    const float* gradient = static_cast<const float*>(g.data) + row * g.stride;
    const long long start = source * x.stride;
    float dot = 0.0f;
    for (unsigned k = threadIdx.x % 32; k < depth; k += 32)
        dot = fmaf(element(x, start + k) * scale.power * scale.inverse, gradient[k], dot);
    dot = warp_sum(dot);
    for (unsigned k = threadIdx.x % 32; k < depth; k += 32) {
        const float u = element(x, start + k) * scale.power * scale.inverse;
        const float value = fmaf(-u, dot, gradient[k]) * scale.inverse * scale.power;
        out.put(source, k, scale.power == 0.0f ? 0.0f : value);
    }
}

// ---- Embeddings as 16-bit operands ---------------------------------------------------------------

// Where they go: rows aligned to 16 bytes, in the form of tile/operand.cuh. Twin of launch::Prepared.
struct Prepared {
    unsigned short* data;
    long long stride;  // in elements
    long long low;     // where the second part lies, or 0 for none
    int type;          // F16 or BF16
    int normalize;     // whether rows stand for unit rows
    float* factor;     // of every row; null: rows are copied as they are
};

// The largest magnitude of all elements, as bits, which compare like it; `top` was 0. A warp a row,
// grid-stride.
extern "C" __global__ void __launch_bounds__(THREADS)
    matrix_top(Operand x, unsigned rows, unsigned depth, unsigned* top) {
    float most = 0.0f;
    for (long long row = static_cast<long long>(blockIdx.x) * WARPS + threadIdx.x / 32; row < rows;
         row += static_cast<long long>(gridDim.x) * WARPS)
        most = fmaxf(most, row_top(x, row, depth));
    // The largest is the largest in any order.
    if (threadIdx.x % 32 == 0 && most != 0.0f) atomicMax(top, __float_as_uint(most));
}

// The binade that a row's largest element is brought to, in IEEE binary16: half of its range above,
// so that products do not overflow f32; the rest below, for small elements.
constexpr int F16_ROW = 10;

// How far below the matrix's largest element a row's may lie for that; smaller rows are brought as
// near as this allows. It bounds the ratio of factors: weights times factors share levels.
constexpr int F16_ROWS = 12;

// Copies rows, in the given order, into 16 bits. With factors, a row is multiplied by a power of two, so that its largest
// element has a fixed binade whatever its size, and the factor takes that back; and divides by the
// row's norm where unit rows are meant. top: matrix_top's, where rows with factors are not to be
// normalised. Grid: ceil(rows / 8), a warp a row.
extern "C" __global__ void __launch_bounds__(THREADS)
    prepare(Operand x, unsigned rows, unsigned depth, float eps, const unsigned* top,
            const unsigned* order, Prepared out) {
    const long long row = static_cast<long long>(blockIdx.x) * WARPS + threadIdx.x / 32;
    if (row >= rows) return;
    const long long source = source_row(order, row);
    float power = 1.0f, after = 1.0f;
    if (out.factor) {
        // One after the other: their product may lie outside f32's range.
        after = out.type == tile::F16 ? power_of_two(F16_ROW) : 1.0f;
        float factor;
        if (out.normalize) {
            const Unit scale = unit(x, source, depth, eps);
            power = scale.power;
            factor = scale.inverse;
        } else {
            // Nothing but zeros: any power will do.
            const int all = *top == 0 ? 0 : binade(__uint_as_float(*top)) - F16_ROWS;
            const int exponent = max(binade(row_top(x, source, depth)), all);
            power = power_of_two(-exponent);
            factor = power_of_two(exponent);
        }
        if (threadIdx.x % 32 == 0) out.factor[row] = factor / after;
    }
    for (unsigned k = threadIdx.x % 32; k < depth; k += 32) {
        const float value = element(x, source * x.stride + k) * power * after;
        const long long to = row * out.stride + k;
        if (out.type == tile::BF16) {
            const unsigned short high = ptx::f32_to_bf16(value);
            out.data[to] = high;
            if (out.low)
                out.data[out.low + to] =
                    ptx::f32_to_bf16((value - ptx::bf16_to_f32(high)) / tile::LOW_UNIT);
        } else {
            const unsigned short high = ptx::f32_to_f16(value);
            out.data[to] = high;
            if (out.low)
                out.data[out.low + to] =
                    ptx::f32_to_f16((value - ptx::f16_to_f32(high)) / tile::LOW_UNIT);
        }
    }
}

// ---- Keys ----------------------------------------------------------------------------------------

// The smallest and the largest key of every `side` consecutive ones: ranges[ceil(count / side)].
// Grid: ceil(ranges / 8), a warp a range.
extern "C" __global__ void __launch_bounds__(THREADS)
    key_ranges(const unsigned* keys, unsigned count, unsigned side, uint2* ranges) {
    const long long tile = static_cast<long long>(blockIdx.x) * WARPS + threadIdx.x / 32;
    const long long first = tile * side;
    if (first >= count) return;
    const long long end = min(first + side, static_cast<long long>(count));
    unsigned low = 0xffffffffu, high = 0;
    for (long long i = first + threadIdx.x % 32; i < end; i += 32) {
        low = min(low, keys[i]);
        high = max(high, keys[i]);
    }
    low = ptx::warp_min(low);
    high = ptx::warp_max(high);
    if (threadIdx.x % 32 == 0) ranges[tile] = make_uint2(low, high);
}

// ---- Groups of negatives -------------------------------------------------------------------------

// M and Z of a group. Twin of formula::Group.
struct Group {
    float maximum;
    double sum;
};

__device__ __forceinline__ Group merge(const Group& a, const Group& b, double scale) {
    const float top = fmaxf(a.maximum, b.maximum);
    // An empty group has M = -inf and Z = 0; infinity minus infinity is not wanted.
    const double reference = top == -INFINITE ? 0.0 : top;
    return Group{top, a.sum * (a.maximum == top ? 1.0 : exp(scale * (a.maximum - reference))) +
                          b.sum * (b.maximum == top ? 1.0 : exp(scale * (b.maximum - reference)))};
}

// Merges the splits of stats.cu, in their order: maximum, sum, log2_sum of n rows. log2_sum may be
// null. Grid: ceil(n / 64).
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    merge_groups(const float* partial_maximum, const float* partial_sum, unsigned splits,
                 unsigned rows, const float* scale, float* maximum, float* sum, float* log2_sum) {
    const long long row = row_index();
    if (row >= rows) return;
    const double s = *scale;
    Group group{partial_maximum[row], partial_sum[row]};
    for (unsigned split = 1; split < splits; ++split) {
        const long long at = static_cast<long long>(split) * rows + row;
        group = merge(group, Group{partial_maximum[at], partial_sum[at]}, s);
    }
    maximum[row] = group.maximum;
    sum[row] = group.sum;
    if (log2_sum) log2_sum[row] = log(group.sum) * LOG2E_F64;
}

// Merges many groups into one a block, in a fixed tree; launched twice for one in all. Block b takes
// `chunk` groups. Grid: ceil(count / chunk).
extern "C" __global__ void __launch_bounds__(THREADS)
    reduce_groups(const float* maximum_in, const float* sum_in, unsigned count, unsigned chunk,
                  const float* scale, float* maximum, float* sum, float* log2_sum) {
    __shared__ Group shared[THREADS];
    const double s = *scale;
    const long long first = static_cast<long long>(blockIdx.x) * chunk;
    const long long end = min(first + chunk, static_cast<long long>(count));
    Group group{-INFINITE, 0.0};
    for (long long i = first + threadIdx.x; i < end; i += THREADS)
        group = merge(group, Group{maximum_in[i], sum_in[i]}, s);
    group = reduce::block(group, shared,
                          [s](const Group& a, const Group& b) { return merge(a, b, s); });
    if (threadIdx.x == 0) {
        maximum[blockIdx.x] = group.maximum;
        sum[blockIdx.x] = group.sum;
        if (log2_sum) log2_sum[blockIdx.x] = log(group.sum) * LOG2E_F64;
    }
}

// out = l = s M + ln Z. Grid: ceil(count / 64).
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    log_sum_exp(const float* maximum, const float* sum, unsigned count, const float* scale,
                float* out) {
    const long long i = row_index();
    if (i >= count) return;
    const double s = *scale;
    const double z = sum[i];
    out[i] = z == 0.0 ? -INFINITE : static_cast<float>(s * maximum[i] + log(z));
}

// ---- Levels and groups of a panel's tiles --------------------------------------------------------

// The highest level of every row of tiles. tiles: [down][across]; unit: one f32, or null for 0.
// Grid: ceil(down / 8), a warp a row of tiles.
extern "C" __global__ void __launch_bounds__(THREADS)
    row_levels(const Level* tiles, unsigned down, unsigned across, const float* unit,
               Level* rows) {
    const long long row = static_cast<long long>(blockIdx.x) * WARPS + threadIdx.x / 32;
    if (row >= down) return;
    const float units = unit ? *unit : 0.0f;
    Level top = no_level();
    for (unsigned j = threadIdx.x % 32; j < across; j += 32)
        top = higher(top, tiles[row * across + j], units);
#pragma unroll
    for (int mask = 1; mask < 32; mask *= 2) {
        const Level other{ptx::shuffle_xor(top.reference, mask),
                          ptx::shuffle_xor(top.exponent, mask)};
        // The same choice in both lanes of a pair.
        top = threadIdx.x & mask ? higher(other, top, units) : higher(top, other, units);
    }
    if (threadIdx.x % 32 == 0) rows[row] = top;
}

// The highest level of every column of tiles, and of what came before it (null for nothing).
// Grid: ceil(across / 256).
extern "C" __global__ void __launch_bounds__(THREADS)
    column_levels(const Level* tiles, unsigned down, unsigned across, const float* unit,
                  const Level* before, Level* after) {
    const long long column = thread_index();
    if (column >= across) return;
    const float units = unit ? *unit : 0.0f;
    Level top = before ? before[column] : no_level();
    for (unsigned i = 0; i < down; ++i)
        top = higher(top, tiles[static_cast<long long>(i) * across + column], units);
    after[column] = top;
}

// s log2(e), the unit of levels whose references are similarities. Grid 1, block 1.
extern "C" __global__ void level_unit(const float* scale, float* unit) { *unit = *scale * LOG2E; }

// What gradient.cu's `exponentials` found, of many tiles: M, Z, and the sum of (S - M) exp(s (S - M)).
struct Moments {
    float maximum;
    double sum;
    double moment;
};

// The same relative to another maximum.
__device__ __forceinline__ Moments relative_to(const Moments& a, float maximum, double scale) {
    // Without negatives M is -inf, and must not meet another infinity.
    const bool none = a.sum == 0.0;
    const double below = none ? 0.0 : static_cast<double>(a.maximum) - maximum;
    const double share = none ? 0.0 : exp(scale * below);
    return Moments{maximum, share * a.sum, share * (a.moment + below * a.sum)};
}

__device__ __forceinline__ Moments merge(const Moments& a, const Moments& b, double scale) {
    const float top = fmaxf(a.maximum, b.maximum);
    const Moments one = relative_to(a, top, scale), other = relative_to(b, top, scale);
    return Moments{top, one.sum + other.sum, one.moment + other.moment};
}

// Every row of tiles together, in a fixed tree. tile_*: [down][across]. Grid: down.
extern "C" __global__ void __launch_bounds__(THREADS)
    tile_groups(const float* tile_maximum, const float* tile_sum, const double* tile_moment,
                unsigned across, const float* scale, float* maximum, float* sum, double* moment) {
    __shared__ Moments shared[THREADS];
    const double s = *scale;
    const long long first = static_cast<long long>(blockIdx.x) * across;
    Moments all{-INFINITE, 0.0, 0.0};
    for (unsigned j = threadIdx.x; j < across; j += THREADS)
        all = merge(all, Moments{tile_maximum[first + j], tile_sum[first + j],
                                 tile_moment[first + j]}, s);
    all = reduce::block(all, shared,
                        [s](const Moments& a, const Moments& b) { return merge(a, b, s); });
    if (threadIdx.x == 0) {
        maximum[blockIdx.x] = all.maximum;
        sum[blockIdx.x] = all.sum;
        moment[blockIdx.x] = all.moment;
    }
}

// ---- Positives -----------------------------------------------------------------------------------

// u = s (M - S) + ln Z of a positive; -inf without negatives. NaN stays.
__device__ __forceinline__ double margin(float similarity, float maximum, double sum, double s) {
    if (sum == 0.0) return fma(0.0, static_cast<double>(similarity), -1.0 / 0.0);
    return s * (static_cast<double>(maximum) - similarity) + log(sum);
}

// The terms of rows that have one positive, or none; an explicit index that cannot be one (beyond
// the last column, or a self-pair) makes the loss NaN. positive: n similarities, read where there
// is a positive. maximum, sum: n with stride 1, one with stride 0. Grid: ceil(n / 64).
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    index_terms(Pairs pairs, const float* positive, const float* maximum, const float* sum,
                int group_stride, const float* scale, Terms* terms) {
    const long long row = row_index();
    if (row >= pairs.rows) return;
    const unsigned column = positive_column(pairs, row);
    Terms found = no_terms();
    if (column < pairs.columns) {
        const float similarity = positive[row];
        const double u =
            margin(similarity, maximum[row * group_stride], sum[row * group_stride], *scale);
        found = Terms{similarity, 1.0f, static_cast<float>(softplus(u)), 1};
    } else if (pairs.index && pairs.index[row] != NO_POSITIVE) {
        found.loss = __uint_as_float(0x7fc00000u);
    }
    terms[row] = found;
}

// Merges the splits of stats.cu's terms, in their order: those that the bands of `side` rows each
// have. Grid: ceil(n / 64).
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    merge_terms(const Terms* partial, unsigned splits, unsigned rows, const uint2* bands,
                unsigned side, const float* maximum, const float* log2_sum, int group_stride,
                const float* scale, Terms* terms) {
    const long long row = row_index();
    if (row >= rows) return;
    const float scale2 = *scale * LOG2E;
    const uint2 band = bands[row / side];
    const unsigned each = tiles_per_split(band, splits);
    Terms all = no_terms();
    for (unsigned split = 0; split * each < band.y - band.x; ++split)
        all = merge(all, partial[static_cast<long long>(split) * rows + row],
                    maximum[row * group_stride], log2_sum[row * group_stride], scale2);
    terms[row] = all;
}

// ln of the sum of delta over a row's positives; ABSENT without any.
__device__ __forceinline__ double log_weight(const Terms& terms, float maximum, double sum,
                                             double s) {
    if (terms.count == 0 || sum == 0.0) return ABSENT;
    return log_sigmoid(margin(terms.hardest, maximum, sum, s)) +
           log(static_cast<double>(terms.weight));
}

// ---- The loss ------------------------------------------------------------------------------------

// What all rows add up to. Twin of launch::TOTALS_BYTES.
struct Totals {
    double loss;
    double weight_top;  // W = weight * e^weight_top: the sum of delta over all positives
    double weight;
    unsigned long long positives;
    unsigned long long anchors;  // rows with a positive and a negative
};

__device__ __forceinline__ Totals add(const Totals& a, const Totals& b) {
    const double top = fmax(a.weight_top, b.weight_top);
    const double weight = a.weight * (a.weight_top == top ? 1.0 : exp(a.weight_top - top)) +
                          b.weight * (b.weight_top == top ? 1.0 : exp(b.weight_top - top));
    return Totals{a.loss + b.loss, top, weight, a.positives + b.positives, a.anchors + b.anchors};
}

// The totals of `chunk` rows a block, in a fixed tree. row_sum: Z of all n rows, whatever the scope,
// or with stride 0 of all of them together: a row that is not finite makes the loss NaN even if it
// has no positive. Grid: ceil(n / chunk).
extern "C" __global__ void __launch_bounds__(THREADS)
    totals(const Terms* terms, unsigned rows, unsigned chunk, const float* row_sum, int row_stride,
           const float* maximum, const float* sum, int group_stride, const float* scale,
           Totals* partial) {
    __shared__ Totals shared[THREADS];
    const double s = *scale;
    const long long first = static_cast<long long>(blockIdx.x) * chunk;
    const long long end = min(first + chunk, static_cast<long long>(rows));
    Totals all{0.0, ABSENT, 0.0, 0, 0};
    for (long long row = first + threadIdx.x; row < end; row += THREADS) {
        const Terms found = terms[row];
        const double z = sum[row * group_stride];
        const double weight = log_weight(found, maximum[row * group_stride], z, s);
        const bool anchor = found.count != 0 && z != 0.0;
        const double loss = found.loss + 0.0 * row_sum[row * row_stride];
        all = add(all, Totals{loss, weight, anchor ? 1.0 : 0.0, found.count, anchor});
    }
    all = reduce::block(all, shared, [](const Totals& a, const Totals& b) { return add(a, b); });
    if (threadIdx.x == 0) partial[blockIdx.x] = all;
}

// The blocks' totals into one, and the loss: their mean over positive pairs, or their sum; NaN
// without a positive pair. Grid: 1.
extern "C" __global__ void __launch_bounds__(THREADS)
    finish(const Totals* partial, unsigned count, int mean, const float* scale, Totals* total,
           float* loss) {
    __shared__ Totals shared[THREADS];
    Totals all{0.0, ABSENT, 0.0, 0, 0};
    for (unsigned i = threadIdx.x; i < count; i += THREADS) all = add(all, partial[i]);
    all = reduce::block(all, shared, [](const Totals& a, const Totals& b) { return add(a, b); });
    if (threadIdx.x == 0) {
        *total = all;
        const double pairs = all.positives;
        const double value = mean ? all.loss / pairs : all.loss;
        // A scale that cannot be used is NaN by now.
        *loss = all.positives == 0 ? __uint_as_float(0x7fc00000u)
                                   : static_cast<float>(value + 0.0 * *scale);
    }
}

// ---- The gradient --------------------------------------------------------------------------------

// Coefficients of every row (epilogue/terms.cuh; twin of formula::coefficients). `matrix`: the
// negatives of all rows are one group, whose weight is that of all positives. `normalized`:
// anchor-normalised weighting. Grid: ceil(n / 64).
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    coefficients(const Terms* terms, unsigned rows, const float* maximum, const float* sum,
                 int group_stride, const Totals* total, int matrix, int normalized, int mean,
                 const float* scale, Coefficients out) {
    const long long row = row_index();
    if (row >= rows) return;
    const double s = *scale;
    const float top = maximum[row * group_stride];
    const double z = sum[row * group_stride];
    const Terms found = terms[row];
    const double weight =
        matrix ? total->weight_top + log(total->weight) : log_weight(found, top, z, s);
    // Without negatives or without positives neither side has a gradient. NaN is not `empty`.
    const bool empty = z == 0.0 || (matrix ? total->weight == 0.0 : weight == ABSENT);
    const double log_sum = log(z);
    const double divisor =
        mean ? static_cast<double>(normalized ? total->anchors : total->positives) : 1.0;
    double negative, positive, offset = log_sum;
    float base = top;
    if (normalized) {
        const double half = 0.5 / divisor;
        negative = half / z;
        positive = half * exp(-weight);
        const double hardest = s * (static_cast<double>(top) - found.hardest) + log_sum;
        if (hardest < 0.0) {
            // hardest - weight, without the margin that both hold and that may dwarf the rest.
            base = found.hardest;
            offset = softplus(hardest) - log(static_cast<double>(found.weight));
            positive = half;
        }
    } else {
        positive = s / divisor;
        negative = positive * exp(weight) / z;
    }
    // Where no negative exists M is -inf and must not meet another infinity.
    const bool unset = top == -INFINITE;
    out.maximum[row] = unset ? 0.0f : top;
    out.log2_sum[row] = (empty && unset ? 0.0 : log_sum) * LOG2E_F64;
    out.base[row] = empty ? 0.0f : base;
    out.offset[row] = empty ? 0.0f : offset * LOG2E_F64;
    out.negative[row] = empty ? 0.0f : negative;
    out.positive[row] = empty ? 0.0f : positive;
}

// total (+)= the sum of `count` values, times `factor` where that is not null, in a fixed tree.
// Grid: 1.
extern "C" __global__ void __launch_bounds__(THREADS)
    sum_moments(const double* values, unsigned count, const float* factor, int accumulate,
                double* total) {
    __shared__ double shared[THREADS];
    double sum = 0.0;
    for (unsigned i = threadIdx.x; i < count; i += THREADS) sum += values[i];
    sum = reduce::block(sum, shared, [](double a, double b) { return a + b; });
    if (threadIdx.x != 0) return;
    if (factor) sum *= *factor;
    *total = accumulate ? *total + sum : sum;
}

// The gradient of the scale: upstream * total / s. Grid 1, block 1.
extern "C" __global__ void scale_gradient(const double* total, const float* scale,
                                          const float* upstream, float* out) {
    *out = static_cast<float>(*total / *scale * *upstream);
}

// ---- The gradient in one pass (gradient.cu's `exponentials`) -------------------------------------

// The sum of (S - M) G over the negatives, in `groups` groups (tile_groups), and over the positives
// where a row has one, from their similarities. rows: coefficients, the same M and negative factor in
// all of them. Grid 1.
extern "C" __global__ void __launch_bounds__(THREADS)
    one_pass_moment(const float* group_maximum, const float* group_sum, const double* group_moment,
                    unsigned groups, Pairs pairs, const float* positive, Coefficients rows,
                    const float* scale, double* total) {
    __shared__ double shared[THREADS];
    const double s = *scale;
    const float scale2 = *scale * LOG2E;
    const float top = rows.maximum[0];
    const double factor = rows.negative[0];
    double sum = 0.0;
    for (unsigned i = threadIdx.x; i < groups; i += THREADS) {
        if (group_sum[i] == 0.0f) continue;
        const double below = static_cast<double>(group_maximum[i]) - top;
        sum += factor * exp(s * below) * (group_moment[i] + below * group_sum[i]);
    }
    const unsigned anchors = pairs.flags & INDEXED ? pairs.rows : 0;
    for (unsigned row = threadIdx.x; row < anchors; row += THREADS) {
        if (positive_column(pairs, row) >= pairs.columns) continue;
        const float similarity = positive[row];
        sum += (static_cast<double>(similarity) - top) *
               positive_weight(similarity, rows, row, scale2);
    }
    sum = reduce::block(sum, shared, [](double a, double b) { return a + b; });
    if (threadIdx.x == 0) *total = sum;
}

// G of every row's one positive; 0 where there is none. Grid: ceil(n / 256).
extern "C" __global__ void __launch_bounds__(THREADS)
    positive_weights(Pairs pairs, const float* positive, Coefficients rows, const float* scale,
                     float* weights) {
    const long long row = thread_index();
    if (row >= pairs.rows) return;
    const bool exists = positive_column(pairs, row) < pairs.columns;
    weights[row] = exists ? positive_weight(positive[row], rows, row, *scale * LOG2E) : 0.0f;
}

// What shares delta of positives are multiplied by where all rows have the same coefficients and the
// sum of (S - M) G is wanted, and in the unit of the negatives' weights: Z / W. Grid 1, block 1.
extern "C" __global__ void share_factors(Coefficients rows, const Totals* total, const float* sum,
                                         ShareFactors* factors) {
    const double log2_ratio =
        (log(static_cast<double>(*sum)) - total->weight_top - log(total->weight)) * LOG2E_F64;
    const double exponent = ceil(log2_ratio);
    // Without negatives, or where no weight is above f32's underflow, there is nothing to share. NaN
    // stays.
    const bool none = rows.positive[0] == 0.0f || exponent > 250.0;
    factors->moment = -rows.positive[0];
    factors->mantissa = none ? 0.0f : static_cast<float>(exp2(log2_ratio - exponent));
    factors->exponent = none ? 0.0f : static_cast<float>(exponent);
}

// Sums over negatives, f32 rows of the gradient's width: one level for every `side` rows. Twin of
// launch::Sums.
struct Sums {
    const float* data;  // null: there are none
    long long stride;
    const Level* levels;

    // What this row is multiplied by, of coefficients that are those of all rows.
    __device__ __forceinline__ float factor(long long row, unsigned side, const Coefficients& rows,
                                            float scale2) const {
        const Level level = levels[row / side];
        if (empty(level)) return 0.0f;
        // In halves: beside a small coefficient it may lie beyond f32's range.
        const float half =
            ptx::ex2(0.5f * fmaf(scale2, level.reference - rows.maximum[0], level.exponent));
        return rows.negative[0] * half * half;
    }
};

// The positive pairs that an output row is in, where every row of the matrix has one at most: as
// anchor, as candidate, or as both. Twin of launch::Matches.
struct Matches {
    const float* weights;     // of every row of the matrix; null: there are no such pairs
    const unsigned* order;    // rows of the matrix by the column of their positive; null: diagonal
    const unsigned* starts;   // where each column's begin
    int anchors, candidates;  // whether output rows are rows of the matrix, and columns
};

// What the sums over negatives become once the group's log-sum-exp is known, and the positives' part:
// out = upstream * (G_negative * (own + more) / divisor + sum of G_positive * rows of `other`). own
// may be out. Grid: ceil(out.rows / 8), a warp a row.
extern "C" __global__ void __launch_bounds__(THREADS)
    one_pass_gradient(Output out, Sums own, Sums more, unsigned side, const float* divisor,
                      Operand other, Pairs pairs, Matches matches, Coefficients rows,
                      const float* scale, const float* upstream) {
    const long long row = static_cast<long long>(blockIdx.x) * WARPS + threadIdx.x / 32;
    if (row >= out.rows) return;
    const float scale2 = *scale * LOG2E;
    float factor = own.factor(row, side, rows, scale2);
    float more_factor = more.data ? more.factor(row, side, rows, scale2) : 0.0f;
    if (divisor) {
        const float by = divisor[row];
        factor = by == 0.0f ? 0.0f : factor / by;
        more_factor = by == 0.0f ? 0.0f : more_factor / by;
    }
    unsigned match = pairs.columns, begin = 0, end = 0;
    if (matches.weights && matches.anchors) match = positive_column(pairs, row);
    if (matches.weights && matches.candidates) {
        begin = matches.order ? matches.starts[row] : min(static_cast<unsigned>(row), pairs.rows);
        end = matches.order ? matches.starts[row + 1] : min(begin + 1, pairs.rows);
    }
    const bool matched = match < pairs.columns;
    const float weight = matched ? matches.weights[row] : 0.0f;
    const float* line = own.data + row * own.stride;
    const float* more_line = more.data + row * more.stride;
    for (unsigned k = threadIdx.x % 32; k < out.columns; k += 32) {
        float value = factor * line[k];
        if (more.data) value = fmaf(more_factor, more_line[k], value);
        if (matched) value = fmaf(weight, tile::embedding(other, match, k), value);
        for (unsigned at = begin; at < end; ++at) {
            const unsigned anchor = matches.order ? matches.order[at] : at;
            value = fmaf(matches.weights[anchor], tile::embedding(other, anchor, k), value);
        }
        out.data[row * out.stride + k] = *upstream * value;
    }
}
