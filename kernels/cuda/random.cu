// Uniforms, normals and dropout from Philox 4x64-10 (Salmon et al. 2011), which minigan's streams have on a CPU.
//
// Philox is a function: four 64-bit words of a counter and two of a key go to four words that look random. So any
// thread can make any part of a stream, and the whole state is a place in it: `position` counts the 32-bit words drawn
// so far. It lies in device memory, and random_advance moves it on: a captured graph draws new numbers at each replay.
//
//   block b of a stream = philox(counter = b + 1, key): NumPy counts up before it makes a block
//   word w of it        = the low half, then the high half of each of the 4 words, w = 0 … 7
//   uniform             = (word >> 8) · 2⁻²⁴, in [0, 1)
#include "common.cuh"

constexpr unsigned WORDS = 8;  // 32-bit ones of a block

// A round multiplies two words by constants, to 128 bits each, and swaps and mixes the halves; the key moves on.
// A product of 64 by 64 bits is 4 wide multiply-adds and more: 10 rounds take about 110 on sm_90, for 8 numbers.
__device__ __forceinline__ void philox(uint64_t counter, uint64_t key0, uint64_t key1, uint32_t (&words)[WORDS]) {
  uint64_t a = counter, b = 0, c = 0, d = 0;
#pragma unroll
  for (int round = 0; round < 10; round++) {
    uint64_t low_a = 0xD2E7470EE14C6C93ull * a, high_a = __umul64hi(0xD2E7470EE14C6C93ull, a);
    uint64_t low_c = 0xCA5A826395121157ull * c, high_c = __umul64hi(0xCA5A826395121157ull, c);
    a = high_c ^ b ^ key0, b = low_c, c = high_a ^ d ^ key1, d = low_a;
    key0 += 0x9E3779B97F4A7C15ull, key1 += 0xBB67AE8584CAA73Bull;  // the golden ratio, √3 - 1
  }
  words[0] = (uint32_t)a, words[1] = (uint32_t)(a >> 32), words[2] = (uint32_t)b, words[3] = (uint32_t)(b >> 32);
  words[4] = (uint32_t)c, words[5] = (uint32_t)(c >> 32), words[6] = (uint32_t)d, words[7] = (uint32_t)(d >> 32);
}

__device__ __forceinline__ float uniform_of(uint32_t word) { return (float)(word >> 8) * 0x1p-24f; }

// Uniforms ------------------------------------------------------------------------------------------------------------

// v0: a thread for each number, which makes a block of 8 and throws 7 away. Grid n / 256, block 256.
extern "C" __global__ void __launch_bounds__(256)
    random_uniform_naive(float *y, int n, uint64_t key0, uint64_t key1, const uint64_t *position) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  uint64_t word = *position + i;
  uint32_t words[WORDS];
  philox(word / WORDS + 1, key0, key1, words);
  float value = 0;
#pragma unroll
  for (unsigned j = 0; j < WORDS; j++)  // an index that is not known in advance would put the words into memory
    if (word % WORDS == j) value = uniform_of(words[j]);
  y[i] = value;
}

// Writes the numbers first … first + 7 of a draw of n, as far as they belong to it; 16 bytes at a time where y allows.
// Numbers are unsigned: those before the first one are very large, and not below n either.
__device__ __forceinline__ void store(float *y, unsigned n, unsigned first, const float (&values)[WORDS]) {
  if (first < n && n - first >= WORDS && (uint64_t)(y + first) % 16 == 0) {
    ((float4 *)(y + first))[0] = make_float4(values[0], values[1], values[2], values[3]);
    ((float4 *)(y + first))[1] = make_float4(values[4], values[5], values[6], values[7]);
    return;
  }
#pragma unroll
  for (unsigned j = 0; j < WORDS; j++)
    if (first + j < n) y[first + j] = values[j];
}

// v1: a thread for each block of the stream; the first and the last may reach beyond the n numbers. Computes an eighth
// of v0, and writes 4·n bytes. Grid: as many blocks as give each thread one of the stream, at most 2048; block 256.
extern "C" __global__ void __launch_bounds__(256)
    random_uniform(float *y, unsigned n, uint64_t key0, uint64_t key1, const uint64_t *position) {
  uint64_t block = *position / WORDS;
  unsigned drawn = *position % WORDS;  // words of the first block that others had
  unsigned blocks = (n + drawn + WORDS - 1) / WORDS;
  for (unsigned b = blockIdx.x * blockDim.x + threadIdx.x; b < blocks; b += gridDim.x * blockDim.x) {
    uint32_t words[WORDS];
    float values[WORDS];
    philox(block + b + 1, key0, key1, words);
#pragma unroll
    for (unsigned j = 0; j < WORDS; j++) values[j] = uniform_of(words[j]);
    store(y, n, b * WORDS - drawn, values);
  }
}

// factor = [u ≥ p] / (1 - p),  y = factor·x. The factors are kept for the gradient, gx = factor·gy; x and y may be
// null. Reads 4·n bytes and writes 8·n. Grid and block as random_uniform.
extern "C" __global__ void __launch_bounds__(256)
    random_dropout(const float *x, float *y, float *factors, unsigned n, float p, float scale, uint64_t key0,
                   uint64_t key1, const uint64_t *position) {
  uint64_t block = *position / WORDS;
  unsigned drawn = *position % WORDS;
  unsigned blocks = (n + drawn + WORDS - 1) / WORDS;
  for (unsigned b = blockIdx.x * blockDim.x + threadIdx.x; b < blocks; b += gridDim.x * blockDim.x) {
    uint32_t words[WORDS];
    float values[WORDS];
    unsigned first = b * WORDS - drawn;
    philox(block + b + 1, key0, key1, words);
#pragma unroll
    for (unsigned j = 0; j < WORDS; j++) values[j] = uniform_of(words[j]) >= p ? scale : 0;
    store(factors, n, first, values);
    if (!x) continue;
#pragma unroll
    for (unsigned j = 0; j < WORDS; j++)
      if (first + j < n) values[j] *= x[first + j];
    store(y, n, first, values);
  }
}

// Normals -------------------------------------------------------------------------------------------------------------

// Two uniforms to two normals (Box and Muller 1958): √(-2 ln u)·(cos 2πv, sin 2πv) for u in (0, 1] and v in [0, 1).
// u has all 32 bits of a word, so that normals reach 6.7; with 24 they would end at 5.8. sincospif, since sinf and cosf
// have code for large angles that v never needs.
//
// A draw begins at the next whole block, so that a pair of words is never torn. Grid and block as random_uniform.
extern "C" __global__ void __launch_bounds__(256)
    random_normal(float *y, unsigned n, float mean, float deviation, uint64_t key0, uint64_t key1,
                  const uint64_t *position) {
  uint64_t block = (*position + WORDS - 1) / WORDS;
  unsigned blocks = (n + WORDS - 1) / WORDS;
  for (unsigned b = blockIdx.x * blockDim.x + threadIdx.x; b < blocks; b += gridDim.x * blockDim.x) {
    uint32_t words[WORDS];
    float values[WORDS];
    philox(block + b + 1, key0, key1, words);
#pragma unroll
    for (unsigned j = 0; j < WORDS; j += 2) {
      float u = fmaf((float)words[j], 0x1p-32f, 0x1p-33f), cosine, sine;
      float radius = deviation * sqrtf(-2 * logf(u));
      sincospif(2 * uniform_of(words[j + 1]), &sine, &cosine);
      values[j] = fmaf(radius, cosine, mean);
      values[j + 1] = fmaf(radius, sine, mean);
    }
    store(y, n, b * WORDS, values);
  }
}

// After a draw of `words` words, which began at a whole block if `whole`. One thread.
extern "C" __global__ void random_advance(uint64_t *position, unsigned words, int whole) {
  uint64_t start = whole ? (*position + WORDS - 1) / WORDS * WORDS : *position;
  *position = start + words;
}
