// Arrays [groups, rows, channels], and how a block is laid over one.
//
// Neighbouring threads take neighbouring channels, which are neighbours in memory: a warp reads whole lines of it. With
// fewer channels than a warp has threads, threadIdx.y counts on without a gap: thread (x, y) of a block of `channels`
// columns reads value y·channels + x. A block takes a part of the rows, so that many rows keep all multiprocessors
// busy. Grid (groups·columns, parts), where a column is blockDim.x·V channels; block (up to 32 threads, as many rows as
// fit). A thread has V neighbouring channels: 1, or 4 where their number and the address allow it.
#pragma once

template <int V> struct Vector {
  float of[V];
};

template <int V> __device__ __forceinline__ Vector<V> load(const float *p) {
  if constexpr (V == 4) {
    float4 four = *(const float4 *)p;
    return {four.x, four.y, four.z, four.w};
  } else {
    return {*p};
  }
}

template <int V> __device__ __forceinline__ void store(float *p, Vector<V> v) {
  if constexpr (V == 4) {
    *(float4 *)p = make_float4(v.of[0], v.of[1], v.of[2], v.of[3]);
  } else {
    *p = v.of[0];
  }
}

struct Part {
  int group, channel;    // the first of its channels
  int first, step, end;  // the thread's rows; none if its channel is beyond the last one
};

template <int V = 1> __device__ __forceinline__ Part part_of(int rows, int channels) {
  int width = blockDim.x * V, columns = (channels + width - 1) / width, column = blockIdx.x % columns;
  int each = (rows + gridDim.y - 1) / gridDim.y, part = blockIdx.y;
  Part mine;
  mine.group = blockIdx.x / columns;
  mine.channel = column * width + threadIdx.x * V;
  mine.first = part * each + threadIdx.y;
  mine.step = blockDim.y;
  mine.end = mine.channel < channels ? min(rows, part * each + each) : 0;
  return mine;
}

// What the first `height` threads of a column (threadIdx.y) have found becomes one: `merge` of halves, of halves of
// those, and so on, which is the same pairs each time. The threads with threadIdx.y = 0 get it. `shared` has a place
// for each thread.
template <class T, class Merge>
__device__ __forceinline__ T merge_rows(T mine, T *shared, Merge merge, int height) {
  int at = threadIdx.y * blockDim.x + threadIdx.x, y = threadIdx.y;
  shared[at] = mine;
  while (height > 1) {
    int half = (height + 1) / 2;
    __syncthreads();
    if (y + half < height) shared[at] = mine = merge(mine, shared[at + half * blockDim.x]);
    height = half;
  }
  return mine;
}

template <class T, class Merge> __device__ __forceinline__ T merge_rows(T mine, T *shared, Merge merge) {
  return merge_rows(mine, shared, merge, blockDim.y);
}

// The same of what was found in `parts` of the rows, for all threads of a column: `read(i)` is of part i, and `none` is
// of no rows.
template <class T, class Read, class Merge>
__device__ __forceinline__ T merge_parts(T none, int parts, T *shared, Read read, Merge merge) {
  T all = none;
#pragma unroll 4
  for (int i = threadIdx.y; i < parts; i += blockDim.y) all = merge(all, read(i));
  merge_rows(all, shared, merge, min(parts, (int)blockDim.y));
  __syncthreads();
  return shared[threadIdx.x];
}
