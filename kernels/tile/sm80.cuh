// Room: tile engines. sm80: mma.sync on 16-bit elements with f32 accumulators, for compute
// capability 8.0 and later. The interface is that of simt.cuh, the readable specification.
//
// Computes a tile of C[i, j] = sum over k of A[i, k] B[j, k], SIDE x SIDE elements by DOWN x ACROSS
// warps. Slices of 32 along k go to shared memory by cp.async, three stages: two are on their way
// while one is multiplied. Operands must be aligned to 16 bytes in every row (the host sees to it);
// tails of k are zeros that the copies fill in.
//
// f32 operands come as pairs of f16 matrices, element = high + low / 2048. Their product is that of
// three along one sum: low high + high low, divided by 2048, then high high on top: the same loop,
// three times as long. What is left out, low low, is 2^-22 of the element's product.
//
// Shared memory of a stage and operand, 16-byte chunks c:
//   Layout::DEPTH: [row][32 of k], 64 bytes a row, chunk c of row r at c ^ (r / 2 ^ r / 8 % 2) % 4;
//   Layout::SIDE:  [32 of k][SIDE], chunk c of row k at c ^ k % 8, or at c ^ (k / 2) % 4 where a row
//                  is 64 bytes.
// The eight rows that a matrix of ldmatrix reads then lie on all 32 banks, and so do the chunks that
// eight neighbouring threads copy.
//
// With B by rows, the columns of two neighbouring fragments are dealt to the threads so that each
// holds four columns side by side (the fragments' order of columns is free, the rows of B that
// ldmatrix reads decide it); with B by columns two.
#pragma once

#include "ptx/convert.cuh"
#include "ptx/copy.cuh"
#include "ptx/matrix.cuh"
#include "ptx/opaque.cuh"
#include "ptx/shuffle.cuh"
#include "tile/operand.cuh"

namespace tile {

// IEEE binary16. Large enough numbers overflow, small ones lose digits: panels have levels
// (epilogue/levels.cuh).
struct Half {
    static constexpr bool NARROW = true;
    __device__ __forceinline__ static void multiply_add(float (&c)[4], const unsigned (&a)[4],
                                                        unsigned b0, unsigned b1) {
        ptx::multiply_add_f16(c, a, b0, b1);
    }
    __device__ __forceinline__ static unsigned pack(float low, float high) {
        return ptx::f32_to_f16x2(low, high);
    }
    __device__ __forceinline__ static float first(unsigned pair) {
        return ptx::f16_to_f32(static_cast<unsigned short>(pair));
    }
    __device__ __forceinline__ static float second(unsigned pair) {
        return ptx::f16_to_f32(static_cast<unsigned short>(pair >> 16));
    }
};

// bfloat16: the range of f32.
struct Brain {
    static constexpr bool NARROW = false;
    __device__ __forceinline__ static void multiply_add(float (&c)[4], const unsigned (&a)[4],
                                                        unsigned b0, unsigned b1) {
        ptx::multiply_add_bf16(c, a, b0, b1);
    }
    __device__ __forceinline__ static unsigned pack(float low, float high) {
        return ptx::f32_to_bf16x2(low, high);
    }
    __device__ __forceinline__ static float first(unsigned pair) {
        return __uint_as_float(pair << 16);
    }
    __device__ __forceinline__ static float second(unsigned pair) {
        return __uint_as_float(pair & 0xffff0000u);
    }
};

// Nothing happens between the slices of a product. Otherwise (epilogue/levels.cuh): enter(k, factor)
// is called before every slice, gives what the sums so far are to be multiplied by, and says whether
// the slice counts; leave() gives the factor at the end.
struct Plain {
    static constexpr bool SCALED = false;
    __device__ __forceinline__ bool enter(unsigned, float&) { return true; }
    __device__ __forceinline__ float leave() { return 1.0f; }
};

template <class Element_, int SIDE_, int DOWN, int ACROSS, Layout B_LAYOUT>
struct Sm80 {
    using Element = Element_;
    static constexpr int SIDE = SIDE_;
    static constexpr int THREADS = 32 * DOWN * ACROSS;
    static constexpr int DEPTH = 32;
    static constexpr int STAGES = 3;
    static constexpr int WARP_ROWS = SIDE / DOWN;
    static constexpr int WARP_COLUMNS = SIDE / ACROSS;
    static constexpr int ROWS = WARP_ROWS / 8;
    static constexpr int COLUMNS = WARP_COLUMNS / 4;
    static constexpr int GROUP = B_LAYOUT == Layout::DEPTH ? 4 : 2;
    static constexpr int GROUP_STEP = 4 * GROUP;
    static constexpr int PARTS = ACROSS;
    static constexpr bool PARKS = false;
    static constexpr bool LEVELS = true;
    static constexpr int CHUNK = 8;  // elements in 16 bytes
    static constexpr unsigned BYTES = SIDE * DEPTH * 2;  // of an operand's slice
    static_assert(WARP_ROWS % 16 == 0 && WARP_COLUMNS % 16 == 0, "whole fragments");
    static_assert(THREADS * 2 * CHUNK == SIDE * DEPTH, "two chunks a thread and operand");

    struct alignas(64) Storage {
        unsigned char stage[STAGES][2][BYTES];
    };

    float accumulator[WARP_ROWS / 16][WARP_COLUMNS / 8][4];

    __device__ __forceinline__ static int lane() { return threadIdx.x % 32; }
    __device__ __forceinline__ static int warp_row() { return threadIdx.x / 32 / ACROSS * WARP_ROWS; }
    __device__ __forceinline__ static int warp_column() {
        return threadIdx.x / 32 % ACROSS * WARP_COLUMNS;
    }
    __device__ __forceinline__ static int row(int r) {
        return warp_row() + r / 2 * 16 + r % 2 * 8 + lane() / 4;
    }
    __device__ __forceinline__ static int column(int c) {
        return warp_column() + (GROUP == 4 ? c / 4 * GROUP_STEP + lane() % 4 * 4 + c % 4
                                           : c / 2 * GROUP_STEP + lane() % 4 * 2 + c % 2);
    }
    __device__ __forceinline__ float at(int r, int c) const {
        return accumulator[r / 2][c / 2][r % 2 * 2 + c % 2];
    }
    __device__ __forceinline__ void put(int r, int c, float value) {
        accumulator[r / 2][c / 2][r % 2 * 2 + c % 2] = value;
    }
    // Which of the PARTS of its rows this thread belongs to.
    __device__ __forceinline__ static int part() { return threadIdx.x / 32 % ACROSS; }
    __device__ __forceinline__ static bool row_leader() { return lane() % 4 == 0; }
    template <class Combine>
    __device__ __forceinline__ static void row_reduce(Combine combine) {
#pragma unroll
        for (int mask = 1; mask < 4; mask *= 2) combine(mask);
    }

    // Where a chunk lies in an operand's slice: `line` is a row of DEPTH, or a k of SIDE. Of DEPTH the
    // eight rows that are read at a time are side by side (A), or pairs with a pair between (B).
    template <Layout LAYOUT>
    __device__ __forceinline__ static unsigned place(int line, int chunk) {
        constexpr int LINE = (LAYOUT == Layout::DEPTH ? DEPTH : SIDE) * 2;
        const int twist = LINE > 64 ? line & 7
                                    : (line >> 1 ^ (LAYOUT == Layout::DEPTH ? line >> 3 & 1 : 0)) & 3;
        return line * LINE + (chunk ^ twist) * 16;
    }

    // A thread's part of an operand on its way to shared memory: two chunks a slice.
    template <Layout LAYOUT>
    struct Source {
        static constexpr int LINE_CHUNKS = (LAYOUT == Layout::DEPTH ? DEPTH : SIDE) / CHUNK;
        // Lines between the two chunks, and bytes in shared memory.
        static constexpr int APART = (LAYOUT == Layout::DEPTH ? SIDE : DEPTH) / 2;
        static constexpr int OTHER = APART * LINE_CHUNKS * 16;

        // Addresses of global memory. DEPTH: of rows that exist, the last one instead of those beyond
        // it, whose products nobody looks at; SIDE: of the first chunk, beyond the operand nothing is
        // read there.
        unsigned long long from, second;
        unsigned to;     // where the first chunk goes in a slice
        unsigned valid;  // SIDE: bytes

        // `first` is made anew every time, not kept in a register that the tile needs.
        template <class Rows>
        __device__ __forceinline__ void start(const Rows& operand, unsigned first, unsigned count,
                                              unsigned k, bool low) {
            const unsigned me = ptx::opaque(threadIdx.x);
            const unsigned line = me / LINE_CHUNKS, chunk = me % LINE_CHUNKS;
            const char* data = static_cast<const char*>(operand.data);
            if (low) data += operand.low * 2;
            first = ptx::opaque(first);
            to = place<LAYOUT>(threadIdx.x / LINE_CHUNKS, threadIdx.x % LINE_CHUNKS);
            if (LAYOUT == Layout::DEPTH) {
                const unsigned i = first + line, j = i + APART;
                data += (k + chunk * CHUNK) * 2;
                from = ptx::global_address(data + operand.row(min(i, count - 1)) * operand.stride * 2);
                second =
                    ptx::global_address(data + operand.row(min(j, count - 1)) * operand.stride * 2);
            } else {
                const unsigned i = first + chunk * CHUNK;
                valid = i < count ? min(count - i, CHUNK) * 2 : 0;
                from = ptx::global_address(data + ((k + line) * operand.stride + i) * 2);
            }
        }

        // The next slice: all of it, or where it lies across k_end, so many lines or bytes of a line.
        __device__ __forceinline__ void load(const Operand& operand, unsigned slice) {
            if (LAYOUT == Layout::SIDE) return load(operand, slice, DEPTH);
            ptx::copy16<0>(slice + to, from);
            ptx::copy16<OTHER>(slice + to, second);
            from += DEPTH * 2, second += DEPTH * 2;
        }
        __device__ __forceinline__ void load(const Operand& operand, unsigned slice, unsigned left) {
            if (LAYOUT == Layout::DEPTH) {
                const unsigned at = threadIdx.x % LINE_CHUNKS * CHUNK;
                const unsigned bytes = at < left ? min(left - at, CHUNK) * 2 : 0;
                ptx::copy16<0>(slice + to, from, bytes);
                ptx::copy16<OTHER>(slice + to, second, bytes);
                from += DEPTH * 2, second += DEPTH * 2;
            } else {
                const unsigned line = threadIdx.x / LINE_CHUNKS;
                const long long apart = APART * operand.stride * 2;
                ptx::copy16<0>(slice + to, from, line < left ? valid : 0);
                ptx::copy16<OTHER>(slice + to, from + apart, line + APART < left ? valid : 0);
                from += apart * 2;
            }
        }
    };

    // The tile whose corner is (i0, j0) of C, `rows` x `columns` being all of C, summed over
    // k_begin <= k < k_end, k_begin a multiple of DEPTH. All threads of the block; shared memory may
    // be used afterwards. Rows: an Operand, or Picked.
    template <Layout A, Layout B, class Steps = Plain, class Rows = Operand>
    __device__ __forceinline__ void multiply(const Rows& a, unsigned i0, unsigned rows,
                                             const Operand& b, unsigned j0, unsigned columns,
                                             unsigned k_begin, unsigned k_end, Storage& storage,
                                             Steps steps = Steps()) {
        static_assert(B == B_LAYOUT, "the layout decides who holds what");
        fill(0.0f);
        const unsigned shared = ptx::shared_address(&storage);
        // Rounds of the sum: low high, high low, high high; the last alone without `low`.
        const int first_round = a.low ? 0 : 2;
        Source<A> from_a;
        Source<B> from_b;
        from_a.start(a, i0, rows, k_begin, first_round == 0);
        from_b.start(b, j0, columns, k_begin, false);
        unsigned load_k = k_begin;
        int load_round = first_round;
        const auto load = [&](unsigned to) {
            if (load_round < 3) {
                const unsigned left = k_end - load_k;
                load_k += DEPTH;
                if (load_k <= k_end) {
                    from_a.load(a, to);
                    from_b.load(b, to + BYTES);
                } else {
                    // What can be predicated instead of skipped is issued for every slice. This cannot.
                    __syncwarp();
                    from_a.load(a, to, left);
                    from_b.load(b, to + BYTES, left);
                }
                if (load_k >= k_end) {
                    load_k = k_begin;
                    ++load_round;
                    if (load_round < 3) {
                        from_a.start(a, i0, rows, k_begin, false);
                        from_b.start(b, j0, columns, k_begin, load_round == 1);
                    }
                }
            }
            ptx::copy_commit();
        };
#pragma unroll
        for (int stage = 0; stage < STAGES - 1; ++stage) load(shared + stage * 2 * BYTES);

        unsigned from = shared;
#pragma unroll 1
        for (int round = first_round; round < 3; ++round) {
            if (round == 2 && first_round == 0) scale(LOW_UNIT);
#pragma unroll 1
            for (unsigned k = k_begin; k < k_end; k += DEPTH) {
                ptx::copy_wait<STAGES - 2>();
                __syncthreads();
                // Into the stage before this one, which everyone is done with.
                load(from == shared ? from + (STAGES - 1) * 2 * BYTES : from - 2 * BYTES);
                bool counts = true;
                if (Steps::SCALED) {
                    float factor = 1.0f;
                    counts = steps.enter(k, factor);
                    if (counts && factor != 1.0f) scale(factor);
                }
                if (counts) slice<A, B>(from);
                from = from == shared + (STAGES - 1) * 2 * BYTES ? shared : from + 2 * BYTES;
            }
        }
        if (Steps::SCALED) scale(steps.leave());
        __syncthreads();
        if (A == Layout::DEPTH && B == Layout::DEPTH && a.factor) {
            float right[COLUMNS];
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c)
                right[c] = b.factor[min(j0 + column(c), columns - 1)];
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                const float left = a.factor[a.row(min(i0 + row(r), rows - 1))];
#pragma unroll
                for (int c = 0; c < COLUMNS; ++c) put(r, c, at(r, c) * left * right[c]);
            }
        }
    }

    __device__ __forceinline__ void fill(float value) {
#pragma unroll
        for (int m = 0; m < WARP_ROWS / 16; ++m)
#pragma unroll
            for (int n = 0; n < WARP_COLUMNS / 8; ++n)
#pragma unroll
                for (int e = 0; e < 4; ++e) accumulator[m][n][e] = value;
    }

    __device__ __forceinline__ void scale(float factor) {
#pragma unroll
        for (int r = 0; r < ROWS; ++r)
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c) put(r, c, at(r, c) * factor);
    }

private:
    // Multiplies the slice at `from`: two steps of 16 along k.
    template <Layout A, Layout B>
    __device__ __forceinline__ void slice(unsigned from) {
        // Matrix q = lane / 8 of a load of four, its line lane % 8: for A they are the quarters of
        // a 16 x 16 fragment, rows first; for B two fragments, the halves of k first.
        const int q = lane() / 8, line = lane() % 8;
#pragma unroll
        for (int step = 0; step < 2; ++step) {
            unsigned left[WARP_ROWS / 16][4];
#pragma unroll
            for (int m = 0; m < WARP_ROWS / 16; ++m) {
                if (A == Layout::DEPTH) {
                    // Fragments lie whole twists apart; steps two chunks, which are a bit of the
                    // address.
                    const unsigned at =
                        (from + place<A>(warp_row() + q % 2 * 8 + line, q / 2)) ^ (step * 32);
                    ptx::load_matrices(left[m], at + m * 16 * DEPTH * 2);
                } else {
                    const unsigned at = place<A>(step * 16 + q / 2 * 8 + line,
                                                 warp_row() / 8 + m * 2 + q % 2);
                    ptx::load_matrices_transposed(left[m], from + at);
                }
            }
#pragma unroll
            for (int n = 0; n < WARP_COLUMNS / 8; n += 2) {
                unsigned right[4];
                if (B == Layout::DEPTH) {
                    const int j = warp_column() + line / 2 * 4 + q / 2 * 2 + line % 2;
                    const unsigned at = (from + place<B>(j, q % 2)) ^ (step * 32);
                    ptx::load_matrices(right, at + BYTES + n * 8 * DEPTH * 2);
                } else {
                    const unsigned at = place<B>(step * 16 + q % 2 * 8 + line,
                                                 warp_column() / 8 + n + q / 2);
                    ptx::load_matrices_transposed(right, from + BYTES + at);
                }
#pragma unroll
                for (int m = 0; m < WARP_ROWS / 16; ++m) {
                    Element::multiply_add(accumulator[m][n], left[m], right[0], right[1]);
                    Element::multiply_add(accumulator[m][n + 1], left[m], right[2], right[3]);
                }
            }
        }
    }
};

// The two sizes: large for full chips, small for batches that would leave most of one idle.
template <class Element, Layout B>
using Sm80Large = Sm80<Element, 128, 4, 2, B>;
template <class Element, Layout B>
using Sm80Small = Sm80<Element, 32, 2, 1, B>;

}  // namespace tile
