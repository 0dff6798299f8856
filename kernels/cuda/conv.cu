// Convolution, y[n, p, q, k] = Σ x[n, p·stride + r·dilation - pad, q·stride + s·dilation - pad, c] · w[k, c, r, s]
// over r, s and the channels c of k's group; and what brings images and weights into the order that its kernels want.
//
// x [N, H, W, C] and y [N, P, Q, K] have channels last. Every rung does 2·N·P·Q·K·R·S·C / groups floating-point
// operations, as a product of a matrix [N·P·Q][R·S·C] of x's values with one [R·S·C][K] of weights (conv_shape.cuh).
// What differs is how many values are loaded from global memory for that. v3 and v4 are in conv_tensor.cu.
#include "conv_loops.cuh"

// v0: a thread for each value of y. Grid (values / 256), block (256). Weights are [K, C / groups, T, R, S], as stored.
// Loads a value for each operation. Of three axes, for volumes; an image is a volume of depth 1.
extern "C" __global__ void conv_forward_naive(const float *x, const float *w, float *y, int N, int C, int K, int groups,
                                              int D, int H, int W, int T, int R, int S, int O, int P, int Q,
                                              int stride_d, int stride_h, int stride_w, int dilation_d, int dilation_h,
                                              int dilation_w, int pad_d, int pad_h, int pad_w) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= N * O * P * Q * K) return;
  int k = i % K, q = i / K % Q, p = i / K / Q % P, o = i / K / Q / P % O, n = i / K / Q / P / O;
  int channels = C / groups, first = k / (K / groups) * channels;
  float sum = 0;
  for (int t = 0; t < T; t++)
    for (int r = 0; r < R; r++)
      for (int s = 0; s < S; s++) {
        int d = o * stride_d + t * dilation_d - pad_d, h = p * stride_h + r * dilation_h - pad_h;
        int v = q * stride_w + s * dilation_w - pad_w;
        if (d < 0 || d >= D || h < 0 || h >= H || v < 0 || v >= W) continue;
        const float *pixel = x + (((n * D + d) * H + h) * W + v) * C + first;
        const float *tap = w + k * channels * T * R * S + (t * R + r) * S + s;
        for (int c = 0; c < channels; c++) sum += pixel[c] * tap[c * T * R * S];
      }
  y[i] = sum;
}

// v1: tiles of 16 × 16 in shared memory: a load for 16 operations. From here on, weights are [R, S, C / groups, K].
// Grid (pixels / 16, groups · columns / 16, splits), block (256).
extern "C" __global__ void __launch_bounds__(256)
    conv_forward_tiled(const float *__restrict__ x, const float *__restrict__ w, float *__restrict__ y, int N, int C,
                       int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h, int stride_w,
                       int dilation_h, int dilation_w, int pad_h, int pad_w, int splits) {
  __shared__ float a[16][16], b[16][16];
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  multiply_tiled(a, b, forward(s, x, w, y, splits));
}

// v2: tiles of 64 × 64 and 4 × 4 sums in the registers of a thread: a value is loaded for 64 operations, and 16 bytes
// at once. For C / groups and K / groups that are multiples of 4.
// Grid (pixels / 64, groups · columns / 64, splits), block (256).
extern "C" __global__ void __launch_bounds__(256, 3)
    conv_forward_blocked(const float *__restrict__ x, const float *__restrict__ w, float *__restrict__ y, int N, int C,
                         int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h, int stride_w,
                         int dilation_h, int dilation_w, int pad_h, int pad_w, int splits) {
  __shared__ __align__(16) float a[2][16][68], b[2][16][64];
  __shared__ int places[64];
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  multiply_blocked<64, 64, 16, true>(a, b, places, forward(s, x, w, y, splits));
}

// v2 for any number of channels, as the three colours of an image: loads values one by one. Grid and block as v2.
extern "C" __global__ void __launch_bounds__(256, 2)
    conv_forward_blocked_any(const float *__restrict__ x, const float *__restrict__ w, float *__restrict__ y, int N,
                             int C, int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h,
                             int stride_w, int dilation_h, int dilation_w, int pad_h, int pad_w, int splits) {
  __shared__ __align__(16) float a[2][16][68], b[2][16][64];
  __shared__ int places[64];
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  multiply_blocked<64, 64, 16, false>(a, b, places, forward(s, x, w, y, splits));
}

// v2 with tiles of 128 × 128 and 8 × 8 sums of a thread: a value is loaded for 128 operations, but a grid has a
// quarter of the blocks. Grid (pixels / 128, groups · columns / 128, splits), block (256).
extern "C" __global__ void __launch_bounds__(256, 1)
    conv_forward_blocked_wide(const float *__restrict__ x, const float *__restrict__ w, float *__restrict__ y, int N,
                              int C, int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h,
                              int stride_w, int dilation_h, int dilation_w, int pad_h, int pad_w, int splits) {
  __shared__ __align__(16) float a[2][8][132], b[2][8][128];
  __shared__ int places[128];
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  multiply_blocked<128, 128, 8, true>(a, b, places, forward(s, x, w, y, splits));
}

// v2 for K / groups up to 4, and C / groups a multiple of 4: a value of x is loaded for all of its filters at once.
// Grid (pixels / 128, groups, splits), block (256).
extern "C" __global__ void __launch_bounds__(256, 2)
    conv_forward_thin(const float *__restrict__ x, const float *__restrict__ w, float *__restrict__ y, int N, int C,
                      int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h, int stride_w,
                      int dilation_h, int dilation_w, int pad_h, int pad_w, int splits) {
  __shared__ float4 weights[THIN_DEPTH / 4 * 5];
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  multiply_thin(weights, forward(s, x, w, y, splits));
}

// y = what the splits have made, always added up in the same order. Grid (values / 256), block (256). Reads splits
// times as much as it writes.
extern "C" __global__ void conv_sum(const float *__restrict__ parts, float *__restrict__ y, int splits, int size) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= size) return;
  float sum = 0;
  for (int split = 0; split < splits; split++) sum += parts[split * size + i];
  y[i] = sum;
}

// Matrices [rows][channels · taps] as [taps][channels][rows]. What it is used for, as (rows, channels, taps):
//   (K, C / groups, R·S)    weights [K, C / groups, R, S] to [R, S, C / groups, K], as forward wants them
//   (C, 1, H·W) N times     images [N, C, H, W] to [N, H, W, C]
// Grid (tiles of 32 × 32 of all matrices), block (256). Reads and writes each value once.
extern "C" __global__ void __launch_bounds__(256) conv_repack(const float *__restrict__ from, float *__restrict__ to,
                                                              int rows, int channels, int taps) {
  __shared__ float tile[32][33];  // 33, so that a column lies in 32 banks
  int columns = channels * taps, tiles = ((rows + 31) / 32) * ((columns + 31) / 32), matrix = blockIdx.x / tiles;
  turn(tile, from + matrix * rows * columns, to + matrix * rows * columns, rows, columns, blockIdx.x % tiles,
       [=](int column) { return column % taps * channels + column / taps; });
}

// Images [N, C, H·W] of a few channels as [N, H·W, C], of which tiles of conv_repack would be almost empty. `pixels` are
// N·H·W, `size` is H·W. A thread moves one pixel: neighbours read side by side. Grid (pixels / 256), block (256).
extern "C" __global__ void __launch_bounds__(256)
    conv_channels_last(const float *__restrict__ from, float *__restrict__ to, int pixels, int channels, int size) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= pixels) return;
  from += i / size * channels * size + i % size, to += i * channels;
  for (int c = 0; c < channels; c++) to[c] = from[c * size];
}
