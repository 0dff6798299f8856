// What CUDA C stands for when g++ compiles a kernel: qualifiers, vector types, functions, and where a thread is.
//
// A kernel's own text is not changed. Its threads are fibres of one thread of the operating system (runtime.cpp), so
// ordinary loads and stores are atomic, and `threadIdx` is a member of the fibre that runs now.
#pragma once

// C's own headers: those of C++ take g++ ten times as long, of which most of a short kernel's compilation would be.
#define _GLIBCXX_INCLUDE_NEXT_C_HEADERS 1
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __restrict__ __restrict
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

// One block runs at a time, so its shared memory can be static. All of it lies in one section, which the runtime fills
// with NaN before each block.
#define __shared__ static __attribute__((section("shared")))

struct __align__(8) float2 { float x, y; };
struct __align__(16) float4 { float x, y, z, w; };
struct __align__(8) int2 { int x, y; };
struct __align__(16) int4 { int x, y, z, w; };
struct __align__(8) uint2 { unsigned x, y; };
struct __align__(16) uint4 { unsigned x, y, z, w; };

inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

#define threadIdx (emulator::now->index)
#define blockIdx (emulator::block_index)
#define blockDim (emulator::block_size)
#define gridDim (emulator::grid_size)
#define warpSize 32

// Functions ---------------------------------------------------------------------------------------------------------

template <class T> inline T max(T x, T y) { return x < y ? y : x; }
template <class T> inline T min(T x, T y) { return y < x ? y : x; }

inline float __uint_as_float(unsigned bits) { float x; memcpy(&x, &bits, 4); return x; }
inline unsigned __float_as_uint(float x) { unsigned bits; memcpy(&bits, &x, 4); return bits; }
inline int __float_as_int(float x) { int bits; memcpy(&bits, &x, 4); return bits; }
inline float __int_as_float(int bits) { float x; memcpy(&x, &bits, 4); return x; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float __fmul_rn(float x, float y) { return x * y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline unsigned __umulhi(unsigned x, unsigned y) { return (uint64_t)x * y >> 32; }
inline uint64_t __umul64hi(uint64_t x, uint64_t y) { return (unsigned __int128)x * y >> 64; }
inline void sincospif(float x, float *sine, float *cosine) { *sine = sin(M_PI * x), *cosine = cos(M_PI * x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
#define __expf expf
#define __logf logf
template <class T> inline T __ldg(const T *p) { return *p; }

// Between threads ---------------------------------------------------------------------------------------------------

#define __syncthreads() emulator::barrier(__LINE__)
#define __syncwarp(...) emulator::sync_warp(emulator::full_or(__VA_ARGS__), __LINE__)
#define __threadfence()
#define __shfl_sync(mask, value, lane) emulator::shuffle(mask, value, (lane) & 31, __LINE__)
#define __shfl_xor_sync(mask, value, lanes) emulator::shuffle(mask, value, emulator::now->lane ^ (lanes), __LINE__)
#define __shfl_down_sync(mask, value, by) emulator::shuffle(mask, value, emulator::now->lane + (by), __LINE__)
#define __shfl_up_sync(mask, value, by) emulator::shuffle(mask, value, emulator::now->lane - (by), __LINE__)
#define __ballot_sync(mask, yes) emulator::ballot(mask, yes, __LINE__)
#define __any_sync(mask, yes) (emulator::ballot(mask, yes, __LINE__) != 0)
#define __all_sync(mask, yes) (emulator::ballot(mask, !(yes), __LINE__) == 0)

// Not seen by the hooks of watch.cpp: an atomic operation is no race.
#define EMULATOR_UNWATCHED __attribute__((noinline, no_sanitize("thread")))

template <class T> EMULATOR_UNWATCHED T atomicAdd(T *p, T value) { T old = *p; *p = old + value; return old; }
template <class T> EMULATOR_UNWATCHED T atomicMax(T *p, T value) { T old = *p; *p = max(old, value); return old; }

namespace emulator {

inline unsigned full_or(unsigned mask = 0xffffffffu) { return mask; }

struct Exchange {  // one lane's part of a shuffle
  uint64_t given, taken;
  int from;
};

// As on the hardware, a lane that is asked for but is not there gives the asking lane its own value back.
template <class T> T shuffle(unsigned mask, T value, int from, int line) {
  static_assert(sizeof(T) <= 8, "a shuffle moves 4 or 8 bytes");
  Exchange part{0, 0, from >= 0 && from < 32 ? from : now->lane};
  memcpy(&part.given, &value, sizeof value);
  meet(mask, &part, exchange, line);
  memcpy(&value, &part.taken, sizeof value);
  return value;
}

struct Vote {
  bool yes;
  unsigned all;
};

inline unsigned ballot(unsigned mask, bool yes, int line) {
  Vote part{yes, 0};
  meet(mask, &part, count_votes, line);
  return part.all;
}

}  // namespace emulator
