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
#include "norm.cuh"
#include "rows.cuh"

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

// v1: two passes over the values, each with threads that lie over neighbouring channels: see norm.cuh. What ends in
// `_any` takes any number of channels, and any address.
extern "C" __global__ void __launch_bounds__(256)
    norm_statistics(const float *__restrict__ x, float *__restrict__ means, float *__restrict__ squares, int rows,
                    int channels) {
  __shared__ Moments<4> shared[256];
  statistics<4>(x, means, squares, rows, channels, shared);
}

extern "C" __global__ void __launch_bounds__(256)
    norm_statistics_any(const float *__restrict__ x, float *__restrict__ means, float *__restrict__ squares, int rows,
                        int channels) {
  __shared__ Moments<1> shared[256];
  statistics<1>(x, means, squares, rows, channels, shared);
}

extern "C" __global__ void __launch_bounds__(256)
    norm_apply(const float *__restrict__ x, const float *__restrict__ means, const float *__restrict__ squares,
                     const float *w, const float *b, float *__restrict__ y, float *m, float *v, float *r, int rows,
                     int channels, int parts, int period, float eps, float slope) {
  __shared__ Moments<4> shared[256];
  forward_apply<4>(x, means, squares, w, b, y, m, v, r, rows, channels, parts, period, eps, slope, shared);
}

extern "C" __global__ void __launch_bounds__(256)
    norm_apply_any(const float *__restrict__ x, const float *__restrict__ means,
                         const float *__restrict__ squares, const float *w, const float *b, float *__restrict__ y,
                         float *m, float *v, float *r, int rows, int channels, int parts, int period, float eps,
                         float slope) {
  __shared__ Moments<1> shared[256];
  forward_apply<1>(x, means, squares, w, b, y, m, v, r, rows, channels, parts, period, eps, slope, shared);
}

extern "C" __global__ void __launch_bounds__(256)
    norm_affine(const float *x, const float *w, const float *b, float *y, int rows, int channels, int period,
               float slope) {
  affine_map<4>(x, w, b, y, rows, channels, period, slope);
}

extern "C" __global__ void __launch_bounds__(256)
    norm_affine_any(const float *x, const float *w, const float *b, float *y, int rows, int channels, int period,
                   float slope) {
  affine_map<1>(x, w, b, y, rows, channels, period, slope);
}

// running = keep·running + share·new for means and variances of channels, in place, and one more batch counted.
// Grid channels / 256, block 256.
extern "C" __global__ void __launch_bounds__(256)
    norm_update_running(float *running_mean, float *running_var, const float *mean, const float *var,
                        long long *tracked, float keep, float share, float var_share, int channels) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i == 0 && tracked) ++*tracked;
  if (i >= channels) return;
  // Rounded after each product, and so the same bits as by three operations on tensors.
  running_mean[i] = __fmul_rn(running_mean[i], keep) + __fmul_rn(mean[i], share);
  running_var[i] = __fmul_rn(running_var[i], keep) + __fmul_rn(var[i], var_share);
}

// Backward: with x̂ = (x - m)·r, g = gy·leaky'(y) and h = g·w,
//
//   gx = r·(h - mean h - x̂·mean(h·x̂)),  gw = Σ g·x̂,  gb = Σ g
//
// leaky' is 1 or the slope by the sign of y, which comes from x again: that costs less than to save and read y.

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

// v1: two passes again, see norm.cuh.
extern "C" __global__ void __launch_bounds__(256)
    norm_backward_sums(const float *__restrict__ gy, const float *__restrict__ x, const float *m, const float *r,
                       const float *w, const float *b, float *__restrict__ sums, float *__restrict__ moments, int rows,
                       int channels, int period, float slope) {
  __shared__ Sums<4> shared[256];
  backward_sums<4>(gy, x, m, r, w, b, sums, moments, rows, channels, period, slope, shared);
}

extern "C" __global__ void __launch_bounds__(256)
    norm_backward_sums_any(const float *__restrict__ gy, const float *__restrict__ x, const float *m, const float *r,
                           const float *w, const float *b, float *__restrict__ sums, float *__restrict__ moments,
                           int rows, int channels, int period, float slope) {
  __shared__ Sums<1> shared[256];
  backward_sums<1>(gy, x, m, r, w, b, sums, moments, rows, channels, period, slope, shared);
}

extern "C" __global__ void __launch_bounds__(256)
    norm_backward_apply(const float *__restrict__ gy, const float *__restrict__ x, const float *m, const float *r,
                        const float *w, const float *b, const float *__restrict__ sums,
                        const float *__restrict__ moments, float *__restrict__ gx, float *gw, float *gb, int rows,
                        int channels, int parts, int period, float slope) {
  __shared__ Sums<4> shared[256];
  backward_apply<4>(gy, x, m, r, w, b, sums, moments, gx, gw, gb, rows, channels, parts, period, slope, shared);
}

extern "C" __global__ void __launch_bounds__(256)
    norm_backward_apply_any(const float *__restrict__ gy, const float *__restrict__ x, const float *m, const float *r,
                            const float *w, const float *b, const float *__restrict__ sums,
                            const float *__restrict__ moments, float *__restrict__ gx, float *gw, float *gb, int rows,
                            int channels, int parts, int period, float slope) {
  __shared__ Sums<1> shared[256];
  backward_apply<1>(gy, x, m, r, w, b, sums, moments, gx, gw, gb, rows, channels, parts, period, slope, shared);
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
  __shared__ Sums<1> shared[256];
  int channels = period * values;
  Part part = part_of(rows, channels);
  Sums<1> all = {};
  for (int row = part.first; row < part.end; row += part.step) {
    int i = row * channels + part.channel, at = row * period + part.channel / values;
    Affine affine = affine_of(m, r, w, b, at, part.channel);
    float g = through(gy[i], affine(x[i]), slope);
    all.g[0] += g, all.along[0] += g * ((x[i] - m[at]) * r[at]);
  }
  all = merge_rows(all, shared, added<1>);
  if (threadIdx.y || part.channel >= channels) return;
  int at = blockIdx.y * channels + part.channel;
  sums[at] = all.g[0], moments[at] = all.along[0];
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
