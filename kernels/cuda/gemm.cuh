// What the rungs of gemm from v2 on share: C = leaky(op(A)·op(B) + bias), op(X) being X or Xᵀ, for stacks of matrices.
//
// A block makes a square tile of one C. Where there are fewer tiles than multiprocessors, K is split: a block makes the
// sums over `chunk` values of k only, and gemm_split_sum adds up what the splits have made.
// Grid (tiles, splits, matrices).
#pragma once
#include "common.cuh"

struct Gemm {
  const float *A, *B, *bias;  // bias may be null
  float *C;                   // [matrices, splits, M, N]
  int M, N, K;
  bool transposed_a, transposed_b;
  int stride_a, stride_b;  // from a matrix to the next of the stack; 0 where one serves all
  int chunk;               // a multiple of a tile's depth
  float slope;             // of the leaky ReLU; 1 is none
};

// Where the block's tile begins in C, which values of k are its own, and the C that it writes.
struct Part {
  int row, column, begin, end;
  float *C;
};

template <int SIDE> __device__ __forceinline__ Part part_of_block(const Gemm &g) {
  int tiles = (g.N + SIDE - 1) / SIDE, tile = blockIdx.x, split = blockIdx.y, begin = split * g.chunk;
  int number = blockIdx.z * gridDim.y + split;
  return {tile / tiles * SIDE, tile % tiles * SIDE, begin, min(begin + g.chunk, g.K), g.C + number * g.M * g.N};
}

// A or B as it lies in memory. Its tiles begin at `first` of the axis that is not k.
struct Operand {
  const float *data;
  int rows, columns, first;
  bool by_fours;  // columns 0 to 3, 4 to 7, ... of every row are 16 bytes at a multiple of 16
};

__device__ __forceinline__ Operand operand(const float *data, int rows, int columns, int first) {
  return {data, rows, columns, first, columns % 4 == 0 && (uint64_t)data % 16 == 0};
}

__device__ __forceinline__ Operand operand_a(const Gemm &g, int row) {
  const float *data = g.A + (int)blockIdx.z * g.stride_a;
  return g.transposed_a ? operand(data, g.K, g.M, row) : operand(data, g.M, g.K, row);
}

__device__ __forceinline__ Operand operand_b(const Gemm &g, int column) {
  const float *data = g.B + (int)blockIdx.z * g.stride_b;
  return g.transposed_b ? operand(data, g.N, g.K, column) : operand(data, g.K, g.N, column);
}

// Four neighbours of a row, from a column that is a multiple of four; zeros beyond the edges.
__device__ __forceinline__ float4 load4(const Operand &x, int row, int column) {
  if (row >= x.rows || column >= x.columns) return make_float4(0, 0, 0, 0);
  const float *from = x.data + row * x.columns + column;
  if (x.by_fours) return __ldg((const float4 *)from);
  int left = x.columns - column;
  return make_float4(__ldg(from), left > 1 ? __ldg(from + 1) : 0, left > 2 ? __ldg(from + 2) : 0,
                     left > 3 ? __ldg(from + 3) : 0);
}

__device__ __forceinline__ float leaky(float x, float slope) { return x > 0 ? x : slope * x; }
