// C = A·B for row-major single precision: 64×64 tiles, 4×4 a thread, two barriers a step.
extern "C" __global__ void sgemm(const float* a, const float* b, float* c, int n) {
    __shared__ float as[16][64];
    __shared__ float bs[16][64];
    int tx = threadIdx.x, ty = threadIdx.y, t = ty * 16 + tx;
    int row = blockIdx.y * 64, col = blockIdx.x * 64;
    float acc[4][4] = {};
    for (int k = 0; k < n; k += 16) {
        for (int i = 0; i < 4; i++) {
            int e = t + 256 * i;
            as[e % 16][e / 16] = a[(size_t)(row + e / 16) * n + k + e % 16];
            bs[e / 64][e % 64] = b[(size_t)(k + e / 64) * n + col + e % 64];
        }
        __syncthreads();
#pragma unroll
        for (int kk = 0; kk < 16; kk++) {
            float x[4], y[4];
            for (int i = 0; i < 4; i++) { x[i] = as[kk][ty * 4 + i]; y[i] = bs[kk][tx + 16 * i]; }
            for (int i = 0; i < 4; i++) for (int j = 0; j < 4; j++) acc[i][j] += x[i] * y[j];
        }
        __syncthreads();
    }
    for (int i = 0; i < 4; i++) for (int j = 0; j < 4; j++)
        c[(size_t)(row + ty * 4 + i) * n + col + tx + 16 * j] = acc[i][j];
}
