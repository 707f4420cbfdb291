// What plain CUDA C++ makes a compiler emit: calls, recursion, function pointers, jump tables, local arrays,
// 64-bit and double arithmetic, slow paths of the mathematical functions.

__device__ __noinline__ unsigned fibonacci(unsigned n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

__device__ __noinline__ int twice(int x) { return 2 * x; }
__device__ __noinline__ int square(int x) { return x * x; }
__device__ __noinline__ int negate(int x) { return -x; }
typedef int (*unary)(int);
__device__ unary table[3] = {twice, square, negate};

extern "C" __global__ void recursion(unsigned* out) { out[threadIdx.x] = fibonacci(threadIdx.x % 12); }

extern "C" __global__ void pointers(int* out) { out[threadIdx.x] = table[threadIdx.x % 3]((int)threadIdx.x); }

extern "C" __global__ void jumps(int* out, const int* in) {
    int i = threadIdx.x, v = in[i], r;
    switch (v) {
        case 0: r = 11; break;
        case 1: r = v * 31 + i; break;
        case 2: r = i ^ 0x55; break;
        case 3: r = i / 3; break;
        case 4: r = i % 7; break;
        case 5: r = i << 3; break;
        case 6: r = ~i; break;
        case 7: r = i * i; break;
        default: r = -1;
    }
    out[i] = r;
}

struct Pair { short a; double b; };

extern "C" __global__ void arrays(double* out, const int* in, int n) {
    Pair local[8];
    for (int i = 0; i < 8; i++) { local[i].a = (short)(i - 4); local[i].b = i * 0.5; }
    double sum = 0;
    for (int i = 0; i < n; i++) { int k = (in[i] + threadIdx.x) & 7; local[k].b += local[7 - k].a; sum += local[k].b; }
    out[threadIdx.x] = sum;
}

extern "C" __global__ void wide(unsigned long long* out, const unsigned long long* a, const unsigned long long* b) {
    int i = threadIdx.x;
    unsigned long long x = a[i], y = b[i];
    out[6 * i + 0] = x / y;
    out[6 * i + 1] = x % y;
    out[6 * i + 2] = (unsigned long long)((long long)x / (long long)y);
    out[6 * i + 3] = __umul64hi(x, y);
    out[6 * i + 4] = (unsigned long long)__mul64hi((long long)x, (long long)y);
    out[6 * i + 5] = __popcll(x) + __clzll(y) + (x >> (y & 63));
}

extern "C" __global__ void functions(float* out, double* out2, const float* in) {
    int i = threadIdx.x;
    float x = in[i];
    out[8 * i + 0] = sinf(x);
    out[8 * i + 1] = cosf(x * 100000.0f);
    out[8 * i + 2] = expf(x);
    out[8 * i + 3] = logf(fabsf(x) + 1e-20f);
    out[8 * i + 4] = tanhf(x);
    out[8 * i + 5] = powf(fabsf(x), 1.5f);
    out[8 * i + 6] = erff(x);
    out[8 * i + 7] = x / 3.0f + sqrtf(fabsf(x)) + rsqrtf(fabsf(x) + 1.0f);
    out2[4 * i + 0] = sin((double)x);
    out2[4 * i + 1] = exp((double)x);
    out2[4 * i + 2] = log(fabs((double)x) + 1.0);
    out2[4 * i + 3] = pow(fabs((double)x) + 0.5, 0.3) / 7.0;
}

extern "C" __global__ void bytes(unsigned char* out, const unsigned char* in, const short* shorts, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = (unsigned char)(in[i] * 3 + (shorts[i] >> 2) + (signed char)in[n - 1 - i]);
}
