// The three kernels of a convolution on tensor cores: v3 and v4, for sm_80 and later. For C / groups and K / groups
// that are multiples of 4. Grids and weights as those of v2, with tiles of 128 × 128 or, narrow, 128 × 64; blocks of
// 256. A value is loaded for 128 operations, or 85.
//
// A warp's instruction mma.sync multiplies 16 × 8 by 8 × 8 words of 32 bits and adds to 16 × 8 sums in fp32. A word
// is one value of TF32 (v3), or two of bf16 that are neighbours along the depth (v4): the rest is the same for both.
// A lane holds four words of the first matrix, two of the second and four sums (common.cuh). A warp makes 64 × 32
// sums of a tile, or of a narrow one 32 × 32: of what it reads from shared memory, it uses words of the first matrix
// for 4 instructions, and of the second for 4 or 2.
//
// Tiles lie in shared memory as in global memory: the first matrix as [rows][words] if its values lie ALONG the depth,
// else, as the second always, as [words][columns]. Rows are 4 or 8 words longer than that, so that the 32 lanes, which
// read words t of rows g or rows t of columns g (g = lane / 4, t = lane % 4), find them in 32 banks: a row is an odd
// number of fours there, and 8 more than a multiple of 32 here.
#include "conv_loops.cuh"

constexpr int BM = 128, DEPTH = 16, PAIRS = DEPTH / 2;

template <int SIDE, int WORDS, bool ALONG> constexpr int PITCH = ALONG ? WORDS + 4 : SIDE + 8;
template <int SIDE, int WORDS, bool ALONG> constexpr int SIZE = (ALONG ? SIDE : WORDS) * PITCH<SIDE, WORDS, ALONG>;

// Where a row's or column's word of the depth lies in a tile.
template <int SIDE, int WORDS, bool ALONG> __device__ __forceinline__ int place(int side, int word) {
  return ALONG ? side * PITCH<SIDE, WORDS, true> + word : word * PITCH<SIDE, WORDS, false> + side;
}

__device__ __forceinline__ float rounded(float x) { return to_tf32(x); }
__device__ __forceinline__ uint32_t rounded(uint32_t pair) { return pair; }  // before it came to shared memory

using Pairs = uint32_t;
__device__ __forceinline__ void mma(float (&c)[4], const float (&a)[4], const float (&b)[2]) { mma_tf32(c, a, b); }
__device__ __forceinline__ void mma(float (&c)[4], const Pairs (&a)[4], const Pairs (&b)[2]) { mma_bf16(c, a, b); }

// The warps of a block: BN / 32 side by side, the others below them.
template <int BN> constexpr int WARP_ROWS = BM * BN / 32 / 8;
template <int BN> using Sums = float[WARP_ROWS<BN> / 16][4][4];
template <int BN> __device__ __forceinline__ int warp_row() { return threadIdx.x / BN * WARP_ROWS<BN>; }
template <int BN> __device__ __forceinline__ int warp_column() { return threadIdx.x / 32 % (BN / 32) * 32; }

// sum += a·b of two tiles.
template <int BN, int WORDS, bool ALONG, class Word>
__device__ __forceinline__ void multiply_words(const Word *a, const Word *b, Sums<BN> &sum) {
  constexpr int ROWS = WARP_ROWS<BN>;
  int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, row = warp_row<BN>() + g, column = warp_column<BN>() + g;
#pragma unroll
  for (int k = 0; k < WORDS; k += 8) {
    Word v[4][2];
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int q = 0; q < 2; q++) v[j][q] = rounded(b[place<BN, WORDS, false>(column + 8 * j, k + t + q * 4)]);
#pragma unroll
    for (int i = 0; i < ROWS / 16; i++) {
      Word u[4];
#pragma unroll
      for (int q = 0; q < 4; q++)
        u[q] = rounded(a[place<BM, WORDS, ALONG>(row + 16 * i + q % 2 * 8, k + t + q / 2 * 4)]);
#pragma unroll
      for (int j = 0; j < 4; j++) mma(sum[i][j], u, v[j]);
    }
  }
}

// A lane has pairs of columns: four lanes write 32 bytes side by side.
template <int BN, class Task>
__device__ __forceinline__ void store_sums(const Task &task, const int *places, const Sums<BN> &sum) {
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < WARP_ROWS<BN> / 8; i++) {
    int place = places[warp_row<BN>() + 8 * i + lane / 4];
#pragma unroll
    for (int j = 0; j < 4; j++) {
      float *to = destination(task, place, warp_column<BN>() + 8 * j + lane % 4 * 2);
      if (to) *(float2 *)to = make_float2(sum[i / 2][j][i % 2 * 2], sum[i / 2][j][i % 2 * 2 + 1]);
    }
  }
}

// v3: TF32, the 8 bits of exponent of fp32 and 10 of its 23 bits of mantissa.
//
// v2 moves each value from global memory to a register and from there to shared memory. cp.async goes there at once,
// and nobody waits for it until `await_copies`: while tiles are multiplied, those of the STAGES - 1 steps to come are
// on their way, without a register for them. Where a window reaches over the image's edge, cp.async writes zeros.
template <class Operand> __device__ __forceinline__ void copy_four(float *to, const Operand &from, const float *p) {
  copy_async(to, p ? p : from.base, p != nullptr);
}

template <int BN, int STAGES, class Task>
__device__ __forceinline__ void multiply_tf32(float *a, float *b, int *places, Task task) {
  constexpr bool ALONG = Task::ALONG;
  constexpr int SIZE_A = SIZE<BM, DEPTH, ALONG>, SIZE_B = SIZE<BN, DEPTH, false>;
  task.take(BM, BN, DEPTH);
  if (task.part.row >= task.rows) return;  // the whole block
  int t = threadIdx.x, a_side = ALONG ? t / 4 : t % 32 * 4, a_k = ALONG ? t % 4 * 4 : t / 32;
  int b_k = t / (BN / 4), b_side = t % (BN / 4) * 4;
  constexpr int SIDES = ALONG ? 64 : 0, KS = ALONG ? 0 : 8, B_KS = 1024 / BN;  // to a thread's next four values
  auto left0 = task.left(a_side, a_k, DEPTH), left1 = task.left(a_side + SIDES, a_k + KS, DEPTH);
  auto right = task.right(b_k, b_side, DEPTH);
  int depth = task.part.end - task.part.begin;
  auto begin_copies = [&](int stage, int rest) {
    if (rest > 0) {
      float *to_a = a + stage * SIZE_A, *to_b = b + stage * SIZE_B;
      copy_four(to_a + place<BM, DEPTH, ALONG>(a_side, a_k), left0, left0.address(rest, 0));
      copy_four(to_a + place<BM, DEPTH, ALONG>(a_side + SIDES, a_k + KS), left1, left1.address(rest, 0));
#pragma unroll
      for (int i = 0; i < BN / 64; i++)
        copy_four(to_b + place<BN, DEPTH, false>(b_side, b_k + i * B_KS), right, right.address(rest, 0, i * B_KS));
      left0.next(), left1.next(), right.next();
    }
    commit_copies();  // an empty group, too: one for each step, whatever is in it
  };
  if (t < BM) places[t] = task.place(t);
  __syncthreads();  // the places are there
  Sums<BN> sum = {};
#pragma unroll
  for (int stage = 0; stage < STAGES - 1; stage++) begin_copies(stage, depth - stage * DEPTH);
  int stage = 0;
  for (int rest = depth; rest > 0; rest -= DEPTH, stage = (stage + 1) % STAGES) {
    await_copies<STAGES - 2>();
    __syncthreads();  // all threads' copies have landed, and nobody reads the stage that is the next to be filled
    begin_copies((stage + STAGES - 1) % STAGES, rest - (STAGES - 1) * DEPTH);
    multiply_words<BN, DEPTH, ALONG>(a + stage * SIZE_A, b + stage * SIZE_B, sum);
  }
  store_sums<BN>(task, places, sum);
}

// v4: bf16, the exponent of fp32 and 7 bits of mantissa, two values in a word. One instruction does twice as much as
// one of v3, for as many words of shared memory.
//
// What comes is fp32, so it goes through registers, where it is rounded: each value once, not once for each warp that
// reads it. As in v2, the next tiles are on their way to registers while those in shared memory are multiplied. A word
// takes neighbours along the depth, and a thread makes four at once: of eight values that lie along it, or of two times
// four below each other.
__device__ __forceinline__ uint4 along(float4 p, float4 q) {
  return make_uint4(to_bf16(p.x, p.y), to_bf16(p.z, p.w), to_bf16(q.x, q.y), to_bf16(q.z, q.w));
}

__device__ __forceinline__ uint4 across(float4 p, float4 q) {
  return make_uint4(to_bf16(p.x, q.x), to_bf16(p.y, q.y), to_bf16(p.z, q.z), to_bf16(p.w, q.w));
}

template <int BN, class Task>
__device__ __forceinline__ void multiply_bf16(uint32_t *a, uint32_t *b, int *places, Task task) {
  constexpr bool ALONG = Task::ALONG;
  constexpr int SIZE_A = SIZE<BM, PAIRS, ALONG>, SIZE_B = SIZE<BN, PAIRS, false>;
  task.take(BM, BN, DEPTH);
  if (task.part.row >= task.rows) return;  // the whole block
  int t = threadIdx.x, a_side = ALONG ? t / 2 : t % 32 * 4, a_pair = ALONG ? t % 2 * 4 : t / 32;
  int b_pair = t / (BN / 4), b_side = t % (BN / 4) * 4;
  bool loads_b = BN == 128 || b_pair < PAIRS;  // with 64 columns, half of the threads
  auto left = task.left(a_side, a_pair * 2, DEPTH);
  auto right = task.right(b_pair * 2, b_side, DEPTH);
  float4 x[2], w[2];
  auto fetch = [&](int rest) {
    x[0] = four_at(left.address(rest, 0)), x[1] = four_at(ALONG ? left.address(rest, 4) : left.address(rest, 0, 1));
    left.next();
    if (!loads_b) return;
    w[0] = four_at(right.address(rest, 0)), w[1] = four_at(right.address(rest, 0, 1));
    right.next();
  };
  int depth = task.part.end - task.part.begin;
  fetch(depth);
  if (t < BM) places[t] = task.place(t);
  __syncthreads();  // the places are there
  Sums<BN> sum = {};
  int now = 0;
  for (int rest = depth; rest > 0; rest -= DEPTH, now ^= 1) {
    uint32_t *to_a = a + now * SIZE_A, *to_b = b + now * SIZE_B;
    *(uint4 *)&to_a[place<BM, PAIRS, ALONG>(a_side, a_pair)] = ALONG ? along(x[0], x[1]) : across(x[0], x[1]);
    if (loads_b) *(uint4 *)&to_b[place<BN, PAIRS, false>(b_side, b_pair)] = across(w[0], w[1]);
    __syncthreads();  // the tiles are there, and nobody is before them any more: the other two may be replaced
    fetch(rest - DEPTH);  // zeros, unread, after the last
    multiply_words<BN, PAIRS, ALONG>(to_a, to_b, sum);
  }
  store_sums<BN>(task, places, sum);
}

// Forward -----------------------------------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(256, 2)
    conv_forward_tf32(const float *__restrict__ x, const float *__restrict__ w, float *__restrict__ y, int N, int C,
                      int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h, int stride_w,
                      int dilation_h, int dilation_w, int pad_h, int pad_w, int splits) {
  __shared__ __align__(16) float a[2 * SIZE<BM, DEPTH, true>], b[2 * SIZE<128, DEPTH, false>];
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  __shared__ int places[BM];
  multiply_tf32<128, 2>(a, b, places, forward(s, x, w, y, splits));
}

extern "C" __global__ void __launch_bounds__(256, 2)
    conv_forward_tf32_narrow(const float *__restrict__ x, const float *__restrict__ w, float *__restrict__ y, int N,
                             int C, int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h,
                             int stride_w, int dilation_h, int dilation_w, int pad_h, int pad_w, int splits) {
  __shared__ __align__(16) float a[3 * SIZE<BM, DEPTH, true>], b[3 * SIZE<64, DEPTH, false>];
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  __shared__ int places[BM];
  multiply_tf32<64, 3>(a, b, places, forward(s, x, w, y, splits));
}

extern "C" __global__ void __launch_bounds__(256, 2)
    conv_forward_bf16(const float *__restrict__ x, const float *__restrict__ w, float *__restrict__ y, int N, int C,
                      int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h, int stride_w,
                      int dilation_h, int dilation_w, int pad_h, int pad_w, int splits) {
  __shared__ __align__(16) uint32_t a[2 * SIZE<BM, PAIRS, true>], b[2 * SIZE<128, PAIRS, false>];
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  __shared__ int places[BM];
  multiply_bf16<128>(a, b, places, forward(s, x, w, y, splits));
}

extern "C" __global__ void __launch_bounds__(256, 2)
    conv_forward_bf16_narrow(const float *__restrict__ x, const float *__restrict__ w, float *__restrict__ y, int N,
                             int C, int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h,
                             int stride_w, int dilation_h, int dilation_w, int pad_h, int pad_w, int splits) {
  __shared__ __align__(16) uint32_t a[2 * SIZE<BM, PAIRS, true>], b[2 * SIZE<64, PAIRS, false>];
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  __shared__ int places[BM];
  multiply_bf16<64>(a, b, places, forward(s, x, w, y, splits));
}


// Input gradient ----------------------------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(256, 2)
    conv_transpose_tf32(const float *__restrict__ y, const float *__restrict__ w, float *__restrict__ x, int N, int C,
                        int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h, int stride_w,
                        int dilation_h, int dilation_w, int pad_h, int pad_w, int splits) {
  __shared__ __align__(16) float a[2 * SIZE<BM, DEPTH, true>], b[2 * SIZE<128, DEPTH, false>];
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  __shared__ int places[BM];
  multiply_tf32<128, 2>(a, b, places, backward(s, y, w, x, splits));
}

extern "C" __global__ void __launch_bounds__(256, 2)
    conv_transpose_tf32_narrow(const float *__restrict__ y, const float *__restrict__ w, float *__restrict__ x, int N,
                               int C, int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h,
                               int stride_w, int dilation_h, int dilation_w, int pad_h, int pad_w, int splits) {
  __shared__ __align__(16) float a[3 * SIZE<BM, DEPTH, true>], b[3 * SIZE<64, DEPTH, false>];
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  __shared__ int places[BM];
  multiply_tf32<64, 3>(a, b, places, backward(s, y, w, x, splits));
}

extern "C" __global__ void __launch_bounds__(256, 2)
    conv_transpose_bf16(const float *__restrict__ y, const float *__restrict__ w, float *__restrict__ x, int N, int C,
                        int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h, int stride_w,
                        int dilation_h, int dilation_w, int pad_h, int pad_w, int splits) {
  __shared__ __align__(16) uint32_t a[2 * SIZE<BM, PAIRS, true>], b[2 * SIZE<128, PAIRS, false>];
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  __shared__ int places[BM];
  multiply_bf16<128>(a, b, places, backward(s, y, w, x, splits));
}

extern "C" __global__ void __launch_bounds__(256, 2)
    conv_transpose_bf16_narrow(const float *__restrict__ y, const float *__restrict__ w, float *__restrict__ x, int N,
                               int C, int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h,
                               int stride_w, int dilation_h, int dilation_w, int pad_h, int pad_w, int splits) {
  __shared__ __align__(16) uint32_t a[2 * SIZE<BM, PAIRS, true>], b[2 * SIZE<64, PAIRS, false>];
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  __shared__ int places[BM];
  multiply_bf16<64>(a, b, places, backward(s, y, w, x, splits));
}


// Weight gradient ---------------------------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(256, 2)
    conv_weight_tf32(const float *__restrict__ x, const float *__restrict__ y, float *__restrict__ parts, int N, int C,
                     int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h, int stride_w,
                     int dilation_h, int dilation_w, int pad_h, int pad_w, int splits) {
  __shared__ __align__(16) float a[2 * SIZE<BM, DEPTH, false>], b[2 * SIZE<128, DEPTH, false>];
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  __shared__ int places[BM];
  multiply_tf32<128, 2>(a, b, places, WindowSum{x, y, parts, splits, s});
}

extern "C" __global__ void __launch_bounds__(256, 2)
    conv_weight_tf32_narrow(const float *__restrict__ x, const float *__restrict__ y, float *__restrict__ parts, int N,
                            int C, int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h,
                            int stride_w, int dilation_h, int dilation_w, int pad_h, int pad_w, int splits) {
  __shared__ __align__(16) float a[3 * SIZE<BM, DEPTH, false>], b[3 * SIZE<64, DEPTH, false>];
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  __shared__ int places[BM];
  multiply_tf32<64, 3>(a, b, places, WindowSum{x, y, parts, splits, s});
}

extern "C" __global__ void __launch_bounds__(256, 2)
    conv_weight_bf16(const float *__restrict__ x, const float *__restrict__ y, float *__restrict__ parts, int N, int C,
                     int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h, int stride_w,
                     int dilation_h, int dilation_w, int pad_h, int pad_w, int splits) {
  __shared__ __align__(16) uint32_t a[2 * SIZE<BM, PAIRS, false>], b[2 * SIZE<128, PAIRS, false>];
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  __shared__ int places[BM];
  multiply_bf16<128>(a, b, places, WindowSum{x, y, parts, splits, s});
}

extern "C" __global__ void __launch_bounds__(256, 2)
    conv_weight_bf16_narrow(const float *__restrict__ x, const float *__restrict__ y, float *__restrict__ parts, int N,
                            int C, int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h,
                            int stride_w, int dilation_h, int dilation_w, int pad_h, int pad_w, int splits) {
  __shared__ __align__(16) uint32_t a[2 * SIZE<BM, PAIRS, false>], b[2 * SIZE<64, PAIRS, false>];
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  __shared__ int places[BM];
  multiply_bf16<64>(a, b, places, WindowSum{x, y, parts, splits, s});
}
