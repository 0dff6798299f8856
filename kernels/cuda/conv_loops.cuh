// How a convolution's two matrices are multiplied in fp32, for each of its kernels: a Task (conv_shape.cuh) says where
// values are, and the loops here say which thread loads which and what it makes of them. Blocks have 256 threads.
//
// Task::ALONG tells what four values lie side by side in memory: true, four of the first matrix's row, along the
// depth (forward and input gradient); false, four of its column (weight gradient). Of the second, it is always four
// of a row.
#pragma once
#include "conv_shape.cuh"

__device__ __forceinline__ float value_at(const float *p) { return p ? *p : 0.0f; }
__device__ __forceinline__ float4 four_at(const float *p) { return p ? *(const float4 *)p : make_float4(0, 0, 0, 0); }

// FOURS: all four are there or none, and they are aligned, as the numbers of channels are multiples of four.
template <bool FOURS, class Operand> __device__ __forceinline__ float4 four_values(const Operand &from, int left) {
  if (FOURS) return four_at(from.address(left, 0));
  return make_float4(value_at(from.address(left, 0)), value_at(from.address(left, 1)), value_at(from.address(left, 2)),
                     value_at(from.address(left, 3)));
}

// Where a sum of the block belongs; null outside of the result. From v2 on, the places of rows are kept in shared
// memory: each is computed once, and what it is computed from takes no registers while matrices are multiplied.
template <class Task> __device__ __forceinline__ float *destination(const Task &task, int place, int column) {
  return place >= 0 && task.part.column + column < task.columns ? task.result + place + column : nullptr;
}

// v1: a block makes 16 × 16 sums, a thread one of them, from tiles of 16 × 16 in shared memory. A value that is
// loaded is used 16 times.
template <class Task> __device__ __forceinline__ void multiply_tiled(float (*a)[16], float (*b)[16], Task task) {
  task.take(16, 16, 16);
  if (task.part.row >= task.rows) return;  // the whole block
  int y = threadIdx.x / 16, x = threadIdx.x % 16;
  auto left = Task::ALONG ? task.left(y, x, 16) : task.left(x, y, 16);
  auto right = task.right(y, x, 16);
  float sum = 0;
  for (int rest = task.part.end - task.part.begin; rest > 0; rest -= 16) {
    a[y][x] = value_at(left.address(rest, 0));  // neighbours in memory by neighbouring threads
    b[y][x] = value_at(right.address(rest, 0));
    left.next(), right.next();
    __syncthreads();  // the tiles are there
#pragma unroll
    for (int k = 0; k < 16; k++) sum += (Task::ALONG ? a[y][k] : a[k][y]) * b[k][x];
    __syncthreads();  // nobody needs them any more
  }
  if (float *to = destination(task, task.place(y), x)) *to = sum;
}

// sum += a·b for the rows and columns 4·(0 ... 15) + 64·i of a tile, four at each: of those, a thread has one.
template <int BM, int BN, int BK, int PITCH>
__device__ __forceinline__ void multiply_tiles(const float (*a)[PITCH], const float (*b)[BN],
                                               float (&sum)[BM / 16][BN / 16]) {
  int y = threadIdx.x / 16 * 4, x = threadIdx.x % 16 * 4;
#pragma unroll
  for (int k = 0; k < BK; k++) {
    float u[BM / 16], v[BN / 16];
#pragma unroll
    for (int i = 0; i < BM / 16; i += 4) {
      float4 q = *(const float4 *)&a[k][i * 16 + y];
      u[i] = q.x, u[i + 1] = q.y, u[i + 2] = q.z, u[i + 3] = q.w;
    }
#pragma unroll
    for (int j = 0; j < BN / 16; j += 4) {
      float4 q = *(const float4 *)&b[k][j * 16 + x];
      v[j] = q.x, v[j + 1] = q.y, v[j + 2] = q.z, v[j + 3] = q.w;
    }
#pragma unroll
    for (int i = 0; i < BM / 16; i++)
#pragma unroll
      for (int j = 0; j < BN / 16; j++) sum[i][j] += u[i] * v[j];
  }
}

// v2: a thread makes 4 × 4 sums (BM = 64) or 8 × 8 (BM = 128) in registers. What it reads from shared memory it uses
// 4 or 8 times, and what it loads from global memory is used 64 or 128 times. Of the tiles to come, it loads four
// values of each while those in shared memory are multiplied. There are two buffers, so that one barrier a step is
// enough.
template <int BM, int BN, int BK, bool FOURS, class Task>
__device__ __forceinline__ void multiply_blocked(float (*a)[BK][BM + 4], float (*b)[BK][BN], int *places, Task task) {
  static_assert(BM * BK == 1024 && BN * BK == 1024, "a thread loads four values of each tile");
  task.take(BM, BN, BK);
  if (task.part.row >= task.rows) return;  // the whole block
  int t = threadIdx.x, b_k = t / (BN / 4), b_column = t % (BN / 4) * 4;
  int a_row = Task::ALONG ? t / (BK / 4) : t % (BM / 4) * 4, a_k = Task::ALONG ? t % (BK / 4) * 4 : t / (BM / 4);
  auto left = task.left(a_row, a_k, BK);
  auto right = task.right(b_k, b_column, BK);
  int depth = task.part.end - task.part.begin;
  float4 next_a = four_values<FOURS>(left, depth), next_b = four_values<FOURS>(right, depth);
  if (t < BM) places[t] = task.place(t);
  __syncthreads();  // the places are there
  float sum[BM / 16][BN / 16] = {};
  int now = 0;
  for (int rest = depth; rest > 0; rest -= BK, now ^= 1) {
    if (Task::ALONG) {  // so that a thread finds four rows side by side, they are turned
      a[now][a_k][a_row] = next_a.x, a[now][a_k + 1][a_row] = next_a.y;
      a[now][a_k + 2][a_row] = next_a.z, a[now][a_k + 3][a_row] = next_a.w;
    } else {
      *(float4 *)&a[now][a_k][a_row] = next_a;
    }
    *(float4 *)&b[now][b_k][b_column] = next_b;
    __syncthreads();  // the tiles are there, and nobody is before them any more: the other two may be replaced
    left.next(), right.next();
    next_a = four_values<FOURS>(left, rest - BK);  // zeros, unread, after the last
    next_b = four_values<FOURS>(right, rest - BK);
    multiply_tiles<BM, BN, BK>(a[now], b[now], sum);
  }
  int y = t / 16 * 4, x = t % 16 * 4;
#pragma unroll
  for (int i = 0; i < BM / 16; i++) {
    int place = places[i / 4 * 64 + y + i % 4];
#pragma unroll
    for (int j = 0; j < BN / 16; j += 4) {
      if (FOURS) {
        float *to = destination(task, place, j * 16 + x);
        if (to) *(float4 *)to = make_float4(sum[i][j], sum[i][j + 1], sum[i][j + 2], sum[i][j + 3]);
      } else {
#pragma unroll
        for (int l = 0; l < 4; l++)
          if (float *to = destination(task, place, j * 16 + x + l)) *to = sum[i][j + l];
      }
    }
  }
}

// v2 for four columns or fewer, as of an image's colours, which would leave most of a tile's 64 columns empty. A block
// makes 128 rows. Eight threads share four rows: each takes four of 32 values along the depth, so that they load 128
// bytes side by side, and in the end they add up what they have. The weights of 256 values of the depth are in shared
// memory, a float4 for each, with a gap after every four: the eight threads read them from different banks.
constexpr int THIN_DEPTH = 256;

template <class Task> __device__ __forceinline__ void multiply_thin(float4 *weights, Task task) {
  task.take(128, 4, THIN_DEPTH);
  if (task.part.row >= task.rows) return;  // the whole block
  int t = threadIdx.x, lane = t % 8, row = t / 8;
  auto right = task.right(t, 0, THIN_DEPTH);
  decltype(task.left(0, 0, 0)) left[4];
#pragma unroll
  for (int i = 0; i < 4; i++) left[i] = task.left(row + 32 * i, lane * 4, 32);
  float sum[4][4] = {};
  for (int rest = task.part.end - task.part.begin; rest > 0; rest -= THIN_DEPTH) {
    weights[t + t / 4] = four_values<false>(right, rest);
    right.next();
    __syncthreads();  // the weights are there
    for (int k = 0; k < min(THIN_DEPTH, rest); k += 32) {
      float4 w[4];
#pragma unroll
      for (int j = 0; j < 4; j++) w[j] = weights[(k + lane * 4) / 4 * 5 + j];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        float4 x = four_values<true>(left[i], rest - k);
        left[i].next();
        sum[i][0] += x.x * w[0].x + x.y * w[1].x + x.z * w[2].x + x.w * w[3].x;
        sum[i][1] += x.x * w[0].y + x.y * w[1].y + x.z * w[2].y + x.w * w[3].y;
        sum[i][2] += x.x * w[0].z + x.y * w[1].z + x.z * w[2].z + x.w * w[3].z;
        sum[i][3] += x.x * w[0].w + x.y * w[1].w + x.z * w[2].w + x.w * w[3].w;
      }
    }
    __syncthreads();  // nobody needs them any more
  }
#pragma unroll
  for (int i = 0; i < 4; i++) {
    int place = task.place(row + 32 * i);
#pragma unroll
    for (int j = 0; j < 4; j++) {
#pragma unroll
      for (int lanes = 4; lanes; lanes /= 2) sum[i][j] += __shfl_xor_sync(0xffffffffu, sum[i][j], lanes);
      float *to = destination(task, place, j);
      if (lane == j && to) *to = sum[i][j];
    }
  }
}

// A tile of 32 × 32 in shared memory turns a matrix: what is read along rows, 128 bytes side by side, is written
// along columns in the same way. `destination` tells in which row a column comes to lie. Each value is read and
// written once.
template <class Destination>
__device__ __forceinline__ void turn(float (*tile)[33], const float *from, float *to, int rows, int columns, int block,
                                     Destination destination) {
  int across = (columns + 31) / 32, row0 = block / across * 32, column0 = block % across * 32;
  int x = threadIdx.x % 32, y = threadIdx.x / 32;
  for (int i = y; i < 32; i += 8)
    if (row0 + i < rows && column0 + x < columns) tile[i][x] = from[(row0 + i) * columns + column0 + x];
  __syncthreads();  // the tile is there
  for (int i = y; i < 32; i += 8)
    if (row0 + x < rows && column0 + i < columns) to[destination(column0 + i) * rows + row0 + x] = tile[x][i];
}
