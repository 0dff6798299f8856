// Pooling and upsampling of images [N, H, W, C]: each forward looks up few inputs, each backward is a gather.
//
// A backward could add each output's gradient to the inputs that it came from, by atomics: in another order each time,
// so that results would not repeat. Here a thread has an input and looks for its outputs, in a fixed order.
//
// Memory is read once but for windows that overlap, which caches serve, and written once: 4 bytes for each value of the
// two images, 4 more for each place of a maximum. Neighbouring threads have neighbouring channels. What costs time
// beside it is the arithmetic of indices, some 5 to 9 divisions of about 20 instructions, so each kernel has two rungs:
//   v0 (V = 1): a thread has one value
//   v1 (V = 4): a thread has four channels of a pixel, for one time that arithmetic and in accesses of 16 bytes
// Grid: as many blocks as give each thread one piece of work, at most 2048; block 256.
#include "common.cuh"

template <class T, int V> struct __align__(4 * V) Pack {
  T at[V];
};

struct Axis {  // of an image and of what it is pooled or resized to
  int size, out;
};

struct Pixel {  // where a thread is: `offset` leads to its first channel
  int image, y, x, offset;
};

template <int V> __device__ __forceinline__ Pixel pixel(unsigned i, int height, int width, int channels) {
  unsigned at = i / (channels / V), row = at / width;
  return {(int)(row / height), (int)(row % height), (int)(at % width), (int)(i % (channels / V)) * V};
}

// Where the channels of pixel (y, x) begin, of the image and the channel that `p` has.
__device__ __forceinline__ int place(Pixel p, int y, int x, int height, int width, int channels) {
  return ((p.image * height + y) * width + x) * channels + p.offset;
}

template <int V, class T> __device__ __forceinline__ Pack<T, V> load(const T *from) {
  return *(const Pack<T, V> *)from;
}
template <int V, class T> __device__ __forceinline__ void store(T *to, Pack<T, V> values) {
  *(Pack<T, V> *)to = values;
}

// Grid-stride: f(i) for the pieces of work of this thread.
template <class F> __device__ __forceinline__ void each(unsigned n, F f) {
  for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) f(i);
}

// Pooling -------------------------------------------------------------------------------------------------------------

struct Window {  // output o sees inputs o·stride - padding + k·dilation, k = 0 … kernel - 1
  int kernel, stride, padding, dilation;
};

// The outputs whose windows may hold input i: from the first that ends behind it to the last that begins before it.
__device__ __forceinline__ int first_output(Window w, int i) {
  int late = i + w.padding - (w.kernel - 1) * w.dilation;
  return late > 0 ? (late + w.stride - 1) / w.stride : 0;
}
__device__ __forceinline__ int last_output(Window w, int i, int out) {
  return min((i + w.padding) / w.stride, out - 1);
}

// y = the largest value of each window, places = where it is, y·W + x. The first of equal ones; NaN is larger than all.
template <int V>
__device__ __forceinline__ void max_forward(const float *x, float *y, int *places, int images, int channels, Axis rows,
                                            Axis columns, Window down, Window across) {
  each(images * rows.out * columns.out * (channels / V), [&](unsigned i) {
    Pixel p = pixel<V>(i, rows.out, columns.out, channels);
    Pack<float, V> best;
    Pack<int, V> where;
    for (int j = 0; j < V; j++) best.at[j] = 0, where.at[j] = -1;
    for (int ky = 0; ky < down.kernel; ky++) {
      int row = p.y * down.stride - down.padding + ky * down.dilation;
      if (row < 0 || row >= rows.size) continue;
      for (int kx = 0; kx < across.kernel; kx++) {
        int column = p.x * across.stride - across.padding + kx * across.dilation;
        if (column < 0 || column >= columns.size) continue;
        Pack<float, V> v = load<V>(x + place(p, row, column, rows.size, columns.size, channels));
#pragma unroll
        for (int j = 0; j < V; j++) {
          bool nan = v.at[j] != v.at[j] && best.at[j] == best.at[j];
          if (v.at[j] > best.at[j] || nan || where.at[j] < 0) {
            best.at[j] = v.at[j];
            where.at[j] = row * columns.size + column;
          }
        }
      }
    }
    int to = place(p, p.y, p.x, rows.out, columns.out, channels);
    store<V>(y + to, best);
    store<V>(places + to, where);
  });
}

// gx = the sum of gy over the windows whose largest value is here.
template <int V>
__device__ __forceinline__ void max_backward(const float *gy, const int *places, float *gx, int images, int channels,
                                             Axis rows, Axis columns, Window down, Window across) {
  each(images * rows.size * columns.size * (channels / V), [&](unsigned i) {
    Pixel p = pixel<V>(i, rows.size, columns.size, channels);
    Pack<float, V> sum = {};
    int here = p.y * columns.size + p.x, bottom = last_output(down, p.y, rows.out);
    int left = first_output(across, p.x), right = last_output(across, p.x, columns.out);
    for (int oy = first_output(down, p.y); oy <= bottom; oy++)
      for (int ox = left; ox <= right; ox++) {
        int from = place(p, oy, ox, rows.out, columns.out, channels);
        Pack<int, V> where = load<V>(places + from);
        Pack<float, V> g = load<V>(gy + from);
#pragma unroll
        for (int j = 0; j < V; j++)
          if (where.at[j] == here) sum.at[j] += g.at[j];
      }
    store<V>(gx + place(p, p.y, p.x, rows.size, columns.size, channels), sum);
  });
}

extern "C" __global__ void __launch_bounds__(256)
    pool_max_forward(const float *x, float *y, int *places, int images, int channels, int height, int width,
                     int out_height, int out_width, int kernel_y, int kernel_x, int stride_y, int stride_x,
                     int padding_y, int padding_x, int dilation_y, int dilation_x, int four) {
  Axis rows{height, out_height}, columns{width, out_width};
  Window down{kernel_y, stride_y, padding_y, dilation_y}, across{kernel_x, stride_x, padding_x, dilation_x};
  if (four) max_forward<4>(x, y, places, images, channels, rows, columns, down, across);
  else max_forward<1>(x, y, places, images, channels, rows, columns, down, across);
}

extern "C" __global__ void __launch_bounds__(256)
    pool_max_backward(const float *gy, const int *places, float *gx, int images, int channels, int height, int width,
                      int out_height, int out_width, int kernel_y, int kernel_x, int stride_y, int stride_x,
                      int padding_y, int padding_x, int dilation_y, int dilation_x, int four) {
  Axis rows{height, out_height}, columns{width, out_width};
  Window down{kernel_y, stride_y, padding_y, dilation_y}, across{kernel_x, stride_x, padding_x, dilation_x};
  if (four) max_backward<4>(gy, places, gx, images, channels, rows, columns, down, across);
  else max_backward<1>(gy, places, gx, images, channels, rows, columns, down, across);
}

// The mean of a window is its sum over the number of its entries: with those of the padding, or those inside the image
// alone. A kernel of 0 is adaptive pooling: window o is ⌊o·size / out⌋ … ⌈(o + 1)·size / out⌉ - 1.
struct Part {
  int begin, end, entries;
};

__device__ __forceinline__ Part part(Window w, Axis axis, int o, int padded) {
  if (w.kernel == 0) {
    int begin = o * axis.size / axis.out, end = ((o + 1) * axis.size + axis.out - 1) / axis.out;
    return {begin, end, end - begin};
  }
  int begin = o * w.stride - w.padding, end = min(begin + w.kernel, axis.size + w.padding);
  int inside_begin = max(begin, 0), inside_end = min(end, axis.size);
  return {inside_begin, inside_end, padded ? end - begin : inside_end - inside_begin};
}

__device__ __forceinline__ int first_mean(Window w, Axis axis, int i) {
  return w.kernel ? first_output(w, i) : i * axis.out / axis.size;
}
__device__ __forceinline__ int last_mean(Window w, Axis axis, int i) {
  return w.kernel ? last_output(w, i, axis.out) : ((i + 1) * axis.out - 1) / axis.size;
}

template <int V>
__device__ __forceinline__ void average_forward(const float *x, float *y, int images, int channels, Axis rows,
                                                Axis columns, Window down, Window across, int padded, float divisor) {
  each(images * rows.out * columns.out * (channels / V), [&](unsigned i) {
    Pixel p = pixel<V>(i, rows.out, columns.out, channels);
    Part tall = part(down, rows, p.y, padded), wide = part(across, columns, p.x, padded);
    Pack<float, V> sum = {};
    for (int row = tall.begin; row < tall.end; row++)
      for (int column = wide.begin; column < wide.end; column++) {
        Pack<float, V> v = load<V>(x + place(p, row, column, rows.size, columns.size, channels));
#pragma unroll
        for (int j = 0; j < V; j++) sum.at[j] += v.at[j];
      }
    float share = 1 / (divisor != 0 ? divisor : (float)(tall.entries * wide.entries));
#pragma unroll
    for (int j = 0; j < V; j++) sum.at[j] *= share;
    store<V>(y + place(p, p.y, p.x, rows.out, columns.out, channels), sum);
  });
}

// gx = the sum of gy over what it was divided by, of the windows that hold this input.
template <int V>
__device__ __forceinline__ void average_backward(const float *gy, float *gx, int images, int channels, Axis rows,
                                                 Axis columns, Window down, Window across, int padded, float divisor) {
  each(images * rows.size * columns.size * (channels / V), [&](unsigned i) {
    Pixel p = pixel<V>(i, rows.size, columns.size, channels);
    Pack<float, V> sum = {};
    int bottom = last_mean(down, rows, p.y);
    int left = first_mean(across, columns, p.x), right = last_mean(across, columns, p.x);
    for (int oy = first_mean(down, rows, p.y); oy <= bottom; oy++) {
      int tall = part(down, rows, oy, padded).entries;
#pragma unroll 1  // copies of these divisions would take registers, and spill
      for (int ox = left; ox <= right; ox++) {
        int wide = part(across, columns, ox, padded).entries;
        float share = 1 / (divisor != 0 ? divisor : (float)(tall * wide));
        Pack<float, V> g = load<V>(gy + place(p, oy, ox, rows.out, columns.out, channels));
#pragma unroll
        for (int j = 0; j < V; j++) sum.at[j] += share * g.at[j];
      }
    }
    store<V>(gx + place(p, p.y, p.x, rows.size, columns.size, channels), sum);
  });
}

// `padded`: entries of the padding count. `divisor`: what to divide by instead, if not 0.
extern "C" __global__ void __launch_bounds__(256)
    pool_average_forward(const float *x, float *y, int images, int channels, int height, int width, int out_height,
                         int out_width, int kernel_y, int kernel_x, int stride_y, int stride_x, int padding_y,
                         int padding_x, int padded, float divisor, int four) {
  Axis rows{height, out_height}, columns{width, out_width};
  Window down{kernel_y, stride_y, padding_y, 1}, across{kernel_x, stride_x, padding_x, 1};
  if (four) average_forward<4>(x, y, images, channels, rows, columns, down, across, padded, divisor);
  else average_forward<1>(x, y, images, channels, rows, columns, down, across, padded, divisor);
}

extern "C" __global__ void __launch_bounds__(256)
    pool_average_backward(const float *gy, float *gx, int images, int channels, int height, int width, int out_height,
                          int out_width, int kernel_y, int kernel_x, int stride_y, int stride_x, int padding_y,
                          int padding_x, int padded, float divisor, int four) {
  Axis rows{height, out_height}, columns{width, out_width};
  Window down{kernel_y, stride_y, padding_y, 1}, across{kernel_x, stride_x, padding_x, 1};
  if (four) average_backward<4>(gy, gx, images, channels, rows, columns, down, across, padded, divisor);
  else average_backward<1>(gy, gx, images, channels, rows, columns, down, across, padded, divisor);
}

// Upsampling, and downsampling ----------------------------------------------------------------------------------------

// Output o is (1 - share)·x[low] + share·x[high] along an axis. A step of the output is `step` of the input.
//   nearest: low = ⌊o·step⌋, share 0
//   linear:  low = ⌊at⌋, high = low + 1 around at = (o + ½)·step - ½, between middles of pixels; 0 before the first
//   aligned: around at = o·step, between corners
enum Mode { NEAREST, LINEAR, ALIGNED };

struct Mix {
  int low, high;
  float share;
};

__device__ __forceinline__ Mix mix(int mode, Axis axis, float step, int o) {
  float at = mode == LINEAR ? max((o + 0.5f) * step - 0.5f, 0.0f) : o * step;
  int low = min((int)at, axis.size - 1);
  return {low, min(low + 1, axis.size - 1), mode == NEAREST ? 0 : min(at - low, 1.0f)};
}

// An output from which on, if not earlier, outputs use input i: those that lie at i - 1, less one for rounding.
__device__ __forceinline__ int first_use(int mode, float step, int i) {
  if (i == 0 || step == 0) return 0;
  float at = mode == NEAREST ? i / step : mode == LINEAR ? (i - 0.5f) / step - 0.5f : (i - 1) / step;
  return max((int)at - 1, 0);
}

__device__ __forceinline__ float share_of(Mix m, int i) {
  return (m.low == i ? 1 - m.share : 0) + (m.high == i ? m.share : 0);
}

template <int V>
__device__ __forceinline__ void resize_forward(const float *x, float *y, int images, int channels, Axis rows,
                                               Axis columns, float step_y, float step_x, int mode) {
  each(images * rows.out * columns.out * (channels / V), [&](unsigned i) {
    Pixel p = pixel<V>(i, rows.out, columns.out, channels);
    Mix tall = mix(mode, rows, step_y, p.y), wide = mix(mode, columns, step_x, p.x);
    auto at = [&](int row, int column) {
      return load<V>(x + place(p, row, column, rows.size, columns.size, channels));
    };
    Pack<float, V> value = at(tall.low, wide.low);
    if (mode != NEAREST) {
      Pack<float, V> right = at(tall.low, wide.high), below = at(tall.high, wide.low), last = at(tall.high, wide.high);
#pragma unroll
      for (int j = 0; j < V; j++) {
        float upper = (1 - wide.share) * value.at[j] + wide.share * right.at[j];
        float lower = (1 - wide.share) * below.at[j] + wide.share * last.at[j];
        value.at[j] = (1 - tall.share) * upper + tall.share * lower;
      }
    }
    store<V>(y + place(p, p.y, p.x, rows.out, columns.out, channels), value);
  });
}

// gx = the sum of gy times its share in this input, over the outputs that used it: neighbours, since `low` rises.
template <int V>
__device__ __forceinline__ void resize_backward(const float *gy, float *gx, int images, int channels, Axis rows,
                                                Axis columns, float step_y, float step_x, int mode) {
  each(images * rows.size * columns.size * (channels / V), [&](unsigned i) {
    Pixel p = pixel<V>(i, rows.size, columns.size, channels);
    Pack<float, V> sum = {};
    int top = first_use(mode, step_y, p.y), left = first_use(mode, step_x, p.x);
    for (int oy = top; oy < rows.out; oy++) {
      Mix tall = mix(mode, rows, step_y, oy);
      if (tall.low > p.y) break;
      float share_y = share_of(tall, p.y);
      if (share_y == 0) continue;
      for (int ox = left; ox < columns.out; ox++) {
        Mix wide = mix(mode, columns, step_x, ox);
        if (wide.low > p.x) break;
        float share = share_y * share_of(wide, p.x);
        if (share == 0) continue;
        Pack<float, V> g = load<V>(gy + place(p, oy, ox, rows.out, columns.out, channels));
#pragma unroll
        for (int j = 0; j < V; j++) sum.at[j] += share * g.at[j];
      }
    }
    store<V>(gx + place(p, p.y, p.x, rows.size, columns.size, channels), sum);
  });
}

extern "C" __global__ void __launch_bounds__(256)
    upsample_forward(const float *x, float *y, int images, int channels, int height, int width, int out_height,
                     int out_width, float step_y, float step_x, int mode, int four) {
  Axis rows{height, out_height}, columns{width, out_width};
  if (four) resize_forward<4>(x, y, images, channels, rows, columns, step_y, step_x, mode);
  else resize_forward<1>(x, y, images, channels, rows, columns, step_y, step_x, mode);
}

extern "C" __global__ void __launch_bounds__(256)
    upsample_backward(const float *gy, float *gx, int images, int channels, int height, int width, int out_height,
                      int out_width, float step_y, float step_x, int mode, int four) {
  Axis rows{height, out_height}, columns{width, out_width};
  if (four) resize_backward<4>(gy, gx, images, channels, rows, columns, step_y, step_x, mode);
  else resize_backward<1>(gy, gx, images, channels, rows, columns, step_y, step_x, mode);
}
