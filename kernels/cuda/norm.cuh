// What the kernels of norm.cu do for channels, V of them in each thread: see there for what is computed.
#pragma once
#include "rows.cuh"

// Vectors that a thread asks memory for before it needs the first of them; in the backward pass, pairs of vectors.
constexpr int AHEAD = 8, PAIRS = 4;

__device__ __forceinline__ float leaky(float z, float slope) {
  return z > 0 || z != z ? z : slope != 0 ? slope * z : 0.0f;  // 0, not 0·∞, for z = -∞ and a ReLU
}

// (x - m)·r·w + b, in one place: the backward pass must find the same sign of it.
struct Affine {
  float mean, scale, shift;
  __device__ __forceinline__ float operator()(float x) const { return (x - mean) * scale + shift; }
};

template <int V> struct Affines {
  Affine of[V];
};

// Of the thread's channels in a vector that may be missing, then `otherwise`; its address may be any.
template <int V> __device__ __forceinline__ Vector<V> given(const float *p, int at, float otherwise) {
  Vector<V> v;
#pragma unroll
  for (int k = 0; k < V; k++) v.of[k] = p ? p[at + k] : otherwise;
  return v;
}

// Of the channel `at` in m and r, and `vector` in w and b; what is missing changes nothing.
__device__ __forceinline__ Affine affine_of(const float *m, const float *r, const float *w, const float *b, int at,
                                            int vector) {
  float scale = r ? r[at] : 1.0f;
  return {m ? m[at] : 0.0f, w ? scale * w[vector] : scale, b ? b[vector] : 0.0f};
}

template <int V>
__device__ __forceinline__ Affines<V> affines_of(const float *m, const float *r, const float *w, const float *b, int at,
                                                 int vector) {
  Affines<V> affine;
#pragma unroll
  for (int k = 0; k < V; k++) affine.of[k] = affine_of(m, r, w, b, at + k, vector + k);
  return affine;
}

// Forward ---------------------------------------------------------------------------------------------------------

// Statistics of n values of each channel: m2 = Σ(x - mean)². E[x²] - E[x]² would lose all digits where the mean is
// large.
template <int V> struct Moments {
  float n, mean[V], m2[V];  // an odd number of words: neighbours in shared memory lie in different banks
};

// Of two sets together (Chan, Golub and LeVeque, 1979).
template <int V> __device__ __forceinline__ Moments<V> merged(Moments<V> a, Moments<V> b) {
  float n = a.n + b.n;
  if (b.n == 0 || n == 0) return a;
  float share = __fdividef(b.n, n);  // two units in the last place are near enough
#pragma unroll
  for (int k = 0; k < V; k++) {
    float d = b.mean[k] - a.mean[k];
    a.m2[k] = a.m2[k] + b.m2[k] + d * d * (a.n * share);
    a.mean[k] += d * share;
  }
  a.n = n;
  return a;
}

// v1: coalesced, see rows.cuh, and in one pass: of the values that a thread holds in registers, it takes the mean and
// then the squares around it; sets of them are merged. `means` and `squares` [groups, parts, channels] get what a block
// finds. The group's first row is taken from all values, since a mean of 10000 would be rounded to steps of 0.001.
// Reads each value once, and the first row once more for each part.
template <int V>
__device__ __forceinline__ void statistics(const float *x, float *means, float *squares, int rows, int channels,
                                           Moments<V> *shared) {
  Part part = part_of<V>(rows, channels);
  const float *column = x + part.group * rows * channels + part.channel;
  Vector<V> shift = {};
  if (part.first < part.end) shift = load<V>(column);
  Moments<V> all = {};
  for (int row = part.first; row < part.end; row += AHEAD * part.step) {
    Vector<V> value[AHEAD];
    Moments<V> few = {};
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
      int at = row + i * part.step;
      value[i] = at < part.end ? load<V>(column + at * channels) : shift;
      few.n += at < part.end;
    }
    float share = __fdividef(1.0f, few.n);
#pragma unroll
    for (int k = 0; k < V; k++) {
#pragma unroll
      for (int i = 0; i < AHEAD; i++) few.mean[k] += value[i].of[k] -= shift.of[k];  // 0 where there is no row
      few.mean[k] *= share;
#pragma unroll
      for (int i = 0; i < AHEAD; i++) {
        float d = i < few.n ? value[i].of[k] - few.mean[k] : 0.0f;
        few.m2[k] += d * d;
      }
    }
    all = merged(all, few);
  }
  all = merge_rows(all, shared, merged<V>);
  if (threadIdx.y || part.channel >= channels) return;
  int at = (part.group * gridDim.y + blockIdx.y) * channels + part.channel;
  Vector<V> mean, m2;
#pragma unroll
  for (int k = 0; k < V; k++) mean.of[k] = all.mean[k], m2.of[k] = all.m2[k];
  store<V>(means + at, mean), store<V>(squares + at, m2);
}

// A thread's rows of x, AHEAD of them at a time. y may be x, so the compiler would not move a read before a write.
template <int V>
__device__ __forceinline__ void fetch(Vector<V> (&value)[AHEAD], const float *x, Part part, int row, int channels) {
#pragma unroll
  for (int i = 0; i < AHEAD; i++) {
    int at = row + i * part.step;
    if (at < part.end) value[i] = load<V>(x + at * channels);
  }
}

// y = leaky(affine(x)) of a thread's rows, of which the first are there already.
template <int V>
__device__ __forceinline__ void apply_rows(Vector<V> (&value)[AHEAD], const Affines<V> &affine, const float *x,
                                           float *y, Part part, int channels, float slope) {
  for (int row = part.first; row < part.end;) {
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
      int at = row + i * part.step;
      if (at >= part.end) break;
#pragma unroll
      for (int k = 0; k < V; k++) value[i].of[k] = leaky(affine.of[k](value[i].of[k]), slope);
      store<V>(y + at * channels, value[i]);
    }
    row += AHEAD * part.step;
    fetch<V>(value, x, part, row, channels);
  }
}

// Then the parts of a channel become its m, v and r, always in the same order, and y = leaky((x - m)·r·w + b). Every
// block merges the parts of its channels anew, while the first rows that it needs are on their way: that takes less
// time than a launch. Grid and block as above. Reads and writes each value once.
template <int V>
__device__ __forceinline__ void forward_apply(const float *x, const float *means, const float *squares, const float *w,
                                              const float *b, float *y, float *m, float *v, float *r, int rows,
                                              int channels, int parts, int period, float eps, float slope,
                                              Moments<V> *shared) {
  Part part = part_of<V>(rows, channels);
  int start = part.group * rows * channels + part.channel, each = (rows + parts - 1) / parts;
  int at = part.group * channels + part.channel, vector = part.group % period * channels + part.channel;
  bool there = part.channel < channels;
  Vector<V> value[AHEAD], first, weight, bias;
  fetch<V>(value, x + start, part, part.first, channels);
  if (there) first = load<V>(x + start), weight = given<V>(w, vector, 1), bias = given<V>(b, vector, 0);
  auto read = [&](int i) {
    Moments<V> of = {};
    if (!there) return of;
    int at = (part.group * parts + i) * channels + part.channel;
    of.n = max(0, min(each, rows - i * each));
    Vector<V> mean = load<V>(means + at), m2 = load<V>(squares + at);
#pragma unroll
    for (int k = 0; k < V; k++) of.mean[k] = mean.of[k], of.m2[k] = m2.of[k];
    return of;
  };
  Moments<V> all = merge_parts(Moments<V>{}, parts, shared, read, merged<V>);
  if (!there) return;
  Affines<V> affine;
  Vector<V> mean, var, root;
  float share = 1.0f / rows;
#pragma unroll
  for (int k = 0; k < V; k++) {
    mean.of[k] = first.of[k] + all.mean[k], var.of[k] = all.m2[k] * share, root.of[k] = 1.0f / sqrtf(var.of[k] + eps);
    affine.of[k] = {mean.of[k], root.of[k] * weight.of[k], bias.of[k]};
  }
  if (blockIdx.y == 0 && threadIdx.y == 0) store<V>(m + at, mean), store<V>(v + at, var), store<V>(r + at, root);
  apply_rows<V>(value, affine, x + start, y + start, part, channels, slope);
}

// y = leaky(x·w + b); a missing w or b changes nothing, so this also adds biases. y may be x. Grid and block as above.
// Reads and writes each value once.
template <int V>
__device__ __forceinline__ void affine_map(const float *x, const float *w, const float *b, float *y, int rows,
                                           int channels, int period, float slope) {
  Part part = part_of<V>(rows, channels);
  if (part.first >= part.end) return;
  int start = part.group * rows * channels + part.channel, vector = part.group % period * channels + part.channel;
  Vector<V> value[AHEAD];
  fetch<V>(value, x + start, part, part.first, channels);
  Affines<V> affine = affines_of<V>(0, 0, w, b, 0, vector);
  apply_rows<V>(value, affine, x + start, y + start, part, channels, slope);
}

// Backward --------------------------------------------------------------------------------------------------------

__device__ __forceinline__ float through(float gy, float y, float slope) { return y > 0 ? gy : slope * gy; }

// Σ g and Σ g·x̂ of each channel
template <int V> struct Sums {
  float g[V], along[V], unused;  // for an odd number of words: neighbours in shared memory lie in different banks
};

template <int V> __device__ __forceinline__ Sums<V> added(Sums<V> a, Sums<V> b) {
#pragma unroll
  for (int k = 0; k < V; k++) a.g[k] += b.g[k], a.along[k] += b.along[k];
  return a;
}

// A thread's rows of gy and x, PAIRS of them at a time.
template <int V> struct Pairs {
  Vector<V> gy[PAIRS], x[PAIRS];
  __device__ __forceinline__ void fetch(const float *given, const float *values, Part part, int row, int channels) {
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
      int at = row + i * part.step;
      if (at < part.end) gy[i] = load<V>(given + at * channels), x[i] = load<V>(values + at * channels);
    }
  }
};

// v1: Σ g and Σ g·x̂ of parts of the rows, each [groups, parts, channels]. Grid and block as in the forward pass. Reads
// x and gy once.
template <int V>
__device__ __forceinline__ void backward_sums(const float *gy, const float *x, const float *m, const float *r,
                                              const float *w, const float *b, float *sums, float *moments, int rows,
                                              int channels, int period, float slope, Sums<V> *shared) {
  Part part = part_of<V>(rows, channels);
  Sums<V> all = {};
  if (part.first < part.end) {
    int start = part.group * rows * channels + part.channel, at = part.group * channels + part.channel;
    Affines<V> affine = affines_of<V>(m, r, w, b, at, part.group % period * channels + part.channel);
    Vector<V> root = given<V>(r, at, 1);
    Pairs<V> now;
    for (int row = part.first; row < part.end; row += PAIRS * part.step) {
      now.fetch(gy + start, x + start, part, row, channels);
#pragma unroll
      for (int i = 0; i < PAIRS; i++) {
        if (row + i * part.step >= part.end) break;
#pragma unroll
        for (int k = 0; k < V; k++) {
          float value = now.x[i].of[k], g = through(now.gy[i].of[k], affine.of[k](value), slope);
          all.g[k] += g, all.along[k] += g * ((value - affine.of[k].mean) * root.of[k]);
        }
      }
    }
  }
  all = merge_rows(all, shared, added<V>);
  if (threadIdx.y || part.channel >= channels) return;
  int at = (part.group * gridDim.y + blockIdx.y) * channels + part.channel;
  Vector<V> sum, moment;
#pragma unroll
  for (int k = 0; k < V; k++) sum.of[k] = all.g[k], moment.of[k] = all.along[k];
  store<V>(sums + at, sum), store<V>(moments + at, moment);
}

// Then the sums of the parts are added up, by every block anew, always in the same order; gb and gw [groups, channels]
// get them. w is the same for all values of a mean, so gx = r·w·(g - mean g - x̂·mean(g·x̂)). Reads x and gy once more,
// writes gx once.
template <int V>
__device__ __forceinline__ void backward_apply(const float *gy, const float *x, const float *m, const float *r,
                                               const float *w, const float *b, const float *sums, const float *moments,
                                               float *gx, float *gw, float *gb, int rows, int channels, int parts,
                                               int period, float slope, Sums<V> *shared) {
  Part part = part_of<V>(rows, channels);
  int start = part.group * rows * channels + part.channel, at = part.group * channels + part.channel;
  bool there = part.channel < channels;
  Pairs<V> now;
  now.fetch(gy + start, x + start, part, part.first, channels);
  Affines<V> affine;
  Vector<V> root;
  if (there) {
    affine = affines_of<V>(m, r, w, b, at, part.group % period * channels + part.channel);
    root = given<V>(r, at, 1);
  }
  auto read = [&](int i) {
    Sums<V> of = {};
    if (!there) return of;
    int at = (part.group * parts + i) * channels + part.channel;
    Vector<V> sum = load<V>(sums + at), moment = load<V>(moments + at);
#pragma unroll
    for (int k = 0; k < V; k++) of.g[k] = sum.of[k], of.along[k] = moment.of[k];
    return of;
  };
  Sums<V> all = merge_parts(Sums<V>{}, parts, shared, read, added<V>);
  if (!there) return;
  Vector<V> lift, lean, sum, moment;  // of g, lift is the mean, and lean what is taken off for each unit of x - m
  float share = 1.0f / rows;
#pragma unroll
  for (int k = 0; k < V; k++) {
    sum.of[k] = all.g[k], moment.of[k] = all.along[k];
    lift.of[k] = all.g[k] * share, lean.of[k] = root.of[k] * (all.along[k] * share);
  }
  if (blockIdx.y == 0 && threadIdx.y == 0) store<V>(gb + at, sum), store<V>(gw + at, moment);
  for (int row = part.first; row < part.end;) {
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
      int at = row + i * part.step;
      if (at >= part.end) break;
      Vector<V> out;
#pragma unroll
      for (int k = 0; k < V; k++) {
        float value = now.x[i].of[k], g = through(now.gy[i].of[k], affine.of[k](value), slope);
        out.of[k] = affine.of[k].scale * (g - lift.of[k] - (value - affine.of[k].mean) * lean.of[k]);
      }
      store<V>(gx + start + at * channels, out);
    }
    row += PAIRS * part.step;
    now.fetch(gy + start, x + start, part, row, channels);
  }
}
