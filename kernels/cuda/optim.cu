// Update rules of the optimisers: one pass over parameters w, gradients g and states, of many parameters in one launch.
//
// All rules are given ±g + decay·w, and what they find is subtracted from factor·w. They do some 10 operations for 12
// to 36 bytes, so only bytes count: Adam moves 28 a value (reads w, g, m, v, writes w, m, v). Parameters of a GAN are
// many and mostly small: a launch for each of them takes longer than the work.
#include "common.cuh"
#include "elementwise.cuh"

// v0: Adam for one parameter of n values, a thread each. Grid n / 256, block 256. 28·n bytes.
//   m ← β1·m + (1 - β1)·g,  v ← β2·v + (1 - β2)·g²,  w ← w - rate·m / (√v + floor)
// where rate and floor hold the learning rate and the corrections 1 - βˢ of step s, so that no thread computes powers.
extern "C" __global__ void __launch_bounds__(256)
    adam_naive(float *w, const float *g, float *mean, float *square, int n, float rate, float floor, float beta1,
               float rest1, float beta2, float rest2) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float m = mean[i] = beta1 * mean[i] + rest1 * g[i];
  float v = square[i] = beta2 * square[i] + rest2 * (g[i] * g[i]);
  w[i] -= rate * m / (sqrtf(v) + floor);
}

// v1: many parameters in one launch. Grid: a block for each piece of at most 4096 values of one parameter; block 256.
//   table:  the addresses of each parameter and of its gradient
//   pieces: of each block, its parameter's number, its first value there, how many values, and where its state begins
// A multiprocessor holds 2048 threads that wait for 16 bytes each: enough to keep memory busy without wider loads, for
// which gradients and stretches of the states are not aligned.
//
// Numbers are arguments, or if `live` is not null they are read from there, in their order: a captured graph replays its
// arguments as they were, but reads memory as it is.
//
// `rule(gradient, s)` brings the state at s up to date and returns what to subtract.
template <class Rule>
__device__ __forceinline__ void update(const uint64_t *table, const int *pieces, float decay, float factor,
                                       int maximize, Rule rule) {
  const int *piece = pieces + 4 * blockIdx.x;
  float *w = (float *)table[2 * piece[0]] + piece[1];
  const float *g = (const float *)table[2 * piece[0] + 1] + piece[1];
  int values = piece[2], state = piece[3];
  for (int i = threadIdx.x; i < values; i += blockDim.x) {
    float x = w[i], gradient = maximize ? -g[i] : g[i];
    if (decay != 0) gradient += decay * x;
    w[i] = factor * x - rule(gradient, state + i);
  }
}

// b ← momentum·b + rest·g, rest = 1 - dampening,  w ← w - lr·b  (Nesterov: lr·(g + momentum·b); without b: lr·g)
// 20 bytes a value, 12 without b.
extern "C" __global__ void __launch_bounds__(256)
    sgd_step(const uint64_t *table, const int *pieces, float *buffer, const float *live, float lr, float momentum,
             float rest, float decay, float factor, int nesterov, int maximize) {
  if (live) lr = live[0], momentum = live[1], rest = live[2], decay = live[3], factor = live[4];
  update(table, pieces, decay, factor, maximize, [&](float g, int s) {
    if (!buffer) return lr * g;
    float b = buffer[s] = momentum * buffer[s] + rest * g;
    return lr * (nesterov ? g + momentum * b : b);
  });
}

// As v0; with `largest` (AMSGrad) the root is of the largest v so far.
extern "C" __global__ void __launch_bounds__(256)
    adam_step(const uint64_t *table, const int *pieces, float *mean, float *square, float *largest, const float *live,
              float rate, float floor, float beta1, float rest1, float beta2, float rest2, float decay, float factor,
              int maximize) {
  if (live) {
    rate = live[0], floor = live[1], beta1 = live[2], rest1 = live[3], beta2 = live[4], rest2 = live[5];
    decay = live[6], factor = live[7];
  }
  update(table, pieces, decay, factor, maximize, [&](float g, int s) {
    float m = mean[s] = beta1 * mean[s] + rest1 * g;
    float v = square[s] = beta2 * square[s] + rest2 * (g * g);
    if (largest) v = largest[s] = maximum(largest[s], v);
    return rate * m / (sqrtf(v) + floor);
  });
}

// v ← α·v + (1 - α)·g²,  h = g / (√v + eps),  w ← w - lr·h
// With `mean` (centred), ḡ ← α·ḡ + (1 - α)·g and √(v - ḡ²) takes the place of √v. With `buffer`, b ← momentum·b + h and
// w ← w - lr·b. 20 bytes a value, 8 more for each of the two.
extern "C" __global__ void __launch_bounds__(256)
    rmsprop_step(const uint64_t *table, const int *pieces, float *square, float *mean, float *buffer,
                 const float *live, float lr, float alpha, float rest, float eps, float momentum, float decay,
                 float factor, int maximize) {
  if (live) {
    lr = live[0], alpha = live[1], rest = live[2], eps = live[3], momentum = live[4];
    decay = live[5], factor = live[6];
  }
  update(table, pieces, decay, factor, maximize, [&](float g, int s) {
    float v = square[s] = alpha * square[s] + rest * (g * g);
    if (mean) {
      float m = mean[s] = alpha * mean[s] + rest * g;
      v = maximum(v - m * m, 0.0f);  // a variance; rounding may leave it a little below zero
    }
    float h = g / (sqrtf(v) + eps);
    if (buffer) h = buffer[s] = momentum * buffer[s] + h;
    return lr * h;
  });
}

// s ← s + g²,  w ← w - lr·g / (√s + eps). 20 bytes a value.
extern "C" __global__ void __launch_bounds__(256)
    adagrad_step(const uint64_t *table, const int *pieces, float *total, const float *live, float lr, float eps,
                 float decay, float factor, int maximize) {
  if (live) lr = live[0], eps = live[1], decay = live[2], factor = live[3];
  update(table, pieces, decay, factor, maximize, [&](float g, int s) {
    float sum = total[s] = total[s] + g * g;
    return lr * g / (sqrtf(sum) + eps);
  });
}
