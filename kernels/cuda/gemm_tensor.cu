// C = leaky(op(A)·op(B) + bias) on tensor cores: v3 and v4 of gemm, for sm_80 and later. gemm.cuh is what v2 has, too.
//
// A warp's instruction mma.sync multiplies 16 × 8 by 8 × 8 values of TF32, or 16 × 16 by 16 × 8 of bf16, and adds the
// product to 16 × 8 fp32 sums. To it both are words of 32 bits, one value of TF32, or two of bf16 that are neighbours
// along k, and of a matrix of words a lane holds the same in both. So all that comes after the loads is one template,
// with `Word` float or uint32_t.
//
// A block has 128 threads: four warps, each of which makes a quarter of the tile. For a quarter of 64 × 64, a lane
// reads 32 words from shared memory for every 32 instructions. Tiles are 16 deep along k, and lie in shared memory in
// the order of global memory: [side][words] if k runs along the rows there (`ALONG_K`, as in A and Bᵀ), or else
// [words][side]. At once, the lanes of a warp read words t of rows g, or words g of rows t (g = lane / 4 and
// t = lane % 4). Rows are 4 or 8 words longer than what they hold, so that these lie in 32 different banks.
#include "gemm.cuh"

constexpr int DEPTH = 16, THREADS = 128;

template <int SIDE, int WORDS, bool ALONG_K> constexpr int PITCH = ALONG_K ? WORDS + 4 : SIDE + 8;
template <int SIDE, int WORDS> constexpr int SIZE = SIDE * (WORDS + 4);  // of a tile; the other order needs less

template <int SIDE, int WORDS, bool ALONG_K, class Word>
__device__ __forceinline__ Word word_at(const Word *tile, int side, int word) {
  return ALONG_K ? tile[side * PITCH<SIDE, WORDS, true> + word] : tile[word * PITCH<SIDE, WORDS, false> + side];
}

__device__ __forceinline__ float rounded(float x) { return to_tf32(x); }
__device__ __forceinline__ uint32_t rounded(uint32_t pair) { return pair; }  // before it came to shared memory

__device__ __forceinline__ void mma(float (&c)[4], const float (&a)[4], const float (&b)[2]) { mma_tf32(c, a, b); }
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  mma_bf16(c, a, b);
}

// A lane's part of a warp's sums: for each 16 rows and 8 columns, four of them.
template <int SIDE> using Fragments = float[SIDE / 32][SIDE / 16][4];

// c += a·b of two tiles.
template <int SIDE, int WORDS, bool A_ALONG_K, bool B_ALONG_K, class Word>
__device__ __forceinline__ void multiply_tiles(const Word *a, const Word *b, Fragments<SIDE> &c) {
  int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  int row = warp / 2 * (SIDE / 2) + g, column = warp % 2 * (SIDE / 2) + g;
#pragma unroll
  for (int k = 0; k < WORDS; k += 8) {
    Word from_a[SIDE / 32][4], from_b[SIDE / 16][2];
#pragma unroll
    for (int i = 0; i < SIDE / 32; i++)
#pragma unroll
      for (int q = 0; q < 4; q++)
        from_a[i][q] = rounded(word_at<SIDE, WORDS, A_ALONG_K>(a, row + 16 * i + q % 2 * 8, k + t + q / 2 * 4));
#pragma unroll
    for (int j = 0; j < SIDE / 16; j++)
#pragma unroll
      for (int q = 0; q < 2; q++)
        from_b[j][q] = rounded(word_at<SIDE, WORDS, B_ALONG_K>(b, column + 8 * j, k + t + q * 4));
#pragma unroll
    for (int i = 0; i < SIDE / 32; i++)
#pragma unroll
      for (int j = 0; j < SIDE / 16; j++) mma(c[i][j], from_a[i], from_b[j]);
  }
}

// A lane has pairs of columns: four lanes write 32 bytes side by side.
template <int SIDE>
__device__ __forceinline__ void store_fragments(const Gemm &g, const Part &part, const Fragments<SIDE> &c) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  bool by_twos = g.N % 2 == 0 && (uint64_t)part.C % 8 == 0;
#pragma unroll
  for (int j = 0; j < SIDE / 16; j++) {
    int column = part.column + warp % 2 * (SIDE / 2) + 8 * j + lane % 4 * 2;
    bool one = column < g.N, two = column + 1 < g.N;
    float bias0 = g.bias && one ? g.bias[column] : 0, bias1 = g.bias && two ? g.bias[column + 1] : 0;
#pragma unroll
    for (int i = 0; i < SIDE / 16; i++) {
      int row = part.row + warp / 2 * (SIDE / 2) + 8 * i + lane / 4;
      if (row >= g.M) continue;
      float *to = part.C + row * g.N + column;
      const float *pair = &c[i / 2][j][i % 2 * 2];
      float y0 = leaky(pair[0] + bias0, g.slope), y1 = leaky(pair[1] + bias1, g.slope);
      if (by_twos && one) {
        *(float2 *)to = make_float2(y0, y1);
      } else {
        if (one) to[0] = y0;
        if (two) to[1] = y1;
      }
    }
  }
}

// v3: TF32, the 8 bits of exponent of fp32 and 10 of its 23 bits of mantissa, with tiles that come by cp.async.
//
// v2 moves each value from global memory to a register and from there to shared memory. cp.async needs no register, and
// nobody waits for it before `await_copies`: while tiles are multiplied, those of the STAGES - 1 steps to come are on
// their way. One barrier for each depth of 16. Where rows are not aligned to 16 bytes, as with an odd K, values are
// loaded and stored as before. Rounding is left to those who read them, once for each fragment.
// Reads M·N·K / 64 elements, as v2; of an H100, mma.sync reaches about two thirds of its 495 TFLOP/s of dense TF32.
template <int SIDE, bool ALONG_K>
__device__ __forceinline__ void copy_tile(float *tile, const Operand &x, int k0) {
  constexpr int ACROSS = (ALONG_K ? DEPTH : SIDE) / 4;
  auto each = [&](auto copy) {
#pragma unroll
    for (int n = 0; n < SIDE * DEPTH / 4 / THREADS; n++) {
      int i = threadIdx.x + n * THREADS, y = i / ACROSS, four = i % ACROSS * 4;
      int row = (ALONG_K ? x.first : k0) + y, column = (ALONG_K ? k0 : x.first) + four;
      copy(tile + y * PITCH<SIDE, DEPTH, ALONG_K> + four, row, column);
    }
  };
  if (x.by_fours)
    each([&](float *to, int row, int column) {
      bool there = row < x.rows && column < x.columns;
      copy_async(to, x.data + (there ? row * x.columns + column : 0), there);
    });
  else
    each([&](float *to, int row, int column) { *(float4 *)to = load4(x, row, column); });
}

template <int SIDE, int STAGES, bool A_ALONG_K, bool B_ALONG_K>
__device__ __forceinline__ void sums_in_tf32(const Operand &A, const Operand &B, const Part &part, float *a, float *b,
                                             Fragments<SIDE> &c) {
  auto begin_copies = [&](int stage, int k0) {
    if (k0 < part.end) {
      copy_tile<SIDE, A_ALONG_K>(a + stage * SIZE<SIDE, DEPTH>, A, k0);
      copy_tile<SIDE, B_ALONG_K>(b + stage * SIZE<SIDE, DEPTH>, B, k0);
    }
    commit_copies();  // an empty group, too: one for each step, whatever is in it
  };
#pragma unroll
  for (int stage = 0; stage < STAGES - 1; stage++) begin_copies(stage, part.begin + stage * DEPTH);
  int stage = 0;
  for (int k0 = part.begin; k0 < part.end; k0 += DEPTH, stage = (stage + 1) % STAGES) {
    await_copies<STAGES - 2>();
    __syncthreads();  // all threads' copies have landed, and nobody reads the stage before this one: it is filled next
    begin_copies((stage + STAGES - 1) % STAGES, k0 + (STAGES - 1) * DEPTH);
    multiply_tiles<SIDE, DEPTH, A_ALONG_K, B_ALONG_K>(a + stage * SIZE<SIDE, DEPTH>, b + stage * SIZE<SIDE, DEPTH>, c);
  }
}

template <int SIDE, int STAGES> __device__ __forceinline__ void gemm_by_tf32(const Gemm &g, float *a, float *b) {
  Part part = part_of_block<SIDE>(g);
  Operand A = operand_a(g, part.row), B = operand_b(g, part.column);
  Fragments<SIDE> c = {};
  if (g.transposed_a && g.transposed_b)
    sums_in_tf32<SIDE, STAGES, false, true>(A, B, part, a, b, c);
  else if (g.transposed_a)
    sums_in_tf32<SIDE, STAGES, false, false>(A, B, part, a, b, c);
  else if (g.transposed_b)
    sums_in_tf32<SIDE, STAGES, true, true>(A, B, part, a, b, c);
  else
    sums_in_tf32<SIDE, STAGES, true, false>(A, B, part, a, b, c);
  store_fragments<SIDE>(g, part, c);
}

extern "C" __global__ void __launch_bounds__(128)
    gemm_tf32(const float *__restrict__ A, const float *__restrict__ B, const float *__restrict__ bias,
              float *__restrict__ C, int M, int N, int K, bool transposed_a, bool transposed_b, int stride_a,
              int stride_b, int chunk, float slope) {
  __shared__ __align__(16) float a[2 * SIZE<128, DEPTH>], b[2 * SIZE<128, DEPTH>];
  gemm_by_tf32<128, 2>({A, B, bias, C, M, N, K, transposed_a, transposed_b, stride_a, stride_b, chunk, slope}, a, b);
}

// v3 for small C: tiles of 64 × 64, and in the same memory four stages, as there are fewer warps to wait meanwhile.
extern "C" __global__ void __launch_bounds__(128)
    gemm_tf32_small(const float *__restrict__ A, const float *__restrict__ B, const float *__restrict__ bias,
                    float *__restrict__ C, int M, int N, int K, bool transposed_a, bool transposed_b, int stride_a,
                    int stride_b, int chunk, float slope) {
  __shared__ __align__(16) float a[4 * SIZE<64, DEPTH>], b[4 * SIZE<64, DEPTH>];
  gemm_by_tf32<64, 4>({A, B, bias, C, M, N, K, transposed_a, transposed_b, stride_a, stride_b, chunk, slope}, a, b);
}

// v4: bf16, the exponent of fp32 and 7 bits of mantissa, two values in a word. One instruction does twice as much as
// one of v3, for as many words of shared memory.
//
// What comes is fp32, so it goes through registers, where it is rounded: each value once, not once for each warp and
// fragment that reads it. As in v2, the next tiles are on their way to registers while those in shared memory are
// multiplied. A thread takes eight values at once and makes four words of them: eight along k, or where rows are not
// along k, four of one row and four of the next.
constexpr int PAIRS = DEPTH / 2;

template <int SIDE> using Eights = float4[SIDE * DEPTH / 8 / THREADS][2];

template <int SIDE, bool ALONG_K> __device__ __forceinline__ void fetch(Eights<SIDE> &x, const Operand &from, int k0) {
#pragma unroll
  for (int n = 0; n < SIDE * DEPTH / 8 / THREADS; n++) {
    int i = threadIdx.x + n * THREADS;
    if (ALONG_K) {
      int row = from.first + i / (DEPTH / 8), column = k0 + i % (DEPTH / 8) * 8;
      x[n][0] = load4(from, row, column), x[n][1] = load4(from, row, column + 4);
    } else {
      int row = k0 + i / (SIDE / 4) * 2, column = from.first + i % (SIDE / 4) * 4;
      x[n][0] = load4(from, row, column), x[n][1] = load4(from, row + 1, column);
    }
  }
}

template <int SIDE, bool ALONG_K> __device__ __forceinline__ void put(uint32_t *tile, const Eights<SIDE> &x) {
  constexpr int ACROSS = ALONG_K ? DEPTH / 8 : SIDE / 4;
#pragma unroll
  for (int n = 0; n < SIDE * DEPTH / 8 / THREADS; n++) {
    int i = threadIdx.x + n * THREADS;
    float4 p = x[n][0], q = x[n][1];
    *(uint4 *)(tile + i / ACROSS * PITCH<SIDE, PAIRS, ALONG_K> + i % ACROSS * 4) =
        ALONG_K ? make_uint4(to_bf16(p.x, p.y), to_bf16(p.z, p.w), to_bf16(q.x, q.y), to_bf16(q.z, q.w))
                : make_uint4(to_bf16(p.x, q.x), to_bf16(p.y, q.y), to_bf16(p.z, q.z), to_bf16(p.w, q.w));
  }
}

template <int SIDE, bool A_ALONG_K, bool B_ALONG_K>
__device__ __forceinline__ void sums_in_bf16(const Operand &A, const Operand &B, const Part &part, uint32_t *a,
                                             uint32_t *b, Fragments<SIDE> &c) {
  Eights<SIDE> next_a, next_b;
  fetch<SIDE, A_ALONG_K>(next_a, A, part.begin);
  fetch<SIDE, B_ALONG_K>(next_b, B, part.begin);
  int now = 0;  // where the tiles begin that are multiplied: at 0, or behind those
  for (int k0 = part.begin; k0 < part.end; k0 += DEPTH, now ^= SIZE<SIDE, PAIRS>) {
    put<SIDE, A_ALONG_K>(a + now, next_a);
    put<SIDE, B_ALONG_K>(b + now, next_b);
    __syncthreads();  // these tiles are there, and nobody is before them any more, so that the others may be replaced
    if (k0 + DEPTH < part.end) {
      fetch<SIDE, A_ALONG_K>(next_a, A, k0 + DEPTH);
      fetch<SIDE, B_ALONG_K>(next_b, B, k0 + DEPTH);
    }
    multiply_tiles<SIDE, PAIRS, A_ALONG_K, B_ALONG_K>(a + now, b + now, c);
  }
}

template <int SIDE> __device__ __forceinline__ void gemm_by_bf16(const Gemm &g, uint32_t *a, uint32_t *b) {
  Part part = part_of_block<SIDE>(g);
  Operand A = operand_a(g, part.row), B = operand_b(g, part.column);
  Fragments<SIDE> c = {};
  if (g.transposed_a && g.transposed_b)
    sums_in_bf16<SIDE, false, true>(A, B, part, a, b, c);
  else if (g.transposed_a)
    sums_in_bf16<SIDE, false, false>(A, B, part, a, b, c);
  else if (g.transposed_b)
    sums_in_bf16<SIDE, true, true>(A, B, part, a, b, c);
  else
    sums_in_bf16<SIDE, true, false>(A, B, part, a, b, c);
  store_fragments<SIDE>(g, part, c);
}

extern "C" __global__ void __launch_bounds__(128)
    gemm_bf16(const float *__restrict__ A, const float *__restrict__ B, const float *__restrict__ bias,
              float *__restrict__ C, int M, int N, int K, bool transposed_a, bool transposed_b, int stride_a,
              int stride_b, int chunk, float slope) {
  __shared__ __align__(16) uint32_t a[2 * SIZE<128, PAIRS>], b[2 * SIZE<128, PAIRS>];
  gemm_by_bf16<128>({A, B, bias, C, M, N, K, transposed_a, transposed_b, stride_a, stride_b, chunk, slope}, a, b);
}

// v4 for small C, as that of v3.
extern "C" __global__ void __launch_bounds__(128)
    gemm_bf16_small(const float *__restrict__ A, const float *__restrict__ B, const float *__restrict__ bias,
                    float *__restrict__ C, int M, int N, int K, bool transposed_a, bool transposed_b, int stride_a,
                    int stride_b, int chunk, float slope) {
  __shared__ __align__(16) uint32_t a[2 * SIZE<64, PAIRS>], b[2 * SIZE<64, PAIRS>];
  gemm_by_bf16<64>({A, B, bias, C, M, N, K, transposed_a, transposed_b, stride_a, stride_b, chunk, slope}, a, b);
}
