// Products of a warpgroup, on the tensor cores of Hopper: for sm_90a alone, as newer GPUs do not have them either.
//
// A warpgroup is four warps, the first of which has a number that is a multiple of four. All of its threads begin a
// product together and go on: the tensor cores read both matrices from shared memory by themselves, and add to sums
// in the threads' registers, which nobody may touch until the product was waited for.
//
// Matrices of TF32 lie as [rows or columns][32 values of the depth], 128 bytes a row. Every eight rows begin at a
// multiple of 1024 bytes, and of the eight pieces of 16 bytes that row r has, piece c lies where piece c ^ (r % 8)
// would: eight rows' pieces c then lie in different banks.
#pragma once
#include "common.cuh"

// What a thread has written to shared memory, by copies that have landed too, the tensor cores see after this, and a
// barrier if it is another thread that begins the product.
__device__ __forceinline__ void show_to_tensor_cores() {
#ifdef CUDA_ON_CPU
  emulator::show_to_tensor_cores();
#else
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// Where a matrix lies, for the tensor cores: its address in sixteens, the distance from eight rows to the next, 1024,
// in sixteens too, and the order of the pieces. 32 bytes further along the depth is 2 more.
__device__ __forceinline__ uint64_t matrix_of(const void *rows) {
#ifdef CUDA_ON_CPU
  uint64_t address = emulator::shared_address(rows);
#else
  uint64_t address = __cvta_generic_to_shared(rows);
#endif
  return (address & 0x3ffff) >> 4 | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

// The next multiple of 1024 bytes. The compiler still knows that it is shared memory.
__device__ __forceinline__ float *aligned(float *p) { return p + (-(uint64_t)p & 1023) / 4; }

// Before the first product, as what is in the sums was written by the threads.
__device__ __forceinline__ void begin_products() {
#ifdef CUDA_ON_CPU
  emulator::meet(0xffffffffu, nullptr, emulator::begin_products, __LINE__);
#else
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

__device__ __forceinline__ void commit_products() {
#ifdef CUDA_ON_CPU
  emulator::meet(0xffffffffu, nullptr, emulator::commit_products, __LINE__);
#else
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

// Wait until all groups of this warpgroup's products but the last `left` are made.
template <int left> __device__ __forceinline__ void await_products() {
#ifdef CUDA_ON_CPU
  int groups = left;
  emulator::meet(0xffffffffu, &groups, emulator::await_products, __LINE__);
#else
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(left) : "memory");
#endif
}

#define EIGHT_SUMS(i)                                                                                             \
  "+f"(sum[i]), "+f"(sum[i + 1]), "+f"(sum[i + 2]), "+f"(sum[i + 3]), "+f"(sum[i + 4]), "+f"(sum[i + 5]),         \
      "+f"(sum[i + 6]), "+f"(sum[i + 7])

// m64nNk8: sum += a·b of 64 rows, N columns and 8 values of the depth, of which the hardware cuts off the bits that
// TF32 does not have. In warp w of the warpgroup, a lane holds of its row 16w + lane / 4 the columns
// 8j + 2·(lane % 4) and the next as sum[4j] and sum[4j + 1], and those of the row 8 below as sum[4j + 2], sum[4j + 3].
__device__ __forceinline__ void multiply_async(float (&sum)[32], uint64_t a, uint64_t b) {
#ifdef CUDA_ON_CPU
  emulator::Wgmma part{sum, 64, a, b, nullptr};
  emulator::meet(0xffffffffu, &part, emulator::wgmma_tf32, __LINE__);
#else
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k8.f32.tf32.tf32 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, %32, %33, 1, 1, 1;"
      : EIGHT_SUMS(0), EIGHT_SUMS(8), EIGHT_SUMS(16), EIGHT_SUMS(24)
      : "l"(a), "l"(b));
#endif
}

__device__ __forceinline__ void multiply_async(float (&sum)[64], uint64_t a, uint64_t b) {
#ifdef CUDA_ON_CPU
  emulator::Wgmma part{sum, 128, a, b, nullptr};
  emulator::meet(0xffffffffu, &part, emulator::wgmma_tf32, __LINE__);
#else
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k8.f32.tf32.tf32 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,"
      "%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, %64, %65, 1, 1, 1;"
      : EIGHT_SUMS(0), EIGHT_SUMS(8), EIGHT_SUMS(16), EIGHT_SUMS(24), EIGHT_SUMS(32), EIGHT_SUMS(40), EIGHT_SUMS(48),
        EIGHT_SUMS(56)
      : "l"(a), "l"(b));
#endif
}

// The same with the first matrix in registers, of which a lane holds what it does for mma_tf32 (common.cuh): of rows
// 16w + lane / 4 and 8 below. They must stay as they are until the product was waited for.
__device__ __forceinline__ void multiply_async(float (&sum)[64], const float (&a)[4], uint64_t b) {
#ifdef CUDA_ON_CPU
  emulator::Wgmma part{sum, 128, 0, b, a};
  emulator::meet(0xffffffffu, &part, emulator::wgmma_tf32, __LINE__);
#else
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k8.f32.tf32.tf32 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,"
      "%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, {%64,%65,%66,%67}, %68, "
      "1, 1, 1;"
      : EIGHT_SUMS(0), EIGHT_SUMS(8), EIGHT_SUMS(16), EIGHT_SUMS(24), EIGHT_SUMS(32), EIGHT_SUMS(40), EIGHT_SUMS(48),
        EIGHT_SUMS(56)
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
        "l"(b));
#endif
}

// After the last wait: keeps the compiler from reading sums before it.
template <int N> __device__ __forceinline__ void settle(float (&sum)[N]) {
#ifndef CUDA_ON_CPU
#pragma unroll
  for (int i = 0; i < N; i++) asm volatile("" : "+f"(sum[i])::"memory");
#endif
}
