// Normalisation, with an affine map and a leaky ReLU behind it:
//
//   m = mean x,  v = mean (x - m)²,  r = 1 / √(v + eps),  y = leaky((x - m)·r·w + b),  leaky(z) = z > 0 ? z : slope·z
//
// of arrays [groups, rows, channels] over their rows, and of [rows, values] over their values. Batch norm of images
// with channels last is one group, instance norm one for each image; layer norm is rows of values. Weights w and biases
// b are vectors [period, channels] or [period, values]: group or row i has vector i % period. A slope of 1 means no
// ReLU.
//
// All of it is about ten operations for each value, so that what counts is how often values are read and written.
#include "common.cuh"
#include "rows.cuh"

constexpr int AHEAD = 8;  // values that a thread asks memory for before it needs the first of them

__device__ __forceinline__ float leaky(float z, float slope) {
  return z > 0 || z != z ? z : slope != 0 ? slope * z : 0.0f;  // 0, not 0·∞, for z = -∞ and a ReLU
}

// (x - m)·r·w + b, in one place: the backward pass must find the same sign of it.
struct Affine {
  float mean, scale, shift;
  __device__ __forceinline__ float operator()(float x) const { return (x - mean) * scale + shift; }
};

// Of the channel `at` in m and r, and `vector` in w and b; what is missing changes nothing.
__device__ __forceinline__ Affine affine_of(const float *m, const float *r, const float *w, const float *b, int at,
                                            int vector) {
  float scale = r ? r[at] : 1.0f;
  return {m ? m[at] : 0.0f, w ? scale * w[vector] : scale, b ? b[vector] : 0.0f};
}

// v0: a block for each channel of each group, two passes for the statistics and one for y. Grid groups·channels, block
// 256. Neighbouring threads read values that are `channels` apart: of each 32 bytes that memory delivers they use 4.
extern "C" __global__ void __launch_bounds__(256)
    norm_forward_naive(const float *x, const float *w, const float *b, float *y, float *m, float *v, float *r, int rows,
                       int channels, int period, float eps, float slope) {
  __shared__ float partial[32];
  int at = blockIdx.x, group = at / channels, channel = at % channels, start = group * rows * channels + channel;
  float sum = 0, squares = 0;
  for (int row = threadIdx.x; row < rows; row += blockDim.x) sum += x[start + row * channels];
  float mean = block_sum(sum, partial) / rows;
  for (int row = threadIdx.x; row < rows; row += blockDim.x) {
    float d = x[start + row * channels] - mean;
    squares += d * d;
  }
  float var = block_sum(squares, partial) / rows, root = 1.0f / sqrtf(var + eps);
  int vector = group % period * channels + channel;
  Affine affine = {mean, w ? root * w[vector] : root, b ? b[vector] : 0.0f};
  for (int row = threadIdx.x; row < rows; row += blockDim.x)
    y[start + row * channels] = leaky(affine(x[start + row * channels]), slope);
  if (threadIdx.x == 0) m[at] = mean, v[at] = var, r[at] = root;
}

// Statistics of n values: m2 = Σ(x - mean)². E[x²] - E[x]² would lose all digits where the mean is large.
struct Moments {
  float n, mean, m2;
};

// Of two sets together (Chan, Golub and LeVeque, 1979).
__device__ __forceinline__ Moments merged(Moments a, Moments b) {
  float n = a.n + b.n;
  if (b.n == 0 || n == 0) return a;
  float d = b.mean - a.mean, share = __fdividef(b.n, n);  // two units in the last place are near enough
  return {n, a.mean + d * share, a.m2 + b.m2 + d * d * (a.n * share)};
}

// v1: coalesced, see rows.cuh, and in one pass: of the values that a thread holds in registers, it takes the mean and
// then the squares around it; sets of them are merged. `means` and `squares` [groups, parts, channels] get what a block
// finds. The group's first row is taken from all values, since a mean of 10000 would be rounded to steps of 0.001.
// Reads each value once, and the first row once more for each part.
extern "C" __global__ void __launch_bounds__(256)
    norm_statistics(const float *__restrict__ x, float *__restrict__ means, float *__restrict__ squares, int rows,
                    int channels) {
  __shared__ Moments shared[256];
  Part part = part_of(rows, channels);
  const float *column = x + part.group * rows * channels + part.channel;
  float shift = part.first < part.end ? column[0] : 0.0f;
  Moments all = {0, 0, 0};
  for (int row = part.first; row < part.end; row += AHEAD * part.step) {
    float value[AHEAD], n = 0, sum = 0, m2 = 0;
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
      int at = row + i * part.step;
      value[i] = at < part.end ? column[at * channels] - shift : 0.0f;
      n += at < part.end;
    }
#pragma unroll
    for (int i = 0; i < AHEAD; i++) sum += value[i];
    float mean = __fdividef(sum, n);
#pragma unroll
    for (int i = 0; i < AHEAD; i++) m2 += i < n ? (value[i] - mean) * (value[i] - mean) : 0.0f;
    all = merged(all, {n, mean, m2});
  }
  all = merge_rows(all, shared, merged);
  if (threadIdx.y || part.channel >= channels) return;
  int at = (part.group * gridDim.y + blockIdx.y) * channels + part.channel;
  means[at] = all.mean, squares[at] = all.m2;
}

// The parts of a channel become its m, v and r, always in the same order. Grid groups·columns, block as above.
extern "C" __global__ void __launch_bounds__(256)
    norm_merge(const float *__restrict__ x, const float *__restrict__ means, const float *__restrict__ squares,
               float *__restrict__ m, float *__restrict__ v, float *__restrict__ r, int rows, int channels, int parts,
               float eps) {
  __shared__ Moments shared[256];
  Part part = part_of(parts, channels);
  int each = (rows + parts - 1) / parts;
  Moments all = {0, 0, 0};
#pragma unroll 4
  for (int i = part.first; i < part.end; i += part.step) {
    int at = (part.group * parts + i) * channels + part.channel, n = max(0, min(each, rows - i * each));
    all = merged(all, {(float)n, means[at], squares[at]});
  }
  all = merge_rows(all, shared, merged);
  if (threadIdx.y || part.channel >= channels) return;
  int at = part.group * channels + part.channel;
  float var = all.m2 / rows;
  m[at] = x[part.group * rows * channels + part.channel] + all.mean, v[at] = var, r[at] = 1.0f / sqrtf(var + eps);
}

// y = leaky((x - m)·r·w + b); a missing m, r, w or b changes nothing, so this also adds biases. y may be x.
// Grid and block as v1. Reads and writes each value once.
extern "C" __global__ void __launch_bounds__(256)
    norm_apply(const float *x, const float *m, const float *r, const float *w, const float *b, float *y, int rows,
               int channels, int period, float slope) {
  Part part = part_of(rows, channels);
  if (part.first >= part.end) return;
  int start = part.group * rows * channels + part.channel;
  Affine affine = affine_of(m, r, w, b, part.group * channels + part.channel,
                            part.group % period * channels + part.channel);
  for (int row = part.first; row < part.end; row += AHEAD * part.step) {
    float value[AHEAD];  // y may be x, so the compiler would not move a read before a write
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
      int at = row + i * part.step;
      if (at < part.end) value[i] = x[start + at * channels];
    }
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
      int at = row + i * part.step;
      if (at < part.end) y[start + at * channels] = leaky(affine(value[i]), slope);
    }
  }
}

// Backward: with x̂ = (x - m)·r, g = gy·leaky'(y) and h = g·w,
//
//   gx = r·(h - mean h - x̂·mean(h·x̂)),  gw = Σ g·x̂,  gb = Σ g
//
// leaky' is 1 or the slope by the sign of y, which comes from x again: that costs less than to save and read y.

__device__ __forceinline__ float through(float gy, float y, float slope) { return y > 0 ? gy : slope * gy; }

struct Sums {
  float g, along;  // Σ g and Σ g·x̂
};

__device__ __forceinline__ Sums added(Sums a, Sums b) { return {a.g + b.g, a.along + b.along}; }

// v0: a block for each channel of each group, two passes. Grid groups·channels, block 256.
extern "C" __global__ void __launch_bounds__(256)
    norm_backward_naive(const float *gy, const float *x, const float *m, const float *r, const float *w, const float *b,
                        float *gx, float *gw, float *gb, int rows, int channels, int period, float slope) {
  __shared__ float partial[32];
  int at = blockIdx.x, group = at / channels, channel = at % channels, start = group * rows * channels + channel;
  Affine affine = affine_of(m, r, w, b, at, group % period * channels + channel);
  float mean = m[at], root = r[at], sum = 0, moment = 0;
  for (int row = threadIdx.x; row < rows; row += blockDim.x) {
    int i = start + row * channels;
    float g = through(gy[i], affine(x[i]), slope);
    sum += g, moment += g * ((x[i] - mean) * root);
  }
  sum = block_sum(sum, partial), moment = block_sum(moment, partial);
  for (int row = threadIdx.x; row < rows; row += blockDim.x) {
    int i = start + row * channels;
    float g = through(gy[i], affine(x[i]), slope), x_hat = (x[i] - mean) * root;
    gx[i] = affine.scale * (g - sum / rows - x_hat * (moment / rows));
  }
  if (threadIdx.x == 0) gb[at] = sum, gw[at] = moment;
}

// v1: Σ g and Σ g·x̂ of parts of the rows, each [groups, parts, channels]; the sum of the parts comes next. Grid and
// block as in the forward pass. Reads x and gy once.
extern "C" __global__ void __launch_bounds__(256)
    norm_backward_sums(const float *__restrict__ gy, const float *__restrict__ x, const float *m, const float *r,
                       const float *w, const float *b, float *__restrict__ sums, float *__restrict__ moments, int rows,
                       int channels, int period, float slope) {
  __shared__ Sums shared[256];
  Part part = part_of(rows, channels);
  Sums all = {0, 0};
  if (part.first < part.end) {
    int start = part.group * rows * channels + part.channel, at = part.group * channels + part.channel;
    Affine affine = affine_of(m, r, w, b, at, part.group % period * channels + part.channel);
    float mean = m[at], root = r[at];
#pragma unroll 4
    for (int row = part.first; row < part.end; row += part.step) {
      float value = x[start + row * channels], g = through(gy[start + row * channels], affine(value), slope);
      all = added(all, {g, g * ((value - mean) * root)});
    }
  }
  all = merge_rows(all, shared, added);
  if (threadIdx.y || part.channel >= channels) return;
  int at = (part.group * gridDim.y + blockIdx.y) * channels + part.channel;
  sums[at] = all.g, moments[at] = all.along;
}

// gx from the sums [groups, channels]: w is the same for all values of a mean, so gx = r·w·(g - mean g -
// x̂·mean(g·x̂)). Reads x and gy once more, writes gx once.
extern "C" __global__ void __launch_bounds__(256)
    norm_backward_apply(const float *__restrict__ gy, const float *__restrict__ x, const float *m, const float *r,
                        const float *w, const float *b, const float *sums, const float *moments,
                        float *__restrict__ gx, int rows, int channels, int period, float slope) {
  Part part = part_of(rows, channels);
  if (part.first >= part.end) return;
  int start = part.group * rows * channels + part.channel, at = part.group * channels + part.channel;
  Affine affine = affine_of(m, r, w, b, at, part.group % period * channels + part.channel);
  float mean = m[at], root = r[at], lift = sums[at] / rows, lean = moments[at] / rows;
#pragma unroll 4
  for (int row = part.first; row < part.end; row += part.step) {
    int i = start + row * channels;
    float g = through(gy[i], affine(x[i]), slope);
    gx[i] = affine.scale * (g - lift - (x[i] - mean) * root * lean);
  }
}

// Rows of values, one statistic for each row: a block reads its row three times, from memory and then from caches.
// Grid rows, block up to 256. w and b may differ from value to value.
extern "C" __global__ void __launch_bounds__(256)
    norm_rows(const float *__restrict__ x, const float *__restrict__ w, const float *__restrict__ b,
              float *__restrict__ y, float *__restrict__ m, float *__restrict__ v, float *__restrict__ r, int values,
              int period, float eps, float slope) {
  __shared__ float partial[32];
  int row = blockIdx.x, start = row * values, vector = row % period * values;
  float shift = x[start], sum = 0, squares = 0;
  for (int i = threadIdx.x; i < values; i += blockDim.x) sum += x[start + i] - shift;
  float offset = block_sum(sum, partial) / values, mean = shift + offset;
  for (int i = threadIdx.x; i < values; i += blockDim.x) {
    float d = x[start + i] - shift - offset;
    squares += d * d;
  }
  float var = block_sum(squares, partial) / values, root = 1.0f / sqrtf(var + eps);
  for (int i = threadIdx.x; i < values; i += blockDim.x) {
    Affine affine = {mean, w ? root * w[vector + i] : root, b ? b[vector + i] : 0.0f};
    y[start + i] = leaky(affine(x[start + i]), slope);
  }
  if (threadIdx.x == 0) m[row] = mean, v[row] = var, r[row] = root;
}

// gx of rows of values. Grid rows, block up to 256.
extern "C" __global__ void __launch_bounds__(256)
    norm_rows_backward(const float *__restrict__ gy, const float *__restrict__ x, const float *__restrict__ m,
                       const float *__restrict__ r, const float *__restrict__ w, const float *__restrict__ b,
                       float *__restrict__ gx, int values, int period, float slope) {
  __shared__ float partial[32];
  int row = blockIdx.x, start = row * values, vector = row % period * values;
  float mean = m[row], root = r[row], sum = 0, moment = 0;
  for (int i = threadIdx.x; i < values; i += blockDim.x) {
    Affine affine = affine_of(m, r, w, b, row, vector + i);
    float value = x[start + i], h = through(gy[start + i], affine(value), slope) * (w ? w[vector + i] : 1.0f);
    sum += h, moment += h * ((value - mean) * root);
  }
  sum = block_sum(sum, partial) / values, moment = block_sum(moment, partial) / values;
  for (int i = threadIdx.x; i < values; i += blockDim.x) {
    Affine affine = affine_of(m, r, w, b, row, vector + i);
    float value = x[start + i], h = through(gy[start + i], affine(value), slope) * (w ? w[vector + i] : 1.0f);
    gx[start + i] = root * (h - sum - (value - mean) * root * moment);
  }
}

// Σ g and Σ g·x̂ over rows with the same vector, for each value of it. An array of `rows` times `period` rows of values
// is [rows, period·values] too, so threads lie over it as in rows.cuh with one group. Writes [parts, period·values].
extern "C" __global__ void __launch_bounds__(256)
    norm_rows_vectors(const float *__restrict__ gy, const float *__restrict__ x, const float *m, const float *r,
                      const float *w, const float *b, float *__restrict__ sums, float *__restrict__ moments, int rows,
                      int values, int period, float slope) {
  __shared__ Sums shared[256];
  int channels = period * values;
  Part part = part_of(rows, channels);
  Sums all = {0, 0};
  for (int row = part.first; row < part.end; row += part.step) {
    int i = row * channels + part.channel, at = row * period + part.channel / values;
    Affine affine = affine_of(m, r, w, b, at, part.channel);
    float g = through(gy[i], affine(x[i]), slope);
    all = added(all, {g, g * ((x[i] - m[at]) * r[at])});
  }
  all = merge_rows(all, shared, added);
  if (threadIdx.y || part.channel >= channels) return;
  int at = blockIdx.y * channels + part.channel;
  sums[at] = all.g, moments[at] = all.along;
}

// gx = gy·leaky'(y), and, if wanted, Σ gx of parts of the rows, [groups, parts, channels], in one pass. Grid and block
// as in rows.cuh. Reads gy and y and writes gx once.
extern "C" __global__ void __launch_bounds__(256)
    norm_bias_backward(const float *__restrict__ gy, const float *__restrict__ y, float *__restrict__ gx,
                       float *__restrict__ sums, int rows, int channels, float slope) {
  __shared__ float shared[256];
  Part part = part_of(rows, channels);
  float sum = 0;
#pragma unroll 4
  for (int row = part.first; row < part.end; row += part.step) {
    int i = (part.group * rows + row) * channels + part.channel;
    float g = through(gy[i], y[i], slope);
    gx[i] = g;
    sum += g;
  }
  if (!sums) return;
  sum = merge_rows(sum, shared, [](float a, float b) { return a + b; });
  if (threadIdx.y == 0 && part.channel < channels)
    sums[(part.group * gridDim.y + blockIdx.y) * channels + part.channel] = sum;
}
