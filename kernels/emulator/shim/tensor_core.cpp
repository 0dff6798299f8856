// mma.sync: which element of A, B and C a lane holds, by its group g = lane / 4 and its place t = lane % 4 in it
// (PTX manual, "Matrix fragments for mma.m16n8k8" and "m16n8k16").
#include <cstring>

#include "runtime.h"

namespace emulator {

static float as_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

static float tf32(float x) {  // the hardware does not look at the last 13 bits
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return as_float(bits & 0xffffe000u);
}

static float bf16(uint32_t pair, int high) { return as_float(high ? pair & 0xffff0000u : pair << 16); }

static void need_all(unsigned mask) {
  if (mask != 0xffffffffu) fail(0, "mma.sync needs all 32 lanes of a warp");
}

// c[i] of a lane is C[g + 8·(i / 2)][2t + i % 2].
template <int K, class Part> static void multiply(Part **parts, const float (&a)[16][K], const float (&b)[K][8]) {
  for (int lane = 0; lane < 32; lane++)
    for (int i = 0; i < 4; i++) {
      int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      float sum = parts[lane]->c[i];
      for (int k = 0; k < K; k++) sum += a[row][k] * b[k][column];
      parts[lane]->c[i] = sum;
    }
}

void mma_tf32(void **parts, unsigned mask) {
  need_all(mask);
  auto **lanes = (MmaTf32 **)parts;
  float a[16][8], b[8][8];
  for (int lane = 0; lane < 32; lane++) {
    int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; i++) a[g + i % 2 * 8][t + i / 2 * 4] = tf32(lanes[lane]->a[i]);
    for (int i = 0; i < 2; i++) b[t + i * 4][g] = tf32(lanes[lane]->b[i]);
  }
  multiply<8>(lanes, a, b);
}

void mma_bf16(void **parts, unsigned mask) {
  need_all(mask);
  auto **lanes = (MmaBf16 **)parts;
  float a[16][16], b[16][8];
  for (int lane = 0; lane < 32; lane++) {
    int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; i++)
      for (int high = 0; high < 2; high++) a[g + i % 2 * 8][2 * t + high + i / 2 * 8] = bf16(lanes[lane]->a[i], high);
    for (int i = 0; i < 2; i++)
      for (int high = 0; high < 2; high++) b[2 * t + high + i * 8][g] = bf16(lanes[lane]->b[i], high);
  }
  multiply<16>(lanes, a, b);
}

}  // namespace emulator
