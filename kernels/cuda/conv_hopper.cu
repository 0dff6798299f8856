// v5: forward and input gradient on the tensor cores of Hopper (hopper.cuh), in TF32, for sm_90a alone. C / groups and
// K / groups are multiples of 8, and of what an output reads, multiples of 32.
//
// v3's warps read each value of a tile from shared memory again for every few instructions, and that is what limits
// them. Here a warpgroup multiplies 64 rows by all columns of a tile in one instruction, which reads shared memory by
// itself and leaves the threads free: all of them copy the tiles to come.
//
// A step is 32 values deep, 128 bytes of a row, which lie side by side as they are of one tap. Along the depth it goes
// through all taps for the same 32 channels, then through the next 32: neighbouring taps read mostly the same pixels.
// A thread copies 16 bytes of some rows and some columns. Which pixels those rows see is computed once; in a step, all
// rows move by the same tap and channels.
//
// Weights come from conv_wgmma_repack as [columns][depth], rounded to TF32. The image's values are cut to TF32 by the
// hardware: rounding would take them through registers.
#include "conv_shape.cuh"
#include "hopper.cuh"

constexpr int DEPTH = 32;

// A block of two warpgroups makes BM × BN sums: each warpgroup BM / 2 rows. While it multiplies a step's tiles, those of
// the next STAGES - 1 steps are on their way. Two blocks on a multiprocessor hide each other's waits.
template <int BM, int BN, int STAGES>
__device__ __forceinline__ void multiply_wgmma(float *tiles, int *places, Gather task) {
  constexpr int AHEAD = STAGES - 1, SIZE = (BM + BN) * DEPTH;
  task.take(BM, BN, DEPTH);
  if (task.part.row >= task.rows) return;  // the whole block
  int t = threadIdx.x, row = t / 8, piece = t % 8 * 4;
  float *to = tiles + row * DEPTH + (t % 8 ^ row % 8) * 4;  // of rows row + 32·i, and columns

  int y[BM / 32], x[BM / 32], from[BM / 32];
#pragma unroll
  for (int i = 0; i < BM / 32; i++) {
    Digits pixel = digits(min(task.part.row + row + 32 * i, task.rows - 1), task.h.outputs, task.w.outputs);
    y[i] = pixel.middle * task.h.stride + task.h.offset, x[i] = pixel.low * task.w.stride + task.w.offset;
    from[i] = ((pixel.high * task.h.size + y[i]) * task.w.size + x[i]) * task.image_channels + piece;
  }
  const float *weights = task.weights + (task.part.column + row) * task.weights_of_row + task.part.begin + piece;
  int columns = task.columns - task.part.column - row;
  Digits at = digits(task.part.begin / DEPTH, max(task.h.taps, 1), task.w.taps);  // 32 channels, and a tap
  int steps = (task.part.end - task.part.begin) / DEPTH;

  auto begin_copies = [&](int stage, bool there) {
    if (there) {
      int dy = at.middle * task.h.step, dx = at.low * task.w.step;
      const float *image = task.image + (dy * task.w.size + dx) * task.image_channels + at.high * DEPTH;
      float *a = to + stage * SIZE, *b = a + BM * DEPTH;
#pragma unroll
      for (int i = 0; i < BM / 32; i++) {
        bool inside = (unsigned)(y[i] + dy) < (unsigned)task.h.size && (unsigned)(x[i] + dx) < (unsigned)task.w.size;
        copy_async(a + i * 32 * DEPTH, image + from[i], inside);
      }
#pragma unroll
      for (int i = 0; i < BN / 32; i++)
        copy_async(b + i * 32 * DEPTH, weights + i * 32 * task.weights_of_row, 32 * i < columns);
      weights += DEPTH;
      add_one(at, task.h.taps, task.w.taps);
    }
    commit_copies();  // an empty group, too: one for each step, whatever is in it
  };

  if (t < BM) places[t] = task.place(t);
#pragma unroll
  for (int stage = 0; stage < AHEAD; stage++) begin_copies(stage, stage < steps);
  float sum[BM / 128][BN / 2] = {};
#pragma unroll
  for (int i = 0; i < BM / 128; i++) settle(sum[i]);
  int stage = 0;
  for (int rest = steps; rest > 0; rest--, stage = (stage + 1) % STAGES) {
    await_copies<AHEAD - 1>();
    show_to_tensor_cores();
    __syncthreads();  // all threads' copies of this step have landed, and all products of the step before are made
    float *a = tiles + stage * SIZE;
    uint64_t first = matrix_of(a + t / 128 * (BM / 2) * DEPTH), second = matrix_of(a + BM * DEPTH);
    begin_products();
#pragma unroll
    for (int k = 0; k < DEPTH / 8; k++)
#pragma unroll
      for (int i = 0; i < BM / 128; i++)
        multiply_async(sum[i], first + (i * 64 * DEPTH * 4 >> 4) + 2 * k, second + 2 * k);
    commit_products();
    begin_copies((stage + AHEAD) % STAGES, rest > AHEAD);  // to the stage of the step before this
    await_products<0>();
  }
#pragma unroll
  for (int i = 0; i < BM / 128; i++) settle(sum[i]);
  __syncthreads();  // the places are there, even without a step
  int first = t % 4 * 2;
#pragma unroll
  for (int i = 0; i < BM / 64; i++) {  // of a lane's rows, 8 apart or 64
    int place = places[t / 128 * (BM / 2) + i / 2 * 64 + t % 128 / 32 * 16 + i % 2 * 8 + t % 32 / 4];
    if (place < 0) continue;
#pragma unroll
    for (int j = 0; j < BN / 8; j++)
      if (8 * j + first < task.columns - task.part.column)
        *(float2 *)(task.result + place + first + 8 * j) =
            make_float2(sum[i / 2][4 * j + i % 2 * 2], sum[i / 2][4 * j + i % 2 * 2 + 1]);
  }
}

// Weights as conv_wgmma_repack leaves them: `depth` is that of a group, of all taps or of the largest phase's.
__device__ __forceinline__ Gather with_columns_of(Gather task, int depth, int phases) {
  task.weights_of_row = depth, task.weights_of_group = phases * task.columns * depth;
  return task;
}

__device__ __forceinline__ Gather forward_by_columns(const ConvShape &s, const float *x, const float *w, float *y,
                                                     int splits) {
  return with_columns_of(forward(s, x, w, y, splits), s.R * s.S * (s.C / s.groups), 1);
}

__device__ __forceinline__ Gather backward_by_columns(const ConvShape &s, const float *y, const float *w, float *x,
                                                      int splits) {
  Gather task = backward(s, y, w, x, splits);
  int phases = s.stride_h * s.stride_w;
  return with_columns_of(task, task.weights_of_group / phases / task.columns, phases);
}

extern "C" __global__ void __launch_bounds__(256, 2)
    conv_forward_wgmma(const float *__restrict__ x, const float *__restrict__ w, float *__restrict__ y, int N, int C,
                       int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h, int stride_w,
                       int dilation_h, int dilation_w, int pad_h, int pad_w, int splits) {
  DYNAMIC_SHARED(float, tiles);
  __shared__ int places[128];
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  multiply_wgmma<128, 128, 3>(aligned(tiles), places, forward_by_columns(s, x, w, y, splits));
}

extern "C" __global__ void __launch_bounds__(256, 2)
    conv_forward_wgmma_narrow(const float *__restrict__ x, const float *__restrict__ w, float *__restrict__ y, int N,
                              int C, int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h,
                              int stride_w, int dilation_h, int dilation_w, int pad_h, int pad_w, int splits) {
  DYNAMIC_SHARED(float, tiles);
  __shared__ int places[256];
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  multiply_wgmma<256, 64, 2>(aligned(tiles), places, forward_by_columns(s, x, w, y, splits));
}

extern "C" __global__ void __launch_bounds__(256, 2)
    conv_transpose_wgmma(const float *__restrict__ y, const float *__restrict__ w, float *__restrict__ x, int N, int C,
                         int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h, int stride_w,
                         int dilation_h, int dilation_w, int pad_h, int pad_w, int splits) {
  DYNAMIC_SHARED(float, tiles);
  __shared__ int places[128];
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  multiply_wgmma<128, 128, 3>(aligned(tiles), places, backward_by_columns(s, y, w, x, splits));
}

extern "C" __global__ void __launch_bounds__(256, 2)
    conv_transpose_wgmma_narrow(const float *__restrict__ y, const float *__restrict__ w, float *__restrict__ x, int N,
                                int C, int K, int groups, int H, int W, int R, int S, int P, int Q, int stride_h,
                                int stride_w, int dilation_h, int dilation_w, int pad_h, int pad_w, int splits) {
  DYNAMIC_SHARED(float, tiles);
  __shared__ int places[256];
  ConvShape s{N, C, K, groups, H, W, R, S, P, Q, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w};
  multiply_wgmma<256, 64, 2>(aligned(tiles), places, backward_by_columns(s, y, w, x, splits));
}

// Weights [K, C / groups, R, S] as [groups][phases][columns][depth], rounded to TF32. The depth is that of the largest
// phase, in the order of the steps above: 32 channels of a tap, of all taps of the phase, and then the next 32.
// `channels` are those that an output reads: C / groups for forward, where the stride is given as 1, as there is one
// phase only; K / groups for the input gradient. `of_channel` and `of_column` are the distances of both in `from`.
// Grid (groups · channels / 32 · tiles of 32 of [columns · R · S]), block (256). Reads and writes each weight once.
extern "C" __global__ void __launch_bounds__(256)
    conv_wgmma_repack(const float *__restrict__ from, float *__restrict__ to, int channels, int columns, int of_channel,
                      int of_column, int R, int S, int stride_h, int stride_w, int dilation_h, int dilation_w,
                      int pad_h, int pad_w) {
  __shared__ float tile[32][33];  // 33, so that a column lies in 32 banks
  __shared__ int target[32];      // of a column's tap: divisions are made once for its 32 channels
  int taps = R * S, places = columns * taps, tiles = (places + 31) / 32, chunks = channels / 32;
  int place0 = blockIdx.x % tiles * 32, chunk = blockIdx.x / tiles % chunks, group = blockIdx.x / tiles / chunks;
  int x = threadIdx.x % 32, y = threadIdx.x / 32, place = place0 + x;
  from += group * channels * places + chunk * 32 * of_channel + place / taps * of_column + place % taps;
  for (int i = y; i < 32; i += 8)
    if (place < places) tile[i][x] = from[i * of_channel];
  if (y == 0) {
    int hop_h = hop_of(stride_h, dilation_h), hop_w = hop_of(stride_w, dilation_w);
    int depth = ((R + hop_h - 1) / hop_h) * ((S + hop_w - 1) / hop_w) * channels;
    int column = place / taps, r = place % taps / S, s = place % S;
    int h = ((r * dilation_h - pad_h) % stride_h + stride_h) % stride_h;  // the phase of those x that the tap serves
    int w = ((s * dilation_w - pad_w) % stride_w + stride_w) % stride_w;
    int taps_h = (R - r % hop_h + hop_h - 1) / hop_h, taps_w = (S - s % hop_w + hop_w - 1) / hop_w;  // of the phase
    int row = ((group * stride_h + h) * stride_w + w) * columns + column;
    target[x] = row * depth + ((chunk * taps_h + r / hop_h) * taps_w + s / hop_w) * 32;
  }
  __syncthreads();  // the tile and its targets are there
  for (int i = y; i < 32 && place0 + i < places; i += 8) to[target[i] + x] = to_tf32(tile[x][i]);
}
