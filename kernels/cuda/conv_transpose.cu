// Transposed convolution, which is the gradient of a convolution for its input: x[n, j, c] = Σ y[n, i, k] · w[k, c, t]
// over all i and t with i·stride + t·dilation - pad = j on each axis, and the filters k of c's group.
//
// y [N, P, Q, K] and x [N, H, W, C] have channels last. 2·N·P·Q·K·R·S·C / groups floating-point operations, but for
// what falls outside of x. Nothing is scattered: from v1 on, the pixels of x are taken in stride · stride phases,
// each of which is a small convolution over y, with a part of the taps (`phase_axis` in conv_shape.cuh). v3 and v4
// are in conv_tensor.cu.
#include "conv_loops.cuh"

// v0: a thread for each value of x looks through all taps for those that have an i. Grid (values / 256), block (256).
// Weights are [K, C / groups, T, R, S], as stored. Loads a value for each operation. Of three axes, for volumes; an
// image is a volume of depth 1.
extern "C" __global__ void conv_transpose_naive(const float *y, const float *w, float *x, int N, int C, int K,
                                                int groups, int D, int H, int W, int T, int R, int S, int O, int P,
                                                int Q, int stride_d, int stride_h, int stride_w, int dilation_d,
                                                int dilation_h, int dilation_w, int pad_d, int pad_h, int pad_w) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= N * D * H * W * C) return;
  int c = i % C, v = i / C % W, h = i / C / W % H, d = i / C / W / H % D, n = i / C / W / H / D;
  int channels = C / groups, filters = K / groups, group = c / channels, taps = T * R * S;
  float sum = 0;
  for (int t = 0; t < T; t++)
    for (int r = 0; r < R; r++)
      for (int s = 0; s < S; s++) {
        int o = d + pad_d - t * dilation_d, p = h + pad_h - r * dilation_h, q = v + pad_w - s * dilation_w;
        if (o % stride_d || p % stride_h || q % stride_w) continue;  // between two pixels of y
        o /= stride_d, p /= stride_h, q /= stride_w;
        if (o < 0 || o >= O || p < 0 || p >= P || q < 0 || q >= Q) continue;
        const float *pixel = y + (((n * O + o) * P + p) * Q + q) * K + group * filters;
        const float *tap = w + (group * filters * channels + c % channels) * taps + (t * R + r) * S + s;
        for (int k = 0; k < filters; k++) sum += pixel[k] * tap[k * channels * taps];
      }
  x[i] = sum;
}

// v1: tiles of 16 × 16 in shared memory: a load for 16 operations. From here on, weights come from
// conv_transpose_repack.
// Grid (pixels of a phase / 16, groups · columns / 16, phases · splits), block (256).
extern "C" __global__ void __launch_bounds__(256)
    conv_transpose_tiled(const float *__restrict__ y, const float *__restrict__ w, float *__restrict__ x, int N, int C,
                         int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h, int stride_w,
                         int dilation_h, int dilation_w, int pad_h, int pad_w, int splits) {
  __shared__ float a[16][16], b[16][16];
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  multiply_tiled(a, b, backward(s, y, w, x, splits));
}

// v2: tiles of 64 × 64 and 4 × 4 sums in the registers of a thread: a value is loaded for 64 operations, and 16 bytes
// at once. For C / groups and K / groups that are multiples of 4.
// Grid (pixels of a phase / 64, groups · columns / 64, phases · splits), block (256).
extern "C" __global__ void __launch_bounds__(256, 3)
    conv_transpose_blocked(const float *__restrict__ y, const float *__restrict__ w, float *__restrict__ x, int N,
                           int C, int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h,
                           int stride_w, int dilation_h, int dilation_w, int pad_h, int pad_w, int splits) {
  __shared__ __align__(16) float a[2][16][68], b[2][16][64];
  __shared__ int places[64];
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  multiply_blocked<64, 64, 16, true>(a, b, places, backward(s, y, w, x, splits));
}

// v2 for any number of channels: loads values one by one. Grid and block as v2.
extern "C" __global__ void __launch_bounds__(256, 2)
    conv_transpose_blocked_any(const float *__restrict__ y, const float *__restrict__ w, float *__restrict__ x, int N,
                               int C, int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h,
                               int stride_w, int dilation_h, int dilation_w, int pad_h, int pad_w, int splits) {
  __shared__ __align__(16) float a[2][16][68], b[2][16][64];
  __shared__ int places[64];
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  multiply_blocked<64, 64, 16, false>(a, b, places, backward(s, y, w, x, splits));
}

// v2 with tiles of 128 × 128 and 8 × 8 sums of a thread: a value is loaded for 128 operations.
// Grid (pixels of a phase / 128, groups · columns / 128, phases · splits), block (256).
extern "C" __global__ void __launch_bounds__(256, 1)
    conv_transpose_blocked_wide(const float *__restrict__ y, const float *__restrict__ w, float *__restrict__ x, int N,
                                int C, int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h,
                                int stride_w, int dilation_h, int dilation_w, int pad_h, int pad_w, int splits) {
  __shared__ __align__(16) float a[2][8][132], b[2][8][128];
  __shared__ int places[128];
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  multiply_blocked<128, 128, 8, true>(a, b, places, backward(s, y, w, x, splits));
}

// v2 for C / groups up to 4, as where a generator makes an image, and K / groups a multiple of 4: a value of y is
// loaded for all of its columns at once. Grid (pixels of a phase / 128, groups, phases · splits), block (256).
extern "C" __global__ void __launch_bounds__(256, 2)
    conv_transpose_thin(const float *__restrict__ y, const float *__restrict__ w, float *__restrict__ x, int N, int C,
                        int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h, int stride_w,
                        int dilation_h, int dilation_w, int pad_h, int pad_w, int splits) {
  __shared__ float4 weights[THIN_DEPTH / 4 * 5];
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  multiply_thin(weights, backward(s, y, w, x, splits));
}

// Weights [K, C / groups, R, S] as [groups, phases, taps of a phase, K / groups, C / groups], so that a phase's
// weights are a matrix. `rows` is K / groups · C / groups. Grid (groups · tiles of 32 × 32 of [rows][R · S]), block
// (256). Reads and writes each weight once.
extern "C" __global__ void __launch_bounds__(256)
    conv_transpose_repack(const float *__restrict__ from, float *__restrict__ to, int rows, int R, int S, int stride_h,
                          int stride_w, int dilation_h, int dilation_w, int pad_h, int pad_w) {
  __shared__ float tile[32][33];  // 33, so that a column lies in 32 banks
  int hop_h = hop_of(stride_h, dilation_h), hop_w = hop_of(stride_w, dilation_w);
  int most = ((R + hop_h - 1) / hop_h) * ((S + hop_w - 1) / hop_w);  // taps of a phase
  int tiles = ((rows + 31) / 32) * ((R * S + 31) / 32), group = blockIdx.x / tiles;
  turn(tile, from + group * rows * R * S, to + group * stride_h * stride_w * most * rows, rows, R * S,
       blockIdx.x % tiles, [=](int tap) {
         int r = tap / S, s = tap % S;
         int h = ((r * dilation_h - pad_h) % stride_h + stride_h) % stride_h;  // the phase of those x that it serves
         int w = ((s * dilation_w - pad_w) % stride_w + stride_w) % stride_w;
         int taps = (S - s % hop_w + hop_w - 1) / hop_w;  // that the phase has in a row
         return (h * stride_w + w) * most + r / hop_h * taps + s / hop_w;
       });
}
