// Losses and softmax, each in one pass where separate array operations would take five to ten.
//
//   binary cross-entropy of logits   l = (1 - t)·max(x, 0) - t·min(x, 0) + log(1 + e^-|x|)
//                                    ∂l/∂x = (1 - t)·σ(x) - t·σ(-x)
//   softmax                          y = e^x / Σ e^x,  gx = y·(gy - Σ gy·y)
//   log-softmax                      y = x - log Σ e^x,  gx = gy - e^y·Σ gy
//   cross-entropy of a class t       l = log Σ e^x - x[t],  ∂l/∂x = softmax(x) - [class is t]
//
// Sums over classes are of e^(x - top) with top = max x, which cannot overflow.
#include "common.cuh"

// NVRTC has no macros for them.
__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }
__device__ __forceinline__ float not_a_number() { return __int_as_float(0x7fffffff); }

// Binary cross-entropy of logits --------------------------------------------------------------------------------------

// No two terms cancel where the loss is small. σ(x) = 1 / (1 + e^-x), where e^-x may be ∞.
__device__ __forceinline__ float bce(float x, float t) {
  return (1 - t) * fmaxf(x, 0) - t * fminf(x, 0) + log1pf(expf(-fabsf(x)));
}

// v0: every pair's loss, for reduction "none", or for a sum by another kernel. Grid n / 256, block 256.
// Reads 8 bytes and writes 4 for each pair.
extern "C" __global__ void __launch_bounds__(256)
    bce_forward_naive(const float *__restrict__ x, const float *__restrict__ t, float *__restrict__ loss, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) loss[i] = bce(x[i], t[i]);
}

// v1: a sum for each block, times `share` (1 / n for a mean); reads 8 bytes for each pair and writes next to nothing.
// A thread takes every (gridDim·blockDim)-th pair. Grid up to 1056, block 256.
extern "C" __global__ void __launch_bounds__(256)
    bce_forward_sums(const float *__restrict__ x, const float *__restrict__ t, float *__restrict__ sums, int n,
                     float share) {
  __shared__ float partial[32];
  float sum = 0;
  for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) sum += bce(x[i], t[i]);
  sum = block_sum(sum, partial);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum * share;
}

// gx = gl·share·((1 - t)·σ(x) - t·σ(-x)) and gt = -gl·share·x, either may be missing; gl is `one` value or n.
// Grid n / 256, block 256. Reads 8 or 12 bytes and writes 4 or 8 for each pair.
extern "C" __global__ void __launch_bounds__(256)
    bce_backward(const float *__restrict__ gl, const float *__restrict__ x, const float *__restrict__ t,
                 float *__restrict__ gx, float *__restrict__ gt, int n, float share, int one) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float g = gl[one ? 0 : i] * share, value = x[i];
  if (gx) gx[i] = g * ((1 - t[i]) / (1 + expf(-value)) - t[i] / (1 + expf(value)));
  if (gt) gt[i] = -g * value;
}

// Softmax of rows -----------------------------------------------------------------------------------------------------

// v0: a thread for each row. Grid rows / 256, block 256. Neighbouring threads read values that are a row apart.
extern "C" __global__ void __launch_bounds__(256)
    softmax_naive(const float *x, float *y, int rows, int values, int logs) {
  int row = blockIdx.x * blockDim.x + threadIdx.x, start = row * values;
  if (row >= rows) return;
  float top = x[start], sum = 0;
  for (int i = 1; i < values; i++) top = fmaxf(top, x[start + i]);
  for (int i = 0; i < values; i++) sum += expf(x[start + i] - top);
  float log_sum = logf(sum);
  for (int i = 0; i < values; i++) {
    float d = x[start + i] - top;
    y[start + i] = logs ? d - log_sum : expf(d) / sum;
  }
}

// Of the threads of a row: a warp, or a block of one row. All of them get the result.
__device__ __forceinline__ float row_sum(float x, float *partial) {
  return blockDim.x == 32 ? warp_sum(x) : block_sum(x, partial);
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int lanes = 16; lanes; lanes /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lanes));
  return x;
}

__device__ __forceinline__ float row_max(float x, float *partial) {
  x = warp_max(x);
  if (blockDim.x == 32) return x;
  int lane = threadIdx.x % 32;
  if (lane == 0) partial[threadIdx.x / 32] = x;
  __syncthreads();
  x = warp_max(lane < blockDim.x / 32 ? partial[lane] : -infinity());
  __syncthreads();
  return x;
}

// top = max x and Σ e^(x - top) of a row. fmaxf ignores NaN, but then the sum is NaN.
struct Softmax {
  float top, sum;
};

__device__ __forceinline__ Softmax softmax_of(const float *row, int values, float *partial) {
  float top = -infinity(), sum = 0;
  for (int i = threadIdx.x; i < values; i += blockDim.x) top = fmaxf(top, row[i]);
  top = row_max(top, partial);
  for (int i = threadIdx.x; i < values; i += blockDim.x) sum += expf(row[i] - top);
  return {top, row_sum(sum, partial)};
}

// v1: a warp for each row, or a block if rows are long. Grid rows / blockDim.y, block (32, 8) or (256, 1). Neighbouring
// threads read neighbouring values, three times: once from memory, then from caches. 8 bytes for each value.
extern "C" __global__ void __launch_bounds__(256)
    softmax_rows(const float *__restrict__ x, float *__restrict__ y, int rows, int values, int logs) {
  __shared__ float partial[8];
  int row = blockIdx.x * blockDim.y + threadIdx.y, start = row * values;
  if (row >= rows) return;  // all of a warp; a block of one row has that row
  Softmax all = softmax_of(x + start, values, partial);
  float log_sum = logf(all.sum);
  for (int i = threadIdx.x; i < values; i += blockDim.x) {
    float d = x[start + i] - all.top;
    y[start + i] = logs ? d - log_sum : expf(d) / all.sum;
  }
}

// Grid and block as v1. Reads gy and y twice, the second time from caches. 12 bytes for each value.
extern "C" __global__ void __launch_bounds__(256)
    softmax_backward(const float *__restrict__ gy, const float *__restrict__ y, float *__restrict__ gx, int rows,
                     int values, int logs) {
  __shared__ float partial[8];
  int row = blockIdx.x * blockDim.y + threadIdx.y, start = row * values;
  if (row >= rows) return;
  float sum = 0;
  for (int i = threadIdx.x; i < values; i += blockDim.x) sum += logs ? gy[start + i] : gy[start + i] * y[start + i];
  sum = row_sum(sum, partial);
  for (int i = threadIdx.x; i < values; i += blockDim.x) {
    float g = gy[start + i], out = y[start + i];
    gx[start + i] = logs ? g - expf(out) * sum : out * (g - sum);
  }
}

// Cross-entropy of classes --------------------------------------------------------------------------------------------

// A row's loss, 0 where the class is `ignored` and NaN where there is no such class; `tops` and `sums` are for the
// backward pass. Grid and block as softmax_rows. Reads x twice, the second time from caches: 4 bytes for each value.
extern "C" __global__ void __launch_bounds__(256)
    cross_entropy_forward(const float *__restrict__ x, const long long *__restrict__ classes, float *__restrict__ loss,
                          float *__restrict__ tops, float *__restrict__ sums, int rows, int values, long long ignored) {
  __shared__ float partial[8];
  int row = blockIdx.x * blockDim.y + threadIdx.y;
  if (row >= rows) return;
  Softmax all = softmax_of(x + row * values, values, partial);
  if (threadIdx.x) return;
  long long t = classes[row];
  tops[row] = all.top, sums[row] = all.sum;
  bool there = t >= 0 && t < values;
  loss[row] = t == ignored ? 0 : there ? logf(all.sum) - (x[row * values + t] - all.top) : not_a_number();
}

// out = Σ loss / count and share = 1 / count, where count is the number of rows that are not ignored. Grid 1, block
// 256.
extern "C" __global__ void __launch_bounds__(256)
    cross_entropy_mean(const float *__restrict__ loss, const long long *__restrict__ classes, float *__restrict__ out,
                       float *__restrict__ share, int rows, long long ignored) {
  __shared__ float partial[32];
  float sum = 0, count = 0;
  for (int row = threadIdx.x; row < rows; row += blockDim.x) sum += loss[row], count += classes[row] != ignored;
  sum = block_sum(sum, partial), count = block_sum(count, partial);
  if (threadIdx.x == 0) *out = sum / count, *share = 1.0f / count;
}

// gx = gl·share·(softmax(x) - [class is t]), 0 in ignored rows; gl is `one` value or one for each row, and a missing
// share is 1. Grid rows·values / 256, block 256. Reads and writes 4 bytes for each value.
extern "C" __global__ void __launch_bounds__(256)
    cross_entropy_backward(const float *__restrict__ gl, const float *__restrict__ x,
                           const long long *__restrict__ classes, const float *__restrict__ tops,
                           const float *__restrict__ sums, const float *__restrict__ share, float *__restrict__ gx,
                           int rows, int values, long long ignored, int one) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, row = i / values;
  if (row >= rows) return;
  long long t = classes[row];
  float g = gl[one ? 0 : row] * (share ? *share : 1.0f), y = expf(x[i] - tops[row]) / sums[row];
  bool there = t >= 0 && t < values;
  gx[i] = t == ignored ? 0 : there ? g * (y - (i % values == t)) : not_a_number();
}
