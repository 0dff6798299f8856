// C = A·B, A [M, K], B [K, N], C [M, N], rows one after the other.
//
// Every rung does 2·M·N·K floating-point operations. What differs is how often an element is read from global memory,
// and from v2 on also how often from shared memory. v3 and v4, on tensor cores, are in gemm_tensor.cu.
#include "gemm.cuh"

// v0: a thread for each element of C. Grid (N / 16, M / 16), block (16, 16).
// Reads 2·M·N·K elements: each of A N times, each of B M times, mostly from caches.
extern "C" __global__ void gemm_naive(const float *A, const float *B, float *C, int M, int N, int K) {
  int row = blockIdx.y * blockDim.y + threadIdx.y, column = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= M || column >= N) return;
  float sum = 0;
  for (int k = 0; k < K; k++) sum += A[row * K + k] * B[k * N + column];
  C[row * N + column] = sum;
}

// v1: a block makes 16 × 16 elements, from tiles of 16 × 16 that it holds in shared memory. Grid and block as v0.
// Reads M·N·K / 8 elements: each of A N / 16 times, each of B M / 16 times.
constexpr int TILE = 16;

extern "C" __global__ void __launch_bounds__(256)
    gemm_tiled(const float *__restrict__ A, const float *__restrict__ B, float *__restrict__ C, int M, int N, int K) {
  __shared__ float a[TILE][TILE], b[TILE][TILE];
  int y = threadIdx.y, x = threadIdx.x, row = blockIdx.y * TILE + y, column = blockIdx.x * TILE + x;
  float sum = 0;
  for (int k0 = 0; k0 < K; k0 += TILE) {
    a[y][x] = row < M && k0 + x < K ? A[row * K + k0 + x] : 0;
    b[y][x] = k0 + y < K && column < N ? B[(k0 + y) * N + column] : 0;
    __syncthreads();  // the tiles are there
#pragma unroll
    for (int k = 0; k < TILE; k++) sum += a[y][k] * b[k][x];
    __syncthreads();  // nobody needs them any more
  }
  if (row < M && column < N) C[row * N + column] = sum;
}

// v2: a thread makes 8 × 8 elements in registers, a block of 256 threads 128 × 128.
//
// v1 reads two values from shared memory for each multiply-add, and shared memory cannot bring as many. Here a thread
// reads 8 + 8 values and multiplies each with each: 16 reads for 64 multiply-adds, in four loads of 16 bytes.
// Reads M·N·K / 64 elements from global memory, four at once where rows are aligned: 32 operations for each byte of an
// operand. The next tiles are fetched into registers while the multiplications with those in shared memory run, and go
// to a second pair of buffers, so that there is one barrier for each depth of 8.
//
// Tiles lie in shared memory with k first, whatever their order in global memory, for then what a thread needs for one
// k is side by side. `ALONG_K` is the order in global memory: whether k runs along the rows, as in A and Bᵀ.
template <int SIDE> constexpr int DEPTH = 1024 / SIDE;  // so that each of 256 threads fetches four values of a tile
template <int SIDE> using Tile = float[DEPTH<SIDE>][SIDE + 4];  // 4 more, against bank conflicts while it is written

template <int SIDE, bool ALONG_K> __device__ __forceinline__ float4 fetch(const Operand &x, int k0) {
  constexpr int ACROSS = (ALONG_K ? DEPTH<SIDE> : SIDE) / 4;
  int y = threadIdx.x / ACROSS, four = threadIdx.x % ACROSS * 4;
  return ALONG_K ? load4(x, x.first + y, k0 + four) : load4(x, k0 + y, x.first + four);
}

template <int SIDE, bool ALONG_K> __device__ __forceinline__ void put(Tile<SIDE> &tile, float4 x) {
  constexpr int ACROSS = (ALONG_K ? DEPTH<SIDE> : SIDE) / 4;
  int y = threadIdx.x / ACROSS, four = threadIdx.x % ACROSS * 4;
  if (ALONG_K)
    tile[four][y] = x.x, tile[four + 1][y] = x.y, tile[four + 2][y] = x.z, tile[four + 3][y] = x.w;
  else
    *(float4 *)&tile[y][four] = x;
}

// A thread's rows (and columns, likewise) are 4·y to 4·y + 3, and of 128 also 64 + 4·y to 64 + 4·y + 3. So neighbours
// in a warp read neighbouring fours, without bank conflicts, and write whole lines of C.
__device__ __forceinline__ int place(int thread, int i) { return i / 4 * 64 + thread * 4 + i % 4; }

template <int SIDE> __device__ __forceinline__ void read_places(float (&x)[SIDE / 16], const float *row, int thread) {
#pragma unroll
  for (int i = 0; i < SIDE / 16; i += 4) {
    float4 four = *(const float4 *)&row[place(thread, i)];
    x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
  }
}

template <int SIDE, bool A_ALONG_K, bool B_ALONG_K>
__device__ __forceinline__ void sums_in_registers(const Operand &A, const Operand &B, const Part &part, Tile<SIDE> *a,
                                                  Tile<SIDE> *b, float (&c)[SIDE / 16][SIDE / 16]) {
  int y = threadIdx.x / 16, x = threadIdx.x % 16, now = 0;
  float4 next_a = fetch<SIDE, A_ALONG_K>(A, part.begin), next_b = fetch<SIDE, B_ALONG_K>(B, part.begin);
  for (int k0 = part.begin; k0 < part.end; k0 += DEPTH<SIDE>, now ^= 1) {
    put<SIDE, A_ALONG_K>(a[now], next_a);
    put<SIDE, B_ALONG_K>(b[now], next_b);
    __syncthreads();  // these tiles are there, and nobody is before them any more, so that the others may be replaced
    if (k0 + DEPTH<SIDE> < part.end) {
      next_a = fetch<SIDE, A_ALONG_K>(A, k0 + DEPTH<SIDE>);
      next_b = fetch<SIDE, B_ALONG_K>(B, k0 + DEPTH<SIDE>);
    }
#pragma unroll 2  // with more, 128 registers do not suffice, and with those two blocks fit on a multiprocessor
    for (int k = 0; k < DEPTH<SIDE>; k++) {
      float from_a[SIDE / 16], from_b[SIDE / 16];
      read_places<SIDE>(from_a, a[now][k], y);
      read_places<SIDE>(from_b, b[now][k], x);
#pragma unroll
      for (int i = 0; i < SIDE / 16; i++)
#pragma unroll
        for (int j = 0; j < SIDE / 16; j++) c[i][j] += from_a[i] * from_b[j];
    }
  }
}

template <int SIDE>
__device__ __forceinline__ void store_registers(const Gemm &g, const Part &part,
                                                const float (&c)[SIDE / 16][SIDE / 16]) {
  bool by_fours = g.N % 4 == 0 && (uint64_t)part.C % 16 == 0;
#pragma unroll
  for (int j = 0; j < SIDE / 16; j += 4) {
    int column = part.column + place(threadIdx.x % 16, j);
    float bias[4];
#pragma unroll
    for (int i = 0; i < 4; i++) bias[i] = g.bias && column + i < g.N ? g.bias[column + i] : 0;
#pragma unroll
    for (int i = 0; i < SIDE / 16; i++) {
      int row = part.row + place(threadIdx.x / 16, i);
      if (row >= g.M || column >= g.N) continue;
      float *to = part.C + row * g.N + column, y[4];
#pragma unroll
      for (int q = 0; q < 4; q++) y[q] = leaky(c[i][j + q] + bias[q], g.slope);
      if (by_fours)
        *(float4 *)to = make_float4(y[0], y[1], y[2], y[3]);
      else
#pragma unroll
        for (int q = 0; q < 4; q++)
          if (column + q < g.N) to[q] = y[q];
    }
  }
}

template <int SIDE> __device__ __forceinline__ void gemm_by_registers(const Gemm &g, Tile<SIDE> *a, Tile<SIDE> *b) {
  Part part = part_of_block<SIDE>(g);
  Operand A = operand_a(g, part.row), B = operand_b(g, part.column);
  float c[SIDE / 16][SIDE / 16] = {};
  if (g.transposed_a && g.transposed_b)
    sums_in_registers<SIDE, false, true>(A, B, part, a, b, c);
  else if (g.transposed_a)
    sums_in_registers<SIDE, false, false>(A, B, part, a, b, c);
  else if (g.transposed_b)
    sums_in_registers<SIDE, true, true>(A, B, part, a, b, c);
  else
    sums_in_registers<SIDE, true, false>(A, B, part, a, b, c);
  store_registers<SIDE>(g, part, c);
}

extern "C" __global__ void __launch_bounds__(256, 2)
    gemm_registers(const float *__restrict__ A, const float *__restrict__ B, const float *__restrict__ bias,
                   float *__restrict__ C, int M, int N, int K, bool transposed_a, bool transposed_b, int stride_a,
                   int stride_b, int chunk, float slope) {
  __shared__ __align__(16) Tile<128> a[2], b[2];
  gemm_by_registers<128>({A, B, bias, C, M, N, K, transposed_a, transposed_b, stride_a, stride_b, chunk, slope}, a, b);
}

// v2 for small C: tiles of 64 × 64, 4 × 4 elements a thread. Reads M·N·K / 32 elements, but there are four times as
// many blocks, and less is computed in vain where M or N is small.
extern "C" __global__ void __launch_bounds__(256)
    gemm_registers_small(const float *__restrict__ A, const float *__restrict__ B, const float *__restrict__ bias,
                         float *__restrict__ C, int M, int N, int K, bool transposed_a, bool transposed_b,
                         int stride_a, int stride_b, int chunk, float slope) {
  __shared__ __align__(16) Tile<64> a[2], b[2];
  gemm_by_registers<64>({A, B, bias, C, M, N, K, transposed_a, transposed_b, stride_a, stride_b, chunk, slope}, a, b);
}

// What ends a product whose K was split: C = leaky(sum of the splits + bias), always added up in their order, so that
// results repeat bit for bit. Grid (M·N / 256, matrices), block 256. partial [matrices, splits, M·N].
// Reads splits · M · N elements, which are still in the L2 cache if the product is small.
extern "C" __global__ void __launch_bounds__(256)
    gemm_split_sum(const float *__restrict__ partial, const float *__restrict__ bias, float *__restrict__ C, int size,
                   int N, int splits, float slope) {
  int i = blockIdx.x * 256 + threadIdx.x;
  if (i >= size) return;
  const float *from = partial + (int)blockIdx.y * splits * size + i;
  float sum = 0;
  for (int split = 0; split < splits; split++) sum += from[split * size];
  C[(int)blockIdx.y * size + i] = leaky(sum + (bias ? bias[i % N] : 0), slope);
}
