// Rows by their numbers, y[i] = x[rows[i]], and the adjoint, x[r] = Σ over rows[i] = r of y[i]: an embedding, and its
// weight's gradient. A number below 0 counts from the end. x is [count, width], y [n, width], rows [n].
//
// Both move memory, and compute next to nothing: 4 bytes for each value of y, and as many of x. A number that is no
// row's gives NaN, as the host, which would say so, does not look when a step is captured.
#include "common.cuh"

__device__ __forceinline__ long long row_of(long long number, int count) { return number < 0 ? number + count : number; }

// A thread for each value of y. Grid (n · width / 256), block (256).
extern "C" __global__ void __launch_bounds__(256)
    index_take_rows(const float *__restrict__ x, const long long *__restrict__ rows, float *__restrict__ y, int n,
                    int width, int count) {
  unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= (unsigned)n * width) return;
  long long row = row_of(rows[i / width], count);
  y[i] = 0 <= row && row < count ? x[row * width + i % width] : __uint_as_float(0x7fffffffu);
}

// A block for each i and 256 columns. The first i that names a row adds up all others, in the order of y, so that sums
// repeat bit for bit, as with atomics they would not. Rows that nobody names are zero before.
// n² numbers are read, which caches serve: for long batches atomics are faster, see `index.py`.
// Grid (n, width / 256), block (256).
extern "C" __global__ void __launch_bounds__(256)
    index_add_rows(const float *__restrict__ y, const long long *__restrict__ rows, float *__restrict__ x, int n,
                   int width, int count) {
  int column = blockIdx.y * blockDim.x + threadIdx.x;
  long long row = row_of(rows[blockIdx.x], count);
  if (column >= width || row < 0 || row >= count) return;
  for (int i = 0; i < blockIdx.x; i++)
    if (row_of(rows[i], count) == row) return;
  float sum = 0;
  for (int i = blockIdx.x; i < n; i++)
    if (row_of(rows[i], count) == row) sum += y[(long long)i * width + column];
  x[row * width + column] = sum;
}
