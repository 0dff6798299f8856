// What the kernels of a convolution share: where its values lie. How they are multiplied is in conv_loops.cuh.
//
// The three kernels are the derivatives of one sum, i over the outputs, k over the taps of a filter f, c over
// channels:
//   T(x, w, y) = Σ x[n, i·stride + k·dilation - pad, c] · w[f, c, k] · y[n, i, f]
//   forward          y = ∂T/∂y: every pixel of y gathers a window of x
//   input gradient   x = ∂T/∂x: every pixel of x gathers from y, once those are taken together that use the same taps
//   weight gradient  w = ∂T/∂w: every tap sums over the pixels of y, with the windows of x
// Each is a product of two matrices of which the first, a value for each pixel and each (tap, channel), is never made:
// its values are copies of the image's, and a block looks up where they are ("implicit GEMM").
#pragma once
#include "common.cuh"

struct ConvShape {
  int N, C, K, groups;   // images; channels of x and of y, each divided into groups
  int H, W, R, S, P, Q;  // sizes of x, of a filter, and of y
  int stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w;
};

// A number in three digits, (high · middles + middle) · lows + low: a pixel as (image, row, column), a place in a
// filter as (row, column, channel). Integer division takes some twenty instructions, so loops add instead.
struct Digits {
  int high, middle, low;
};

__device__ __forceinline__ Digits digits(int value, int middles, int lows) {
  return {value / lows / middles, value / lows % middles, value % lows};
}

__device__ __forceinline__ void add(Digits &x, const Digits &step, int middles, int lows) {
  x.low += step.low, x.middle += step.middle, x.high += step.high;
  if (x.low >= lows) x.low -= lows, x.middle++;
  if (x.middle >= middles) x.middle -= middles, x.high++;
}

__device__ __forceinline__ void add_one(Digits &x, int middles, int lows) {
  if (++x.low == lows) x.low = 0, x.middle++;
  if (x.middle == middles) x.middle = 0, x.high++;
}

// One axis of a gather. Output i, which lies at begin + i·apart, reads i·stride + offset + t·step for its taps t.
// Outside of 0 ... size - 1 there are zeros.
struct Axis {
  int size, outputs, stride, offset, step, taps, begin, apart;
};

__device__ __forceinline__ Axis forward_axis(int size, int outputs, int kernel, int stride, int dilation, int pad) {
  return {size, outputs, stride, -pad, dilation, kernel, 0, 1};
}

// From a tap to the next one that has the same phase (below).
__device__ __forceinline__ int hop_of(int stride, int dilation) {
  int hop = 1;
  while (hop * dilation % stride) hop++;
  return hop;
}

// x[j] = Σ y[i]·w[k] over all i, k with i·stride + k·dilation - pad = j. Only a k for which j + pad - k·dilation is a
// multiple of the stride has an i. Which k those are depends on the phase alone, the remainder of j by the stride,
// and from j to j + stride, i goes on by one: each phase is a convolution of stride 1, with some of the taps. For a
// kernel of 4, stride 2 and pad 1, the even j have (i, k) = (j/2, 1) and (j/2 - 1, 3), the odd ones, with h = (j -
// 1)/2, (h + 1, 0) and (h, 2).
__device__ __forceinline__ Axis phase_axis(int size, int image, int kernel, int stride, int dilation, int pad,
                                           int phase) {
  int first = 0, hop = hop_of(stride, dilation);
  while (first < kernel && (phase + pad - first * dilation) % stride) first++;
  int taps = (kernel - first + hop - 1) / hop, outputs = max(image - phase + stride - 1, 0) / stride;
  return {size, outputs, 1, (phase + pad - first * dilation) / stride, -(hop * dilation / stride), taps, phase, stride};
}

// The gathered matrix [pixels][taps · channels]. A thread stands at one place of it and at the three that follow in
// its row; `next` goes on by a tile's depth: along that row (TAPS), or along the column. `left` is how much of the
// depth is left from where the tile begins. Below and beside the matrix, values are some of the image's: nobody
// stores what comes of them.
template <bool TAPS> struct Patches {
  const float *base;  // the group's first channel of the image
  Axis h, w;
  int channels, all;  // of a group, and of a pixel
  Digits pixel, tap, move;
  int k;  // the place in the tile's depth

  // Of the j-th of the four, or the next four; in this row or, along a column, one `below`. Null where there is a zero.
  __device__ __forceinline__ const float *address(int left, int j, int below = 0) const {
    Digits from = pixel, at = tap;
    for (int i = 0; i < below; i++) add_one(from, h.outputs, w.outputs);
    if (j == 4)
      add(at, {0, 0, 4}, w.taps, channels);  // of fours, as are channels then
    else
      for (int i = 0; i < j; i++) add_one(at, w.taps, channels);
    int y = from.middle * h.stride + h.offset + at.high * h.step;
    int x = from.low * w.stride + w.offset + at.middle * w.step;
    bool inside = (unsigned)y < (unsigned)h.size && (unsigned)x < (unsigned)w.size && k + (TAPS ? j : below) < left;
    return inside ? base + ((from.high * h.size + y) * w.size + x) * all + at.low : nullptr;
  }

  __device__ __forceinline__ void next() {
    if (TAPS)
      add(tap, move, w.taps, channels);
    else
      add(pixel, move, h.outputs, w.outputs);
  }
};

// Four neighbouring columns of a matrix, going down; `columns` are left from the first. Of the row itself, or one
// below.
struct Rows {
  const float *base;
  int place, distance, move, columns, k;

  __device__ __forceinline__ const float *address(int left, int j, int below = 0) const {
    return k + below < left && j < columns ? base + place + below * distance + j : nullptr;
  }

  __device__ __forceinline__ void next() { place += move; }
};

// Which part of its product a block makes: some rows and columns, and a part of the depth, which is what is summed
// over. Where there are too few tiles for all multiprocessors, the depth is split, and conv_sum adds up what comes of
// it.
// Grid (row tiles, groups · column tiles, phases · splits).
struct Part {
  int row, column, begin, end, group, split;
};

__device__ __forceinline__ Part part_of_block(int columns, int depth, int splits, int BM, int BN, int BK) {
  int tiles = (columns + BN - 1) / BN, split = blockIdx.z % splits;
  int chunk = ((depth + BK - 1) / BK + splits - 1) / splits * BK, begin = min(split * chunk, depth);
  int end = min(begin + chunk, depth), column = blockIdx.y % tiles * BN;
  return {(int)blockIdx.x * BM, column, begin, end, (int)blockIdx.y / tiles, split};
}

// The two tasks that follow have the same members for the loops: `take` says which tile a block makes and how deep a
// step is; `left` and `right` give a thread its place in the tile of either matrix, to go on by `step`; `place` tells
// where a row of sums belongs.

// Forward and input gradient: [pixels][taps · channels] times [taps · channels][columns] makes [pixels][columns].
struct Gather {
  static constexpr bool ALONG = true;  // four values of the first matrix lie along the depth
  const float *image, *weights;
  float *result;
  int splits;
  Axis h, w;
  int images, channels, columns;         // channels that one output reads, and columns that it has: of one group
  int image_channels, result_channels;   // of all groups
  int result_h, result_w;                // an image of the result
  int weights_of_group, weights_of_row;  // from one to the next
  int rows, depth;
  Part part;

  __device__ __forceinline__ void take(int BM, int BN, int BK) {
    rows = images * h.outputs * w.outputs, depth = h.taps * w.taps * channels;
    w.taps = max(w.taps, 1);  // a phase may be without taps: it is divided by them all the same
    part = part_of_block(columns, depth, splits, BM, BN, BK);
    image += part.group * channels, weights += part.group * weights_of_group;
    result += part.split * (images * result_h * result_w * result_channels) + part.group * columns;
  }

  __device__ __forceinline__ Patches<true> left(int row, int k, int step) const {
    row = min(row + part.row, rows - 1);
    return {image, h, w, channels, image_channels, digits(row, h.outputs, w.outputs),
            digits(part.begin + k, w.taps, channels), digits(step, w.taps, channels), k};
  }

  __device__ __forceinline__ Rows right(int k, int column, int step) const {
    column += part.column;
    int place = (part.begin + k) * weights_of_row + column;
    return {weights, place, weights_of_row, step * weights_of_row, columns - column, k};
  }

  // Where a row of the block begins in the result; -1 below its end.
  __device__ __forceinline__ int place(int row) const {
    row += part.row;
    if (row >= rows) return -1;
    Digits pixel = digits(row, h.outputs, w.outputs);
    int y = h.begin + pixel.middle * h.apart, x = w.begin + pixel.low * w.apart;
    return ((pixel.high * result_h + y) * result_w + x) * result_channels + part.column;
  }
};

// x and the weights [R, S, C / groups, K] make y.
__device__ __forceinline__ Gather forward(const ConvShape &s, const float *x, const float *w, float *y, int splits) {
  Axis h = forward_axis(s.H, s.P, s.R, s.stride_h, s.dilation_h, s.pad_h);
  Axis v = forward_axis(s.W, s.Q, s.S, s.stride_w, s.dilation_w, s.pad_w);
  int channels = s.C / s.groups, columns = s.K / s.groups;
  return {x, w, y, splits, h, v, s.N, channels, columns, s.C, s.K, s.P, s.Q, columns, s.K};
}

// y and the weights [groups, phases, taps of a phase, K / groups, C / groups] make those pixels of x that are of the
// block's phase. Of taps, there is room for as many as the largest phase has.
__device__ __forceinline__ Gather backward(const ConvShape &s, const float *y, const float *w, float *x, int splits) {
  int phase = blockIdx.z / splits, channels = s.K / s.groups, columns = s.C / s.groups;
  Axis h = phase_axis(s.P, s.H, s.R, s.stride_h, s.dilation_h, s.pad_h, phase / s.stride_w);
  Axis v = phase_axis(s.Q, s.W, s.S, s.stride_w, s.dilation_w, s.pad_w, phase % s.stride_w);
  int hop_h = hop_of(s.stride_h, s.dilation_h), hop_w = hop_of(s.stride_w, s.dilation_w);
  int weights_of_phase = ((s.R + hop_h - 1) / hop_h) * ((s.S + hop_w - 1) / hop_w) * channels * columns;
  int weights_of_group = s.stride_h * s.stride_w * weights_of_phase;
  return {y, w + phase * weights_of_phase, x, splits, h, v, s.N, channels, columns, s.K, s.C, s.H, s.W,
          weights_of_group, columns};
}

// Weight gradient: [taps · channels][pixels] times [pixels][columns] makes [R, S, C / groups, K] for each split.
struct WindowSum {
  static constexpr bool ALONG = false;  // four values of the first matrix lie across the depth: they are channels
  const float *image, *small;
  float *result;
  int splits;
  ConvShape s;
  int channels, columns, rows, depth;
  Part part;

  __device__ __forceinline__ void take(int BM, int BN, int BK) {
    channels = s.C / s.groups, columns = s.K / s.groups, rows = s.R * s.S * channels, depth = s.N * s.P * s.Q;
    part = part_of_block(columns, depth, splits, BM, BN, BK);
    image += part.group * channels, small += part.group * columns;
    result += part.split * (rows * s.K) + part.group * columns;
  }

  __device__ __forceinline__ Patches<false> left(int row, int k, int step) const {
    return {image, forward_axis(s.H, s.P, s.R, s.stride_h, s.dilation_h, s.pad_h),
            forward_axis(s.W, s.Q, s.S, s.stride_w, s.dilation_w, s.pad_w), channels, s.C,
            digits(part.begin + k, s.P, s.Q), digits(part.row + row, s.S, channels), digits(step, s.P, s.Q), k};
  }

  __device__ __forceinline__ Rows right(int k, int column, int step) const {
    column += part.column;
    return {small, (part.begin + k) * s.K + column, s.K, step * s.K, columns - column, k};
  }

  __device__ __forceinline__ int place(int row) const {
    row += part.row;
    return row < rows ? row * s.K + part.column : -1;
  }
};
