// What generated elementwise kernels (elementwise.py) use beside CUDA's own functions.
#pragma once

// As NumPy has them: NaN wins, whichever side it is on. fmaxf and fminf would drop it.
template <class T> __device__ __forceinline__ T maximum(T x, T y) { return x > y || x != x ? x : y; }
template <class T> __device__ __forceinline__ T minimum(T x, T y) { return x < y || x != x ? x : y; }

template <class T> __device__ __forceinline__ T inverted(T x) { return ~x; }
__device__ __forceinline__ bool inverted(bool x) { return !x; }  // ~true is -2, which is true

// xⁿ of integers in as many products as n has bits: x^13 = x⁸·x⁴·x. A negative n gives what 1 / xⁿ truncates to.
template <class T> __device__ __forceinline__ T integer_power(T x, T n) {
  if (n < 0) return x == 1 ? 1 : x == -1 ? (n % 2 ? -1 : 1) : 0;
  T power = 1;
  for (; n; n /= 2, x *= x)
    if (n % 2) power *= x;
  return power;
}
