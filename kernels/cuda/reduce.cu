// Reductions: Σ x, max x, min x, where those are, whether any or all x ≠ 0, over some axes of an array; and copies.
//
// A reduction reads each value once and does one operation with it: its time is that of reading. All outputs are
// combined in an order that depends on sizes alone, so that sums repeat bit for bit. NaN is larger and smaller than
// anything, as in NumPy. `op` is 0 for sums, 1 for maxima and -1 for minima; any and all are the maximum and minimum of
// x ≠ 0.
#include "common.cuh"
#include "rows.cuh"

// A value and its place among those reduced; at < 0 if there is none yet. Sums have no place.
template <class V> struct Best {
  V value;
  int at;
};

// a or b, whichever is first in a ranking by value and then by place: the order of a tree makes no difference.
template <class V> __device__ __forceinline__ Best<V> combined(Best<V> a, Best<V> b, int op) {
  if (op == 0) return {a.value + b.value, 0};
  if (a.at < 0 || b.at < 0) return a.at < 0 ? b : a;
  bool no_a = a.value != a.value, no_b = b.value != b.value;
  if (no_a != no_b) return no_a ? a : b;
  bool equal = no_a || a.value == b.value;
  if (equal) return a.at < b.at ? a : b;
  return (op > 0) == (a.value > b.value) ? a : b;
}

template <class V> __device__ __forceinline__ Best<V> from_lane(Best<V> a, int lanes) {
  return {__shfl_xor_sync(0xffffffffu, a.value, lanes), __shfl_xor_sync(0xffffffffu, a.at, lanes)};
}

template <class V> __device__ __forceinline__ Best<V> warp_combined(Best<V> best, int op) {
#pragma unroll
  for (int lanes = 16; lanes; lanes /= 2) best = combined(best, from_lane(best, lanes), op);
  return best;
}

// What is read: values x, or whether they are 0 for any and all; `places` tells where values of an earlier stage were.
template <class T, class V> struct Input {
  const T *x;
  const long long *places;
  bool truth;
  __device__ __forceinline__ Best<V> operator()(int address, int at) const {
    V value = truth ? (V)(x[address] != 0) : (V)x[address];
    return {value, places ? (int)places[address] : at};
  }
};

// Where results go, as far as they are wanted: sums, maxima and minima to y, sums of integers and places to `wide`. A
// scale of 1 / n makes a sum a mean.
template <class T, class V> struct Output {
  T *y;
  long long *wide;
  bool *truth;
  V scale;
  __device__ __forceinline__ void operator()(int output, Best<V> best, int op) const {
    if (y) y[output] = (T)(best.value * scale);
    if (wide) wide[output] = op == 0 ? (long long)best.value : best.at;
    if (truth) truth[output] = best.at < 0 ? op < 0 : best.value != 0;  // of no values, none is and all are
  }
};

// Values in memory: the i-th, in an order that has the reduced axes last, lies at first + Σ digit·stride, with its
// digits in the base of up to six sizes.
struct InOrder {
  __device__ __forceinline__ int operator()(int i) const { return i; }
};

struct Strided {
  int n1, n2, n3, n4, n5, s0, s1, s2, s3, s4, s5, first;  // the first size is not needed
  __device__ __forceinline__ int operator()(int i) const {
    int at = first + i % n5 * s5;
    i /= n5, at += i % n4 * s4;
    i /= n4, at += i % n3 * s3;
    i /= n3, at += i % n2 * s2;
    i /= n2, at += i % n1 * s1;
    return at + i / n1 * s0;
  }
};

// v0: a thread for each output. Grid outputs / 256, block 256. Neighbouring threads read values that are `values` apart
// where reduced axes are last in memory; and a sum of everything has one thread.
extern "C" __global__ void __launch_bounds__(256)
    reduce_naive(const float *x, float *y, int op, float scale, int outputs, int values, int n1, int n2, int n3, int n4,
                 int n5, int s0, int s1, int s2, int s3, int s4, int s5, int first) {
  Strided address = {n1, n2, n3, n4, n5, s0, s1, s2, s3, s4, s5, first};
  int output = blockIdx.x * blockDim.x + threadIdx.x;
  if (output >= outputs) return;
  Best<float> best = {0, -1};
  for (int i = 0; i < values; i++) best = combined(best, {x[address(output * values + i)], i}, op);
  y[output] = best.value * scale;
}

// v1: a warp or a block for each output, or for a part of its values. Grid (outputs / blockDim.y, parts), block (32, 8)
// or (256, 1). Neighbouring threads read neighbouring values; what they found is combined by shuffles, and between
// warps through shared memory. The results of parts, [outputs, parts], are reduced by another launch.
template <class T, class V, class At>
__device__ __forceinline__ void reduce_row(Input<T, V> input, Output<T, V> write, int op, int outputs, int values,
                                           At address, Best<V> *shared) {
  int output = blockIdx.x * blockDim.y + threadIdx.y, part = blockIdx.y;
  int each = (values + gridDim.y - 1) / gridDim.y, end = output < outputs ? min(values, part * each + each) : 0;
  Best<V> best = {0, -1};
#pragma unroll 4
  for (int i = part * each + threadIdx.x; i < end; i += blockDim.x)
    best = combined(best, input(address(output * values + i), i), op);
  best = warp_combined(best, op);
  if (blockDim.x > 32) {  // then one output is all that the block has
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (lane == 0) shared[warp] = best;
    __syncthreads();
    best = lane < blockDim.x / 32 ? shared[lane] : Best<V>{0, -1};
    best = warp_combined(best, op);
  }
  if (threadIdx.x == 0 && output < outputs) write(output * gridDim.y + part, best, op);
}

extern "C" __global__ void __launch_bounds__(256)
    reduce_rows_float(const float *x, const long long *places, float *y, long long *wide, bool *truth, int op,
                      float scale, int outputs, int values) {
  __shared__ Best<float> shared[8];
  reduce_row<float, float>({x, places, truth != 0}, {y, wide, truth, scale}, op, outputs, values, InOrder{}, shared);
}

extern "C" __global__ void __launch_bounds__(256)
    reduce_rows_int(const int *x, const long long *places, int *y, long long *wide, bool *truth, int op, int outputs,
                    int values) {
  __shared__ Best<long long> shared[8];
  reduce_row<int, long long>({x, places, truth != 0}, {y, wide, truth, 1}, op, outputs, values, InOrder{}, shared);
}

extern "C" __global__ void __launch_bounds__(256)
    reduce_rows_long(const long long *x, const long long *places, long long *y, long long *wide, bool *truth, int op,
                     int outputs, int values) {
  __shared__ Best<long long> shared[8];
  reduce_row<long long, long long>({x, places, truth != 0}, {y, wide, truth, 1}, op, outputs, values, InOrder{},
                                   shared);
}

extern "C" __global__ void __launch_bounds__(256)
    reduce_rows_bool(const bool *x, const long long *places, bool *y, long long *wide, bool *truth, int op, int outputs,
                     int values) {
  __shared__ Best<long long> shared[8];
  reduce_row<bool, long long>({x, places, truth != 0}, {y, wide, truth, 1}, op, outputs, values, InOrder{}, shared);
}

// The same of values anywhere in memory: up to five divisions for each, for axes that no other kernel takes.
extern "C" __global__ void __launch_bounds__(256)
    reduce_strided_float(const float *x, const long long *places, float *y, long long *wide, bool *truth, int op,
                         float scale, int outputs, int values, int n1, int n2, int n3, int n4, int n5, int s0, int s1,
                         int s2, int s3, int s4, int s5, int first) {
  __shared__ Best<float> shared[8];
  Strided address = {n1, n2, n3, n4, n5, s0, s1, s2, s3, s4, s5, first};
  reduce_row<float, float>({x, places, truth != 0}, {y, wide, truth, scale}, op, outputs, values, address, shared);
}

// v2, for axes that are followed by others in memory: threads lie over [groups, rows, channels] as in rows.cuh, and a
// thread combines rows of one channel. Each warp reads neighbouring values, where v1 would read values `channels`
// apart. The results of parts, [groups, parts, channels], are reduced by another launch.
template <class T, class V>
__device__ __forceinline__ void reduce_column(Input<T, V> input, Output<T, V> write, int op, int rows, int channels,
                                              Best<V> *shared) {
  Part part = part_of(rows, channels);
  Best<V> best = {0, -1};
#pragma unroll 4
  for (int row = part.first; row < part.end; row += part.step)
    best = combined(best, input((part.group * rows + row) * channels + part.channel, row), op);
  best = merge_rows(best, shared, [op](Best<V> a, Best<V> b) { return combined(a, b, op); });
  if (threadIdx.y == 0 && part.channel < channels)
    write((part.group * gridDim.y + blockIdx.y) * channels + part.channel, best, op);
}

extern "C" __global__ void __launch_bounds__(256)
    reduce_columns_float(const float *x, const long long *places, float *y, long long *wide, bool *truth, int op,
                         float scale, int rows, int channels) {
  __shared__ Best<float> shared[256];
  reduce_column<float, float>({x, places, truth != 0}, {y, wide, truth, scale}, op, rows, channels, shared);
}

extern "C" __global__ void __launch_bounds__(256)
    reduce_columns_int(const int *x, const long long *places, int *y, long long *wide, bool *truth, int op, int rows,
                       int channels) {
  __shared__ Best<long long> shared[256];
  reduce_column<int, long long>({x, places, truth != 0}, {y, wide, truth, 1}, op, rows, channels, shared);
}

extern "C" __global__ void __launch_bounds__(256)
    reduce_columns_long(const long long *x, const long long *places, long long *y, long long *wide, bool *truth, int op,
                        int rows, int channels) {
  __shared__ Best<long long> shared[256];
  reduce_column<long long, long long>({x, places, truth != 0}, {y, wide, truth, 1}, op, rows, channels, shared);
}

extern "C" __global__ void __launch_bounds__(256)
    reduce_columns_bool(const bool *x, const long long *places, bool *y, long long *wide, bool *truth, int op, int rows,
                        int channels) {
  __shared__ Best<long long> shared[256];
  reduce_column<bool, long long>({x, places, truth != 0}, {y, wide, truth, 1}, op, rows, channels, shared);
}

// Copies of n values of 1, 4 or 8 bytes into an order without gaps; nothing is reduced. Grid n / 256, block 256.
// Writes are coalesced, reads are if the last axis has stride 1. Reads and writes each value once.
template <class T> __device__ __forceinline__ void copy(const T *x, T *y, int n, Strided address) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = x[address(i)];
}

extern "C" __global__ void __launch_bounds__(256)
    reduce_copy_1(const unsigned char *x, unsigned char *y, int n, int n1, int n2, int n3, int n4, int n5, int s0,
                  int s1, int s2, int s3, int s4, int s5, int first) {
  copy(x, y, n, {n1, n2, n3, n4, n5, s0, s1, s2, s3, s4, s5, first});
}

extern "C" __global__ void __launch_bounds__(256)
    reduce_copy_4(const uint32_t *x, uint32_t *y, int n, int n1, int n2, int n3, int n4, int n5, int s0, int s1, int s2,
                  int s3, int s4, int s5, int first) {
  copy(x, y, n, {n1, n2, n3, n4, n5, s0, s1, s2, s3, s4, s5, first});
}

extern "C" __global__ void __launch_bounds__(256)
    reduce_copy_8(const uint64_t *x, uint64_t *y, int n, int n1, int n2, int n3, int n4, int n5, int s0, int s1, int s2,
                  int s3, int s4, int s5, int first) {
  copy(x, y, n, {n1, n2, n3, n4, n5, s0, s1, s2, s3, s4, s5, first});
}
