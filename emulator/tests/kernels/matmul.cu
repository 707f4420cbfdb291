// C = A·Bᵀ for bf16, row-major, on tensor cores: cp.async in two stages, ldmatrix, mma.m16n8k16.
typedef unsigned u32;
typedef unsigned short u16;

__device__ __forceinline__ u32 address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

__device__ __forceinline__ void copy16(u32 to, const void* from, bool valid) {
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

extern "C" __global__ void __launch_bounds__(128) matmul(const u16* a, const u16* b, float* c, int m, int n, int k) {
    __shared__ __align__(128) u16 as[2][64][40];
    __shared__ __align__(128) u16 bs[2][64][40];
    int t = threadIdx.x, lane = t % 32, warp = t / 32, row = blockIdx.y * 64, col = blockIdx.x * 64;
    float acc[8][4] = {};
    auto fetch = [&](int stage, int at) {
        for (int i = 0; i < 2; i++) {
            int e = t + 128 * i, r = e / 4, x = e % 4 * 8;
            copy16(address(&as[stage][r][x]), a + (size_t)min(row + r, m - 1) * k + at + x, row + r < m);
            copy16(address(&bs[stage][r][x]), b + (size_t)min(col + r, n - 1) * k + at + x, col + r < n);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    };
    fetch(0, 0);
    for (int at = 0, stage = 0; at < k; at += 32, stage ^= 1) {
        if (at + 32 < k) {
            fetch(stage ^ 1, at + 32);
            asm volatile("cp.async.wait_group 1;" ::: "memory");
        } else {
            asm volatile("cp.async.wait_group 0;" ::: "memory");
        }
        __syncthreads();
        for (int kk = 0; kk < 32; kk += 16) {
            u32 x[4];
            u32 from = address(&as[stage][warp * 16 + lane % 16][kk + lane / 16 * 8]);
            asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                         : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(from));
            for (int j = 0; j < 8; j++) {
                u32 y[2];
                from = address(&bs[stage][j * 8 + lane % 8][kk + lane / 8 % 2 * 8]);
                asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(y[0]), "=r"(y[1]) : "r"(from));
                asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                             : "+f"(acc[j][0]), "+f"(acc[j][1]), "+f"(acc[j][2]), "+f"(acc[j][3])
                             : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]));
            }
        }
        __syncthreads();
    }
    for (int j = 0; j < 8; j++) for (int e = 0; e < 4; e++) {
        int r = row + warp * 16 + lane / 4 + e / 2 * 8, q = col + j * 8 + lane % 4 * 2 + e % 2;
        if (r < m && q < n) c[(size_t)r * n + q] = acc[j][e];
    }
}
