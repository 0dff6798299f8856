// wgmma: products of a warpgroup, whose matrices the tensor cores read from shared memory while its threads go on.
//
// Each warp makes its own 16 rows of 64. All operations are collectives of a warp here (`meet`), so that what follows
// is run once for its 32 lanes, by the last to come.
#include <algorithm>
#include <cstring>
#include <vector>

#include "runtime.h"
#include "watch.h"

namespace emulator {

struct Product {
  Wgmma lanes[32];
  std::vector<float> made;  // [16][columns], when it was begun
  int line;
};

struct Warp {
  bool fenced;  // since its threads could last use their sums
  std::vector<Product> begun;
  std::vector<std::vector<Product>> groups;  // committed, not yet waited for
};

static Warp warps[32];
static std::vector<int> writers;  // of every 4 bytes of shared memory: 1 + the thread that has yet to show them, or 0

void forget_products() {
  for (Warp &warp : warps) warp = {};
  writers.assign(dynamic_bytes / 4 + 4, 0);
}

// Generic and asynchronous proxy ------------------------------------------------------------------------------------

void landed(const void *to, int bytes) {
  size_t at = (const char *)to - dynamic_shared;
  if (at < dynamic_bytes) std::fill_n(&writers[at / 4], bytes / 4, now->number + 1);
}

void show_to_tensor_cores() { std::replace(writers.begin(), writers.end(), now->number + 1, 0); }

// Descriptors -------------------------------------------------------------------------------------------------------

constexpr uint64_t ADDRESSES = 1 << 18;

uint64_t shared_address(const void *p) { return (uintptr_t)p % ADDRESSES; }

// 8 values of a row from a matrix with the swizzle of 128 bytes: bits 4 to 6 of an address are xored with bits 7 to 9.
static const float *row_of(uint64_t descriptor, int row, int piece, int line) {
  uint64_t start = (descriptor & 0x3fff) << 4, eight_rows = (descriptor >> 32 & 0x3fff) << 4;
  if (descriptor >> 62 != 1 || descriptor >> 49 & 7)
    fail(line, "wgmma: descriptor %#llx, expected the swizzle of 128 bytes", (unsigned long long)descriptor);
  uint64_t address = start + row / 8 * eight_rows + row % 8 * 128 + piece * 16;
  address ^= (address >> 7 & 7) << 4;
  uint64_t at = (address - (uintptr_t)dynamic_shared) % ADDRESSES;
  if (at + 16 > dynamic_bytes) fail(line, "wgmma reads outside of the dynamic shared memory");
  const char *from = dynamic_shared + at;
  for (int word = 0; word < 4; word++)
    if (int writer = writers[at / 4 + word])
      fail(line, "wgmma reads what thread %d has written without a fence for the asynchronous proxy", writer - 1);
  watch_read(from, 16);
  return (const float *)from;
}

static void read(float (&values)[8], uint64_t descriptor, int row, int line) {
  for (int piece = 0; piece < 2; piece++) {
    uint32_t bits[4];
    memcpy(bits, row_of(descriptor, row, piece, line), 16);
    for (uint32_t &word : bits) word &= 0xffffe000u;  // the hardware does not look at the last 13 bits
    memcpy(values + piece * 4, bits, 16);
  }
}

// The same of the first matrix, where that is in registers: lane 4g + t has A[g][t], A[g + 8][t], A[g][t + 4], A[g + 8][t + 4].
static void read(float (&values)[8], const Product &product, int row) {
  for (int k = 0; k < 8; k++) {
    uint32_t bits;
    memcpy(&bits, product.lanes[row % 8 * 4 + k % 4].words + row / 8 + k / 4 * 2, 4);
    bits &= 0xffffe000u;
    memcpy(values + k, &bits, 4);
  }
}

static std::vector<float> made(const Product &product) {
  const Wgmma &part = product.lanes[0];
  int columns = part.columns;
  std::vector<float> result(16 * columns), turned(8 * columns);
  float b[8], a[8];
  for (int column = 0; column < columns; column++) {
    read(b, part.b, column, product.line);
    for (int k = 0; k < 8; k++) turned[k * columns + column] = b[k];
  }
  for (int row = 0; row < 16; row++) {
    if (part.words)
      read(a, product, row);
    else
      read(a, part.a, now->warp % 4 * 16 + row, product.line);
    for (int k = 0; k < 8; k++)
      for (int column = 0; column < columns; column++)
        result[row * columns + column] += a[k] * turned[k * columns + column];
  }
  return result;
}

// The instructions --------------------------------------------------------------------------------------------------

void begin_products(void **, unsigned) { warps[now->warp].fenced = true; }

void wgmma_tf32(void **parts, unsigned mask) {
  Warp &warp = warps[now->warp];
  Product product{{}, {}, now->line};
  if (mask != 0xffffffffu) fail(now->line, "wgmma needs all 32 lanes of a warp, and four warps");
  if (!warp.fenced) fail(now->line, "wgmma without wgmma.fence before it");
  for (int lane = 0; lane < 32; lane++) {
    product.lanes[lane] = *(Wgmma *)parts[lane];
    if (product.lanes[lane].a != product.lanes[0].a || product.lanes[lane].b != product.lanes[0].b)
      fail(now->line, "wgmma: lanes of a warp have different descriptors");
  }
  product.made = made(product);
  warp.begun.push_back(std::move(product));
}

void commit_products(void **, unsigned) {
  Warp &warp = warps[now->warp];
  warp.groups.push_back(std::move(warp.begun));
  warp.begun.clear();
}

void await_products(void **parts, unsigned mask) {
  Warp &warp = warps[now->warp];
  int left = *(int *)parts[now->lane];
  while ((int)warp.groups.size() > left) {
    for (Product &product : warp.groups.front()) {
      if (memcmp(made(product).data(), product.made.data(), product.made.size() * sizeof(float)))
        fail(product.line, "what wgmma reads was changed before it was waited for");
      for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < product.lanes[lane].columns / 2; i++) {
          int row = lane / 4 + i % 4 / 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
          product.lanes[lane].sum[i] += product.made[row * product.lanes[lane].columns + column];
        }
    }
    warp.groups.erase(warp.groups.begin());
  }
  if (warp.groups.empty()) warp.fenced = false;
}

}  // namespace emulator
