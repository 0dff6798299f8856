// A convolution's gradient for its weights: w[k, c, r, s] is the sum over all images n and pixels (p, q) of y, which
// here is the gradient that comes back, of x[n, p·stride + r·dilation - pad, q·stride + s·dilation - pad, c] · y[n,
// p, q, k].
//
// x [N, H, W, C] and y [N, P, Q, K] have channels last. 2·N·P·Q·K·R·S·C / groups floating-point operations, as a
// product of a matrix [R·S·C][N·P·Q] of x's values with y as it lies, [N·P·Q][K]. There are few weights and many
// pixels, so the sum over pixels is split over blocks: each makes a part [R, S, C / groups, K] of its own, and
// conv_weight_sum adds them up in a fixed order. v3 and v4 are in conv_tensor.cu.
#include "conv_loops.cuh"

// v0: a thread for each weight [K, C / groups, T, R, S] goes through all pixels. Grid (weights / 256), block (256).
// Loads a value for each operation. Of three axes, for volumes; an image is a volume of depth 1.
extern "C" __global__ void conv_weight_naive(const float *x, const float *y, float *w, int N, int C, int K, int groups,
                                             int D, int H, int W, int T, int R, int S, int O, int P, int Q,
                                             int stride_d, int stride_h, int stride_w, int dilation_d, int dilation_h,
                                             int dilation_w, int pad_d, int pad_h, int pad_w) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, channels = C / groups;
  if (i >= K * channels * T * R * S) return;
  int s = i % S, r = i / S % R, t = i / S / R % T, k = i / S / R / T / channels;
  int c = i / S / R / T % channels + k / (K / groups) * channels;
  float sum = 0;
  for (int n = 0; n < N; n++)
    for (int o = 0; o < O; o++)
      for (int p = 0; p < P; p++)
        for (int q = 0; q < Q; q++) {
          int d = o * stride_d + t * dilation_d - pad_d, h = p * stride_h + r * dilation_h - pad_h;
          int v = q * stride_w + s * dilation_w - pad_w;
          if (d < 0 || d >= D || h < 0 || h >= H || v < 0 || v >= W) continue;
          sum += x[(((n * D + d) * H + h) * W + v) * C + c] * y[(((n * O + o) * P + p) * Q + q) * K + k];
        }
  w[i] = sum;
}

// v1: tiles of 16 × 16 in shared memory: a load for 16 operations.
// Grid (R·S·C / groups / 16, groups · columns / 16, splits), block (256).
extern "C" __global__ void __launch_bounds__(256)
    conv_weight_tiled(const float *__restrict__ x, const float *__restrict__ y, float *__restrict__ parts, int N, int C,
                      int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h, int stride_w,
                      int dilation_h, int dilation_w, int pad_h, int pad_w, int splits) {
  __shared__ float a[16][16], b[16][16];
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  multiply_tiled(a, b, WindowSum{x, y, parts, splits, s});
}

// v2: tiles of 64 × 64 and 4 × 4 sums in the registers of a thread: a value is loaded for 64 operations, and 16 bytes
// at once. For C / groups and K / groups that are multiples of 4.
// Grid (R·S·C / groups / 64, groups · columns / 64, splits), block (256).
extern "C" __global__ void __launch_bounds__(256, 3)
    conv_weight_blocked(const float *__restrict__ x, const float *__restrict__ y, float *__restrict__ parts, int N,
                        int C, int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h, int stride_w,
                        int dilation_h, int dilation_w, int pad_h, int pad_w, int splits) {
  __shared__ __align__(16) float a[2][16][68], b[2][16][64];
  __shared__ int places[64];
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  multiply_blocked<64, 64, 16, true>(a, b, places, WindowSum{x, y, parts, splits, s});
}

// v2 for any number of channels, as the three colours of an image: loads values one by one. Grid and block as v2.
extern "C" __global__ void __launch_bounds__(256, 2)
    conv_weight_blocked_any(const float *__restrict__ x, const float *__restrict__ y, float *__restrict__ parts, int N,
                            int C, int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h,
                            int stride_w, int dilation_h, int dilation_w, int pad_h, int pad_w, int splits) {
  __shared__ __align__(16) float a[2][16][68], b[2][16][64];
  __shared__ int places[64];
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  multiply_blocked<64, 64, 16, false>(a, b, places, WindowSum{x, y, parts, splits, s});
}

// v2 with tiles of 128 × 128 and 8 × 8 sums of a thread: a value is loaded for 128 operations.
// Grid (R·S·C / groups / 128, groups · columns / 128, splits), block (256).
extern "C" __global__ void __launch_bounds__(256, 1)
    conv_weight_blocked_wide(const float *__restrict__ x, const float *__restrict__ y, float *__restrict__ parts, int N,
                             int C, int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h,
                             int stride_w, int dilation_h, int dilation_w, int pad_h, int pad_w, int splits) {
  __shared__ __align__(16) float a[2][8][132], b[2][8][128];
  __shared__ int places[128];
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  multiply_blocked<128, 128, 8, true>(a, b, places, WindowSum{x, y, parts, splits, s});
}

// The parts [taps][channels][rows] of all splits, added up in their order and turned to [rows][channels][taps], as
// weights are stored, by way of a tile of 32 × 32 (conv_repack goes the other way). With (K, C / groups, R·S), parts
// are [R, S, C / groups, K]; with (K · C, 1, R·S) they are [R, S, K, C].
// Grid (rows / 32 · columns / 32), block (256). Reads splits times as much as it writes.
extern "C" __global__ void __launch_bounds__(256) conv_weight_sum(const float *__restrict__ parts,
                                                                  float *__restrict__ w, int splits, int rows,
                                                                  int channels, int taps) {
  __shared__ float tile[32][33];  // 33, so that a column lies in 32 banks
  int columns = channels * taps, across = (columns + 31) / 32, size = rows * columns;
  int row0 = blockIdx.x / across * 32, column0 = blockIdx.x % across * 32, x = threadIdx.x % 32, y = threadIdx.x / 32;
  for (int i = y; i < 32; i += 8) {
    int column = column0 + i, from = (column % taps * channels + column / taps) * rows + row0 + x;
    float sum = 0;
    if (row0 + x < rows && column < columns)
#pragma unroll 8
      for (int split = 0; split < splits; split++) sum += parts[split * size + from];
    tile[x][i] = sum;
  }
  __syncthreads();  // the tile is there
  for (int i = y; i < 32; i += 8)
    if (row0 + i < rows && column0 + x < columns) w[(row0 + i) * columns + column0 + x] = tile[i][x];
}
