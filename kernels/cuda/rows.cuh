// Arrays [groups, rows, channels], and how a block is laid over one.
//
// Neighbouring threads take neighbouring channels, which are neighbours in memory: a warp reads whole lines of it. With
// fewer channels than a warp has threads, threadIdx.y counts on without a gap: thread (x, y) of a block of `channels`
// columns reads value y·channels + x. A block takes a part of the rows, so that many rows keep all multiprocessors
// busy. Grid (groups·columns, parts), where a column is blockDim.x channels; block (up to 32 channels, as many rows as
// fit).
#pragma once

struct Part {
  int group, channel;
  int first, step, end;  // the thread's rows; none if its channel is beyond the last one
};

__device__ __forceinline__ Part part_of(int rows, int channels) {
  int width = blockDim.x, columns = (channels + width - 1) / width, column = blockIdx.x % columns;
  int each = (rows + gridDim.y - 1) / gridDim.y, part = blockIdx.y;
  Part mine;
  mine.group = blockIdx.x / columns;
  mine.channel = column * width + threadIdx.x;
  mine.first = part * each + threadIdx.y;
  mine.step = blockDim.y;
  mine.end = mine.channel < channels ? min(rows, part * each + each) : 0;
  return mine;
}

// What the threads of a column (threadIdx.y) have found becomes one: `merge` of halves, of halves of those, and so on,
// which is the same pairs each time. The threads with threadIdx.y = 0 get it. `shared` has a place for each thread.
template <class T, class Merge> __device__ __forceinline__ T merge_rows(T mine, T *shared, Merge merge) {
  int at = threadIdx.y * blockDim.x + threadIdx.x, y = threadIdx.y;
  shared[at] = mine;
  for (int height = blockDim.y; height > 1;) {
    int half = (height + 1) / 2;
    __syncthreads();
    if (y + half < height) shared[at] = merge(shared[at], shared[at + half * blockDim.x]);
    height = half;
  }
  return shared[at];
}
