// Small kernels that the driver's tests launch: what cudarc programs typically do. sample.ptx is
// NVRTC 13.0's output for compute_80, with no options besides.

// y = a x + y, one thread an element.
extern "C" __global__ void axpy(float a, const float *x, float *y, size_t n) {
    size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}

// One sum a block of 256 threads, through shuffles and shared memory.
extern "C" __global__ void block_sums(const float *x, float *sums, int n) {
    __shared__ float partial[8];
    int i = blockIdx.x * 256 + threadIdx.x;
    float v = i < n ? x[i] : 0.0f;
    for (int offset = 16; offset > 0; offset >>= 1) v += __shfl_xor_sync(0xffffffffu, v, offset);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = v;
    __syncthreads();
    if (threadIdx.x == 0) {
        float total = 0.0f;
        for (int w = 0; w < 8; w++) total += partial[w];
        sums[blockIdx.x] = total;
    }
}

struct Shape {
    unsigned long long rows;
    unsigned char kind;
    int strides[3];
};

// Parameters of every size, one of them a structure.
extern "C" __global__ void parameters(signed char a, short b, Shape shape, double c, unsigned char d, long long *out) {
    out[0] = a;
    out[1] = b;
    out[2] = shape.rows;
    out[3] = shape.kind;
    out[4] = shape.strides[0] + 10 * shape.strides[1] + 100 * shape.strides[2];
    out[5] = (long long)(c * 1000.0);
    out[6] = d;
}

// Reverses a row through dynamic shared memory.
extern "C" __global__ void reverse(const int *in, int *out, int n) {
    extern __shared__ int row[];
    for (int i = threadIdx.x; i < n; i += blockDim.x) row[i] = in[i];
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) out[i] = row[n - 1 - i];
}

// Writes one element too many.
extern "C" __global__ void one_too_many(int *out, int n) {
    int i = threadIdx.x;
    if (i <= n) out[i] = i;
}

// Counts with atomics.
extern "C" __global__ void count(unsigned int *counter) { atomicAdd(counter, 1u); }

__constant__ float scale = 2.0f;
extern "C" __global__ void scaled(float *x) { x[threadIdx.x] *= scale; }
