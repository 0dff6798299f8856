// What several kernels use: sums over a warp and a block, asynchronous copies, and tensor cores.
//
// Each has one name on both machines: inline PTX on a GPU, a call of the emulator where CUDA_ON_CPU is defined.
#pragma once

#ifdef CUDA_ON_CPU
#define DYNAMIC_SHARED(type, name) type *name = (type *)emulator::dynamic_shared
#else
#define DYNAMIC_SHARED(type, name)                     \
  extern __shared__ __align__(16) char shared_bytes[]; \
  type *name = (type *)shared_bytes
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
#endif

// Sums ------------------------------------------------------------------------------------------------------------

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int lanes = 16; lanes; lanes /= 2) x += __shfl_xor_sync(0xffffffffu, x, lanes);
  return x;
}

// Every thread gets the sum. `partial` is shared memory for one float of each warp; it may be used again afterwards.
__device__ __forceinline__ float block_sum(float x, float *partial) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = (blockDim.x + 31) / 32;
  x = warp_sum(x);
  if (lane == 0) partial[warp] = x;
  __syncthreads();
  x = warp_sum(lane < warps ? partial[lane] : 0.0f);
  __syncthreads();
  return x;
}

// Asynchronous copies from global to shared memory (sm_80 and later) --------------------------------------------------

// 16 bytes, aligned to 16; zeros if `there` is false, and then nothing is read.
__device__ __forceinline__ void copy_async(void *to, const void *from, bool there) {
#ifdef CUDA_ON_CPU
  emulator::copy_later(to, from, 16, !there);
#else
  unsigned shared = (unsigned)__cvta_generic_to_shared(to);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(from), "r"(there ? 16 : 0));
#endif
}

__device__ __forceinline__ void commit_copies() {
#ifdef CUDA_ON_CPU
  emulator::commit_copies();
#else
  asm volatile("cp.async.commit_group;");
#endif
}

// Wait until all groups but the last `left` have landed. For other threads' copies, a barrier must follow.
template <int left> __device__ __forceinline__ void await_copies() {
#ifdef CUDA_ON_CPU
  emulator::await_copies(left);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(left));
#endif
}

// Tensor cores (sm_80 and later): c += a·b of a warp, 16 × 8 values of c ------------------------------------------------

// Rounded to the 10 bits of mantissa that TF32 has; without, the hardware cuts the rest off.
__device__ __forceinline__ float to_tf32(float x) {
#ifdef CUDA_ON_CPU
  if (x != x) return __uint_as_float(0x7fffffffu);  // as the GPU's; rounded below, a NaN could become a number
  return __uint_as_float((__float_as_uint(x) + 0x1000u) & 0xffffe000u);
#else
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return __uint_as_float(bits);
#endif
}

// Two values as bf16 in one word, rounded to even.
__device__ __forceinline__ uint32_t to_bf16(float low, float high) {
#ifdef CUDA_ON_CPU
  auto rounded = [](float x) {
    unsigned bits = __float_as_uint(x);
    return x != x ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
  };
  return rounded(low) | rounded(high) << 16;
#else
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#endif
}

// m16n8k8: with g = lane / 4, t = lane % 4, a lane holds
//   a = A[g][t], A[g+8][t], A[g][t+4], A[g+8][t+4]   b = B[t][g], B[t+4][g]
//   c = C[g][2t], C[g][2t+1], C[g+8][2t], C[g+8][2t+1]
__device__ __forceinline__ void mma_tf32(float (&c)[4], const float (&a)[4], const float (&b)[2]) {
#ifdef CUDA_ON_CPU
  emulator::MmaTf32 part{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}, {c[0], c[1], c[2], c[3]}};
  emulator::meet(0xffffffffu, &part, emulator::mma_tf32, __LINE__);
  for (int i = 0; i < 4; i++) c[i] = part.c[i];
#else
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
        "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
#endif
}

// m16n8k16, two values in a word: a = A[g][2t..], A[g+8][2t..], A[g][2t+8..], A[g+8][2t+8..]
//   b = B[2t..][g], B[2t+8..][g]   c as above
__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef CUDA_ON_CPU
  emulator::MmaBf16 part{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}, {c[0], c[1], c[2], c[3]}};
  emulator::meet(0xffffffffu, &part, emulator::mma_bf16, __LINE__);
  for (int i = 0; i < 4; i++) c[i] = part.c[i];
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
