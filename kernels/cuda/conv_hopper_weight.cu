// v5 of the weight gradient: on the tensor cores of Hopper (hopper.cuh), in TF32, for sm_90a alone. C / groups and
// K / groups are multiples of 4.
//
// Tensor cores want both matrices with neighbours of the depth side by side, but here the depth is pixels, and in
// memory channels are side by side. The first matrix, x's windows, may come from registers: a thread gathers its own
// values from a tile as it lies. The second, y, is turned beforehand by a kernel of its own, which costs a tenth of the
// time: to turn it by copies of 4 bytes, each to its place in shared memory, took twice as long as all the rest. Both are
// rounded to TF32 on the way.
#include "conv_shape.cuh"
#include "hopper.cuh"

constexpr int BM = 128, BN = 128, DEPTH = 32, STAGES = 3, AHEAD = STAGES - 1;
constexpr int PITCH = BM + 8;  // the lanes of a warp read 4 pixels of 8 rows: from 32 banks, as a row is 8 more than those

struct Window {
  int place, h, v;  // of its first value, before padding; `h` is OUTSIDE beyond the block's pixels
};
constexpr int OUTSIDE = -(1 << 30);

// y [pixels][K] as [K][pixels], rounded to TF32, with zeros up to a multiple of four pixels. Grid (tiles of 32 × 32), block
// (256). Reads and writes each value once.
extern "C" __global__ void __launch_bounds__(256)
    conv_wgmma_repack_pixels(const float *__restrict__ y, float *__restrict__ turned, int pixels, int K) {
  __shared__ float tile[32][33];  // 33, so that a column lies in 32 banks
  int across = (K + 31) / 32, pixel0 = blockIdx.x / across * 32, k0 = blockIdx.x % across * 32;
  int t = threadIdx.x % 32, i0 = threadIdx.x / 32, row = (pixels + 3) / 4 * 4;
#pragma unroll
  for (int i = i0; i < 32; i += 8)
    tile[i][t] = pixel0 + i < pixels && k0 + t < K ? to_tf32(y[(pixel0 + i) * K + k0 + t]) : 0.0f;
  __syncthreads();  // the tile is there
#pragma unroll
  for (int i = i0; i < 32; i += 8)
    if (k0 + i < K && pixel0 + t < row) turned[(k0 + i) * row + pixel0 + t] = tile[t][i];
}

// w[k, c, r, s] = Σ x[n, p·stride + r·dilation - pad, ..., c] · y[n, p, q, k], y as conv_wgmma_repack_pixels leaves it. A block of
// two warpgroups makes 128 × 128 sums, rows of [taps · channels] and columns of [K / groups], from its split of the pixels.
// Grid (R·S·C / groups / 128, groups · columns / 128, splits), block (256).
extern "C" __global__ void __launch_bounds__(256, 2)
    conv_weight_wgmma(const float *__restrict__ x, const float *__restrict__ y, float *__restrict__ parts, int N, int C,
                      int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h, int stride_w,
                      int dilation_h, int dilation_w, int pad_h, int pad_w, int splits) {
  DYNAMIC_SHARED(float, shared);
  float *second = aligned(shared), *first = second + STAGES * BN * DEPTH;  // y's tiles, and x's
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  WindowSum task{x, y, parts, splits, s};
  task.take(BM, BN, DEPTH);
  if (task.part.row >= task.rows) return;  // the whole block
  int t = threadIdx.x, lane = t % 32, warp = t / 32, depth = task.part.end - task.part.begin;

  // Where the windows of a step's 32 pixels begin: one warp looks ahead for all.
  __shared__ Window windows[STAGES][DEPTH];
  Digits pixel = digits(task.part.begin + t, P, Q), step = digits(DEPTH, P, Q);
  auto look_ahead = [&](int stage, int left) {
    int h = pixel.middle * stride_h, v = pixel.low * stride_w;
    windows[stage][t] = {((pixel.high * H + h) * W + v) * C, t < left ? h : OUTSIDE, v};
    add(pixel, step, P, Q);
  };
  // x: a warp copies 128 channels of a pixel, 512 bytes side by side; a thread always 4 channels of the same tap.
  Digits tap = digits(min(task.part.row + lane * 4, task.rows - 4), S, task.channels);
  int dy = tap.high * dilation_h - pad_h, dx = tap.middle * dilation_w - pad_w;
  const float *image = task.image + (dy * W + dx) * C + tap.low;
  // y: a warp copies 32 pixels of 4 columns, 128 bytes side by side.
  int column = t / 8, piece = t % 8 * 4, columns = task.columns - task.part.column - column, pixels = N * P * Q;
  int first_column = task.part.group * task.columns + task.part.column + column, row_of_y = (pixels + 3) / 4 * 4;
  const float *small = y + first_column * row_of_y + task.part.begin + piece;
  int turned = column * DEPTH + (t % 8 ^ column % 8) * 4;

  auto begin_copies = [&](int stage, int left) {
    if (left > 0) {
      float *a = first + stage * DEPTH * PITCH + warp * PITCH + lane * 4, *b = second + stage * BN * DEPTH + turned;
#pragma unroll
      for (int i = 0; i < DEPTH; i += 8) {
        Window at = windows[stage][warp + i];
        bool inside = (unsigned)(at.h + dy) < (unsigned)H && (unsigned)(at.v + dx) < (unsigned)W;
        copy_async(a + i * PITCH, image + at.place, inside);
      }
#pragma unroll
      for (int i = 0; i < BN; i += 32)
        copy_async(b + i * DEPTH, small + i * row_of_y, i < columns && piece < left);
      small += DEPTH;
    }
    commit_copies();  // an empty group, too: one for each step, whatever is in it
  };

  if (t < DEPTH)
    for (int stage = 0; stage < STAGES; stage++) look_ahead(stage, depth - stage * DEPTH);
  __syncthreads();  // the windows are there
#pragma unroll
  for (int stage = 0; stage < AHEAD; stage++) begin_copies(stage, depth - stage * DEPTH);
  float sum[BN / 2] = {};
  settle(sum);
  int stage = 0, row = warp * 16 + lane / 4;  // of the lane's rows, the first; the other is 8 below
  for (int rest = depth; rest > 0; rest -= DEPTH, stage = (stage + 1) % STAGES) {
    await_copies<AHEAD - 1>();
    show_to_tensor_cores();
    __syncthreads();  // all threads' copies of this step have landed, and all products of the step before are made
    const float *a = first + stage * DEPTH * PITCH + lane % 4 * PITCH + row;
    float u[DEPTH / 8][4];
#pragma unroll
    for (int j = 0; j < DEPTH / 8; j++)
#pragma unroll
      for (int q = 0; q < 4; q++) u[j][q] = to_tf32(a[(j * 8 + q / 2 * 4) * PITCH + q % 2 * 8]);
    uint64_t b = matrix_of(second + stage * BN * DEPTH);
    begin_products();
#pragma unroll
    for (int j = 0; j < DEPTH / 8; j++) multiply_async(sum, u[j], b + 2 * j);
    commit_products();
    begin_copies((stage + AHEAD) % STAGES, rest - AHEAD * DEPTH);  // to the stage of the step before
    if (t < DEPTH) look_ahead(stage, rest - STAGES * DEPTH);       // for the next step's copies
    await_products<0>();
  }
  settle(sum);
#pragma unroll
  for (int i = 0; i < 2; i++) {
    int place = task.place(row + 8 * i);
    if (place < 0) continue;
#pragma unroll
    for (int j = 0; j < BN / 8; j++) {
      int at = 8 * j + lane % 4 * 2;
      if (at < task.columns - task.part.column)
        *(float2 *)(task.result + place + at) = make_float2(sum[4 * j + 2 * i], sum[4 * j + 2 * i + 1]);
    }
  }
}
