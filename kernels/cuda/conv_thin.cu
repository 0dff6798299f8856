// Convolutions where x is an image, grey or of three colours: the first layer of a discriminator, and the last of a
// generator. There are so few operations for each value of y that fp32 is almost as fast as y can be read or written.
//
// x [N, H, W, C] and y [N, P, Q, K] have channels last; weights are [K, C, R, S], as they are stored. C is 1 or 3,
// there is one group, and K is a multiple of 8. Each kernel does 2·N·P·Q·K·R·S·C floating-point operations.
#include "conv_shape.cuh"

constexpr int PIXELS = 128;  // of y in a tile of forward and weight gradient: 2^shift columns, the rest rows
constexpr int FILTERS = 64;  // of a tile
constexpr int AHEAD = 4;     // pixels of y that a thread of the weight gradient loads ahead
constexpr int PITCH = 68;    // from the weights of one tap to the next: 64 would have all taps in the same bank

// A tile of y, and the window of x that it reads. In shared memory, a pixel of x is a float4: one instruction reads its
// colours.
struct Tile {
  int n, p, q, top, left, rows, columns;  // the image, the first pixel of y; the window's first pixel and sizes
};

// Where the window begins, seen from the first tap: a dilation may be negative.
__device__ __forceinline__ int lowest(int kernel, int dilation) { return min((kernel - 1) * dilation, 0); }

__device__ __forceinline__ int tiles_of(int size, int tile) { return (size + tile - 1) / tile; }

__device__ __forceinline__ Tile tile_of(const ConvShape &s, int i, int shift) {
  int width = 1 << shift, height = PIXELS >> shift, across = tiles_of(s.Q, width), down = tiles_of(s.P, height);
  int n = i / across / down, p = i / across % down * height, q = i % across * width;
  return {n, p, q, p * s.stride_h - s.pad_h + lowest(s.R, s.dilation_h),
          q * s.stride_w - s.pad_w + lowest(s.S, s.dilation_w),
          (height - 1) * s.stride_h + (s.R - 1) * abs(s.dilation_h) + 1,
          (width - 1) * s.stride_w + (s.S - 1) * abs(s.dilation_w) + 1};
}

// How far into the window a tap reaches, and a pixel of the tile.
__device__ __forceinline__ int tap_at(const ConvShape &s, const Tile &tile, int r, int v) {
  return (r * s.dilation_h - lowest(s.R, s.dilation_h)) * tile.columns + v * s.dilation_w - lowest(s.S, s.dilation_w);
}

__device__ __forceinline__ int pixel_at(const ConvShape &s, const Tile &tile, int row, int column) {
  return row * s.stride_h * tile.columns + column * s.stride_w;
}

template <int C> __device__ __forceinline__ void load_window(float4 *window, const float *x, const ConvShape &s,
                                                             const Tile &tile) {
#pragma unroll 4
  for (int i = threadIdx.x; i < tile.rows * tile.columns; i += 128) {
    int h = tile.top + i / tile.columns, w = tile.left + i % tile.columns;
    const float *pixel = x + ((tile.n * s.H + h) * s.W + w) * C;
    float4 v = make_float4(0, 0, 0, 0);
    if ((unsigned)h < (unsigned)s.H && (unsigned)w < (unsigned)s.W)
      v = C == 1 ? make_float4(pixel[0], 0, 0, 0) : make_float4(pixel[0], pixel[1], pixel[2], 0);
    window[i] = v;
  }
}

__device__ __forceinline__ float colour(const float4 &pixel, int c) {
  return c == 0 ? pixel.x : c == 1 ? pixel.y : pixel.z;
}

// Eight threads share the 64 filters of a pixel; each has 8 of them, for 8 pixels. For a tap, it reads 8 pixels and 2·C
// float4 of weights from shared memory, and makes 64·C products.
template <int C> __device__ __forceinline__ void forward_colours(float4 *window, const float *x, const float *w,
                                                                 float *y, const ConvShape &s, int shift) {
  Tile tile = tile_of(s, blockIdx.x, shift);
  float *weights = (float *)(window + tile.rows * tile.columns);  // [R, S, C, PITCH]
  int t = threadIdx.x, taps = s.R * s.S, first = blockIdx.y * FILTERS, filter = t % 8 * 4;
  for (int i = t % 32; i < C * taps; i += 32) {
    float *to = weights + (i % taps * C + i / taps) * PITCH;
#pragma unroll 8
    for (int k = t / 32; k < FILTERS; k += 4) to[k] = first + k < s.K ? w[(first + k) * C * taps + i] : 0.0f;
  }
  load_window<C>(window, x, s, tile);
  __syncthreads();  // the window and the weights are there
  int mask = (1 << shift) - 1;  // a thread's pixels are 16·j after its first: rows and columns add up without a carry
  const float4 *place = window + pixel_at(s, tile, t / 8 >> shift, t / 8 & mask);
  float sum[8][8] = {};
  for (int r = 0; r < s.R; r++)
#pragma unroll 1
    for (int v = 0; v < s.S; v++) {
      const float4 *from = place + tap_at(s, tile, r, v);
      const float4 *row = (float4 *)(weights + (r * s.S + v) * C * PITCH + filter);
      float4 pixels[8];
#pragma unroll
      for (int j = 0; j < 8; j++) pixels[j] = from[pixel_at(s, tile, 16 * j >> shift, 16 * j & mask)];
#pragma unroll
      for (int c = 0; c < C; c++) {
        float4 low = row[c * PITCH / 4], high = row[c * PITCH / 4 + FILTERS / 8];
        float u[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
          for (int k = 0; k < 8; k++) sum[j][k] += colour(pixels[j], c) * u[k];
      }
    }
#pragma unroll
  for (int j = 0; j < 8; j++) {
    int pixel = t / 8 + 16 * j, p = tile.p + (pixel >> shift), q = tile.q + (pixel & mask);
#pragma unroll
    for (int k = 0; k < 2; k++) {
      int column = first + filter + FILTERS / 2 * k;
      if (p < s.P && q < s.Q && column < s.K)
        *(float4 *)&y[((tile.n * s.P + p) * s.Q + q) * s.K + column] =
            make_float4(sum[j][4 * k], sum[j][4 * k + 1], sum[j][4 * k + 2], sum[j][4 * k + 3]);
    }
  }
}

// A block makes 128 pixels of y, 64 filters. Grid (tiles of pixels, K / 64), block (128). Loads its window of x, which
// with that of the next block has R - stride rows in common, and its weights; writes 4·N·P·Q·K bytes of y. Shared
// memory: 16 bytes for each pixel of the window, 4·68 for each tap and colour.
extern "C" __global__ void __launch_bounds__(128, 3)
    conv_forward_colours(const float *__restrict__ x, const float *__restrict__ w, float *__restrict__ y, int N, int C,
                         int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h, int stride_w,
                         int dilation_h, int dilation_w, int pad_h, int pad_w, int shift) {
  DYNAMIC_SHARED(float4, window);
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  if (C == 1)
    forward_colours<1>(window, x, w, y, s, shift);
  else
    forward_colours<3>(window, x, w, y, s, shift);
}

// A kernel of 4 × 4 and stride 2, with an odd pad: pixels 2a and 2a + 1 of a row of x gather from y's pixels b - 1, b
// and b + 1, b = a + (pad - 1) / 2, with the taps 3 and 1, and 2 and 0 (phase_axis). A thread makes 4 × 4 pixels of x,
// all colours, from 4 × 4 of y: for each filter it reads 16 values and 16·C weights, and makes 64·C products of them.
// A block's tile of y has a border, which is read twice; what it holds of eight filters at a time is turned, so that
// neighbouring threads find neighbouring pixels side by side.
constexpr int DEPTH = 8;  // of which K is a multiple
constexpr int ROWS = 18, COLUMNS = 34;  // of y, for 32 × 64 pixels of x
constexpr int LOADS = (ROWS * COLUMNS * DEPTH / 4 + 127) / 128;  // of float4, by a thread

// Of one filter: 4 × 4 pixels of y, from `column` on, times all taps.
template <int C> __device__ __forceinline__ void add_taps(float (&sum)[C][4][4], const float (*values)[COLUMNS],
                                                          int column, const float4 (*weights)[4]) {
  float u[4][4];
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j += 2) {
      float2 pair = *(const float2 *)&values[i][column + j];
      u[i][j] = pair.x, u[i][j + 1] = pair.y;
    }
#pragma unroll
  for (int c = 0; c < C; c++)
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int r = (i + 1) % 2; r < 4; r += 2) {
        float4 taps = weights[c][r];
        const float *from = u[(i + 1 - r) / 2 + 1];
        sum[c][i][0] += from[1] * taps.y, sum[c][i][0] += from[0] * taps.w;
        sum[c][i][1] += from[2] * taps.x, sum[c][i][1] += from[1] * taps.z;
        sum[c][i][2] += from[2] * taps.y, sum[c][i][2] += from[1] * taps.w;
        sum[c][i][3] += from[3] * taps.x, sum[c][i][3] += from[2] * taps.z;
      }
}

template <int C> __device__ __forceinline__ void transpose_colours(float (*values)[ROWS][COLUMNS],
                                                                   float4 (*weights)[C][4], const float *y,
                                                                   const float *w, float *x, const ConvShape &s) {
  int t = threadIdx.x, across = tiles_of(s.W, 64), down = tiles_of(s.H, 32), n = blockIdx.x / across / down;
  int h0 = blockIdx.x / across % down * 32, w0 = blockIdx.x % across * 64;
  int top = (h0 + s.pad_h - 3) / 2, left = (w0 + s.pad_w - 3) / 2;  // both sums are even
  int h = t / 16 * 4, v = t % 16 * 4;
  float4 next[LOADS];
  auto fetch = [&](int first) {
#pragma unroll
    for (int i = 0; i < LOADS; i++) {
      int place = (t + 128 * i) / (DEPTH / 4), k = first + (t + 128 * i) % (DEPTH / 4) * 4;
      int p = top + place / COLUMNS, q = left + place % COLUMNS;
      bool there = (unsigned)p < (unsigned)s.P && (unsigned)q < (unsigned)s.Q && k < s.K && place < ROWS * COLUMNS;
      next[i] = there ? *(const float4 *)&y[((n * s.P + p) * s.Q + q) * s.K + k] : make_float4(0, 0, 0, 0);
    }
  };
  float sum[C][4][4] = {};
  fetch(0);
  for (int first = 0; first < s.K; first += DEPTH) {
#pragma unroll
    for (int i = 0; i < LOADS; i++) {
      int place = (t + 128 * i) / (DEPTH / 4), k = (t + 128 * i) % (DEPTH / 4) * 4;
      if (place >= ROWS * COLUMNS) continue;
      float *to = &values[k][0][place];
      to[0] = next[i].x, to[ROWS * COLUMNS] = next[i].y;
      to[2 * ROWS * COLUMNS] = next[i].z, to[3 * ROWS * COLUMNS] = next[i].w;
    }
    for (int i = t; i < DEPTH * C * 16; i += 128) ((float *)weights)[i] = w[first * C * 16 + i];
    __syncthreads();  // the values and weights are there
    fetch(first + DEPTH);  // zeros, unread, after the last
#pragma unroll 2
    for (int k = 0; k < DEPTH; k++) add_taps<C>(sum, &values[k][h / 2], v / 2, weights[k]);
    __syncthreads();  // nobody needs them any more
  }
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if (h0 + h + i >= s.H || w0 + v >= s.W) continue;
    float4 *to = (float4 *)&x[((n * s.H + h0 + h + i) * s.W + w0 + v) * C];
#pragma unroll
    for (int j = 0; j < C; j++) {  // 4 pixels are C float4
      auto value = [&](int l) { return sum[l % C][i][l / C]; };
      to[j] = make_float4(value(4 * j), value(4 * j + 1), value(4 * j + 2), value(4 * j + 3));
    }
  }
}

// A block makes 32 × 64 pixels of x, and reads 18 × 34 of y, of which 16 × 32 are its own. W is a multiple of 4. Grid
// (tiles), block (128).
extern "C" __global__ void __launch_bounds__(128, 2)
    conv_transpose_colours(const float *__restrict__ y, const float *__restrict__ w, float *__restrict__ x, int N,
                           int C, int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h,
                           int stride_w, int dilation_h, int dilation_w, int pad_h, int pad_w) {
  __shared__ __align__(16) float values[DEPTH][ROWS][COLUMNS];
  __shared__ float4 weights[DEPTH * 3 * 4];
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  if (C == 1)
    transpose_colours<1>(values, (float4(*)[1][4])weights, y, w, x, s);
  else
    transpose_colours<3>(values, (float4(*)[3][4])weights, y, w, x, s);
}

// Adds up what four warps have, and stores it. One tap of each group and one colour at a time is in shared memory, as
// [4 warps][4 groups][64 filters], in two buffers in turn.
template <int C> __device__ __forceinline__ void add_warps(float *shared, float *parts, const float (&sum)[4][C][8],
                                                           const ConvShape &s, int first_tap, int first) {
  int taps = s.R * s.S, of_thread = threadIdx.x / 8 * FILTERS + threadIdx.x % 8 * 8;
#pragma unroll
  for (int j = 0; j < 4; j++)
#pragma unroll
    for (int c = 0; c < C; c++) {
      float *now = shared + (j * C + c) % 2 * (16 * FILTERS), *to = now + of_thread;
      const float(&from)[8] = sum[j][c];
      *(float4 *)to = make_float4(from[0], from[1], from[2], from[3]);
      *(float4 *)(to + 4) = make_float4(from[4], from[5], from[6], from[7]);
      __syncthreads();  // the sums are there, and nobody is before those of last time any more
      for (int i = threadIdx.x; i < 4 * FILTERS; i += 128) {
        int tap = first_tap + i / FILTERS * 4 + j, k = first + i % FILTERS;
        if (tap < taps && k < s.K)
          parts[(tap * C + c) * s.K + k] =
              now[i] + now[4 * FILTERS + i] + now[8 * FILTERS + i] + now[12 * FILTERS + i];
      }
    }
}

// A warp has 16 taps of 64 filters, a thread 4 taps of 8 filters: 32·C sums. Each of a block's four warps takes every
// fourth row of a tile, pixel by pixel. A value of y is loaded once by a warp, straight into registers, four pixels
// ahead. In the end, the sums of the four warps are added up by way of shared memory.
template <int C> __device__ __forceinline__ void weight_colours(float4 *window, const float *x, const float *y,
                                                                float *parts, const ConvShape &s, int shift) {
  int warp = threadIdx.x / 32, group = threadIdx.x / 8 % 4, taps = s.R * s.S, first_tap = blockIdx.z * 16;
  int first = blockIdx.y * FILTERS, filter = first + threadIdx.x % 8 * 8, width = 1 << shift;
  int tiles = s.N * tiles_of(s.P, PIXELS >> shift) * tiles_of(s.Q, width), at[4];
#pragma unroll
  for (int j = 0; j < 4; j++) {
    int tap = min(first_tap + group * 4 + j, taps - 1);
    at[j] = tap_at(s, tile_of(s, 0, shift), tap / s.S, tap % s.S);
  }
  float sum[4][C][8] = {};
  for (int i = blockIdx.x; i < tiles; i += gridDim.x) {
    Tile tile = tile_of(s, i, shift);
    load_window<C>(window, x, s, tile);
    __syncthreads();  // the window is there
    for (int row = warp; row < min(PIXELS >> shift, s.P - tile.p); row += 4) {
      int columns = min(width, s.Q - tile.q);
      const float *next = y + ((tile.n * s.P + tile.p + row) * s.Q + tile.q) * s.K + min(filter, s.K - 8);
      const float4 *place = window + pixel_at(s, tile, row, 0);
      float4 v[AHEAD][2];
#pragma unroll
      for (int l = 0; l < AHEAD; l++) {
        v[l][0] = *(const float4 *)next, v[l][1] = *(const float4 *)(next + 4);
        if (l + 1 < columns) next += s.K;
      }
      for (int left = columns; left > 0; left -= AHEAD)
#pragma unroll
        for (int l = 0; l < AHEAD; l++) {
          float u[8] = {v[l][0].x, v[l][0].y, v[l][0].z, v[l][0].w, v[l][1].x, v[l][1].y, v[l][1].z, v[l][1].w};
          v[l][0] = *(const float4 *)next, v[l][1] = *(const float4 *)(next + 4);  // at the end, the last once more
          if (l + AHEAD + 1 < left) next += s.K;
          if (l >= left) continue;
#pragma unroll
          for (int j = 0; j < 4; j++) {
            float4 colours = place[at[j]];
#pragma unroll
            for (int c = 0; c < C; c++)
#pragma unroll
              for (int k = 0; k < 8; k++) sum[j][c][k] += colour(colours, c) * u[k];
          }
          place += s.stride_w;
        }
    }
    __syncthreads();  // nobody needs it any more
  }
  add_warps<C>((float *)window, parts + blockIdx.x * taps * C * s.K, sum, s, first_tap, first);
}

// A block makes a part [R, S, C, K] of the sums, from every gridDim.x-th tile of pixels. Reads 4·N·P·Q·K bytes of y.
// Grid (parts, K / 64, R·S / 16), block (128). Shared memory: 16 bytes for each pixel of the window, 8192 at least.
extern "C" __global__ void __launch_bounds__(128, 3)
    conv_weight_colours(const float *__restrict__ x, const float *__restrict__ y, float *__restrict__ parts, int N,
                        int C, int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h, int stride_w,
                        int dilation_h, int dilation_w, int pad_h, int pad_w, int shift) {
  DYNAMIC_SHARED(float4, window);
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  if (C == 1)
    weight_colours<1>(window, x, y, parts, s, shift);
  else
    weight_colours<3>(window, x, y, parts, s, shift);
}

// What conv_weight_sum does, for few weights of many parts: 8 threads share a weight. Parts [taps][channels][rows] make
// w [rows][channels][taps]. Grid (weights / 32), block (256).
extern "C" __global__ void __launch_bounds__(256) conv_weight_colours_sum(const float *__restrict__ parts,
                                                                          float *__restrict__ w, int splits, int rows,
                                                                          int channels, int taps) {
  __shared__ float partial[8][32];
  int x = threadIdx.x % 32, y = threadIdx.x / 32, i = blockIdx.x * 32 + x, size = rows * channels * taps;
  float sum = 0;
  if (i < size)
#pragma unroll 8
    for (int split = y; split < splits; split += 8) sum += parts[split * size + i];
  partial[y][x] = sum;
  __syncthreads();  // all have their sums
  if (y > 0 || i >= size) return;
  for (int j = 1; j < 8; j++) sum += partial[j][x];
  w[(i % rows * channels + i / rows % channels) * taps + i / rows / channels] = sum;
}
