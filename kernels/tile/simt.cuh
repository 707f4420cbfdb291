// Room: tile engines. simt: f32 fused multiply-adds on any chip; the readable specification of what
// a tile engine does, and the one that computes in full f32.
//
// Computes a tile of C[i, j] = sum over k of A[i, k] B[j, k], SIDE x SIDE elements by
// (SIDE / EACH)^2 threads, EACH x EACH of them each. Slices of 16 along k go through shared memory,
// two stages: while one is multiplied the next is on its way to registers. Element types are
// converted on the way into shared memory, so one instantiation serves f32, f16 and bf16. Every
// element is one chain of fused multiply-adds in the order of k: the same bits whatever the tile.
//
// What an engine offers, and all that an epilogue may use:
//   SIDE, THREADS, ROWS, COLUMNS     the tile and the part of it that one thread holds
//   row(r), column(c)                where in the tile the thread's rows and columns lie: the part
//                                    is separable, so that per-row and per-column values are held
//                                    once; GROUP columns lie side by side, from a multiple of GROUP,
//                                    and the next ones GROUP_STEP from there
//   at(r, c), put(r, c, value)       an element
//   row_reduce(op)                   over the threads of a warp that share a row; they have one
//                                    row_leader(). A row is spread over PARTS warps, this thread's
//                                    being part()
//   LEVELS                           whether its panels are of 16-bit Elements, with levels
//   PARKS                            whether what a thread carries from tile to tile must leave the
//                                    registers to the product
//   Storage, multiply(...)           shared memory and the product
#pragma once

#include "ptx/convert.cuh"
#include "ptx/opaque.cuh"
#include "ptx/shuffle.cuh"
#include "tile/operand.cuh"

namespace tile {

template <int SIDE_, int EACH>
struct Simt {
    static constexpr int SIDE = SIDE_;
    static constexpr int ROWS = EACH;
    static constexpr int COLUMNS = EACH;
    static constexpr int DEPTH = 16;
    static constexpr int ACROSS = SIDE / EACH;
    static constexpr int THREADS = ACROSS * ACROSS;
    static constexpr int GROUP = 4;
    static constexpr int GROUP_STEP = 4 * ACROSS;
    static constexpr int PARTS = 1;
    static constexpr bool PARKS = true;
    static constexpr bool LEVELS = false;
    // Every thread loads 8 consecutive elements of each operand per slice.
    static constexpr int PIECE = 8;
    static_assert(THREADS * PIECE == SIDE * DEPTH, "a slice is one piece a thread");
    static_assert(EACH % 4 == 0 && 32 % ACROSS == 0, "rows are read by fours, shared within a warp");

    // A slice holds element (i, k) at [k][i ^ swizzle(k)]: a warp's stores of a DEPTH operand fall
    // on 32 different banks, its reads are 16 bytes wide.
    struct Storage {
        float a[2][DEPTH][SIDE];
        float b[2][DEPTH][SIDE];
    };
    __device__ static constexpr int swizzle(int k) { return ((k / PIECE) & 1) << 4; }

    float accumulator[ROWS][COLUMNS];

    __device__ __forceinline__ static int place(int group_thread, int index) {
        return (index / 4) * GROUP_STEP + group_thread * 4 + index % 4;
    }
    __device__ __forceinline__ static int row(int r) { return place(threadIdx.x / ACROSS, r); }
    __device__ __forceinline__ static int column(int c) { return place(threadIdx.x % ACROSS, c); }
    __device__ __forceinline__ float at(int r, int c) const { return accumulator[r][c]; }
    __device__ __forceinline__ void put(int r, int c, float value) { accumulator[r][c] = value; }
    __device__ __forceinline__ static int part() { return 0; }
    // Whether this thread answers for its rows after a row_reduce.
    __device__ __forceinline__ static bool row_leader() { return threadIdx.x % ACROSS == 0; }

    // op(value, exchange) combines the caller's value with that of the lane that exchange(part)
    // asks; called log2(ACROSS) times.
    template <class Combine>
    __device__ __forceinline__ static void row_reduce(Combine combine) {
#pragma unroll
        for (int mask = 1; mask < ACROSS; mask *= 2) combine(mask);
    }

    // 8 elements of an operand on their way to shared memory, as loaded.
    template <Layout LAYOUT>
    struct Piece {
        unsigned raw[PIECE];

        // The piece's place in the slice: its index along SIDE and along DEPTH.
        __device__ __forceinline__ static int side() {
            return LAYOUT == Layout::DEPTH ? threadIdx.x / (DEPTH / PIECE)
                                           : threadIdx.x % (SIDE / PIECE) * PIECE;
        }
        __device__ __forceinline__ static int depth() {
            return LAYOUT == Layout::DEPTH ? threadIdx.x % (DEPTH / PIECE) * PIECE
                                           : threadIdx.x / (SIDE / PIECE);
        }

        // `first` and `k` are the slice's corner; beyond `count` and `depth_end` are zeros.
        template <class Rows>
        __device__ __forceinline__ void load(const Rows& operand, unsigned first, unsigned count,
                                             unsigned k, unsigned depth_end) {
            const unsigned i = ptx::opaque(first) + side();
            k += depth();
            unsigned valid = 0;
            if (i < count && k < depth_end) {
                valid = LAYOUT == Layout::DEPTH ? depth_end - k : count - i;
            }
            // One address, made anew for every piece: kept across the slices, the addresses of every
            // type and layout would cost the registers that the tile needs.
            k = ptx::opaque(k);
            const long long offset = LAYOUT == Layout::DEPTH ? operand.row(i) * operand.stride + k
                                                             : k * operand.stride + i;
            const bool full = operand.type == F32;
            const char* from = static_cast<const char*>(operand.data) + (offset << (full ? 2 : 1));
            if (valid >= PIECE && operand.aligned) {
                const uint4 low = reinterpret_cast<const uint4*>(from)[0];
                raw[0] = low.x, raw[1] = low.y, raw[2] = low.z, raw[3] = low.w;
                if (full) {
                    const uint4 high = reinterpret_cast<const uint4*>(from)[1];
                    raw[4] = high.x, raw[5] = high.y, raw[6] = high.z, raw[7] = high.w;
                }
                return;
            }
#pragma unroll
            for (int j = 0; j < PIECE; ++j) raw[j] = 0;
            if (full) {
#pragma unroll
                for (int j = 0; j < PIECE; ++j) {
                    if (j < valid) raw[j] = reinterpret_cast<const unsigned*>(from)[j];
                }
            } else {
#pragma unroll
                for (int j = 0; j < PIECE; ++j) {
                    if (j < valid)
                        raw[j / 2] |= static_cast<unsigned>(
                                          reinterpret_cast<const unsigned short*>(from)[j])
                                      << (j % 2 * 16);
                }
            }
        }

        __device__ __forceinline__ void store(int type, float (&slice)[DEPTH][SIDE]) const {
            float value[PIECE];
            if (type == F32) {
#pragma unroll
                for (int j = 0; j < PIECE; ++j) value[j] = __uint_as_float(raw[j]);
            } else if (type == F16) {
#pragma unroll
                for (int j = 0; j < PIECE; ++j)
                    value[j] = ptx::f16_to_f32(raw[j / 2] >> (j % 2 * 16));
            } else {
#pragma unroll
                for (int j = 0; j < PIECE; ++j)
                    value[j] = ptx::bf16_to_f32(raw[j / 2] >> (j % 2 * 16));
            }
            const int i = ptx::opaque(unsigned(side())), k = ptx::opaque(unsigned(depth()));
            if (LAYOUT == Layout::DEPTH) {
#pragma unroll
                for (int j = 0; j < PIECE; ++j) slice[k + j][i ^ swizzle(k)] = value[j];
            } else {
                float4* to = reinterpret_cast<float4*>(&slice[k][i ^ swizzle(k)]);
                to[0] = make_float4(value[0], value[1], value[2], value[3]);
                to[1] = make_float4(value[4], value[5], value[6], value[7]);
            }
        }
    };

    // The tile whose corner is (i0, j0) of C, `rows` x `columns` being all of C, summed over
    // k_begin <= k < k_end. All threads of the block; shared memory may be used afterwards. Rows: an
    // Operand, or Picked.
    template <Layout A, Layout B, class Rows = Operand>
    __device__ __forceinline__ void multiply(const Rows& a, unsigned i0, unsigned rows,
                                             const Operand& b, unsigned j0, unsigned columns,
                                             unsigned k_begin, unsigned k_end, Storage& storage) {
#pragma unroll
        for (int r = 0; r < ROWS; ++r)
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c) accumulator[r][c] = 0.0f;
        Piece<A> next_a;
        Piece<B> next_b;
        next_a.load(a, i0, rows, k_begin, k_end);
        next_b.load(b, j0, columns, k_begin, k_end);
        next_a.store(a.type, storage.a[0]);
        next_b.store(b.type, storage.b[0]);
        __syncthreads();
        int stage = 0;
#pragma unroll 1
        for (unsigned k = k_begin; k < k_end; k += DEPTH) {
            const bool more = k_end - k > DEPTH;
            if (more) {
                next_a.load(a, i0, rows, k + DEPTH, k_end);
                next_b.load(b, j0, columns, k + DEPTH, k_end);
            }
            slice(storage.a[stage], storage.b[stage]);
            stage ^= 1;
            if (more) {
                next_a.store(a.type, storage.a[stage]);
                next_b.store(b.type, storage.b[stage]);
            }
            __syncthreads();
        }
    }

private:
    __device__ __forceinline__ void slice(const float (&a)[DEPTH][SIDE],
                                          const float (&b)[DEPTH][SIDE]) {
#pragma unroll 1
        for (int half = 0; half < DEPTH; half += PIECE) {
            const int i = row(0) ^ swizzle(half), j = column(0) ^ swizzle(half);
// Two steps hide the reads from shared memory; more cost the registers of the next slice.
#pragma unroll 2
            for (int k = 0; k < PIECE; ++k) {
                float left[ROWS], right[COLUMNS];
                read(left, a[half + k], i);
                read(right, b[half + k], j);
#pragma unroll
                for (int r = 0; r < ROWS; ++r)
#pragma unroll
                    for (int c = 0; c < COLUMNS; ++c)
                        accumulator[r][c] = fmaf(left[r], right[c], accumulator[r][c]);
            }
        }
    }

    __device__ __forceinline__ static void read(float (&to)[EACH], const float (&from)[SIDE],
                                                int start) {
#pragma unroll
        for (int group = 0; group < EACH / 4; ++group) {
            const float4 four =
                *reinterpret_cast<const float4*>(&from[start + group * ACROSS * 4]);
            to[4 * group] = four.x, to[4 * group + 1] = four.y;
            to[4 * group + 2] = four.z, to[4 * group + 3] = four.w;
        }
    }
};

// The two sizes: large for full chips, small for batches that would leave most of one idle.
using Large = Simt<128, 8>;
using Small = Simt<32, 4>;

}  // namespace tile
