// The threads of a block as fibres, and how they wait for each other.
#pragma once

#include <stddef.h>
#include <stdint.h>

struct uint3 { unsigned x, y, z; };
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emulator {

struct Thread {
  enum State { ready, at_barrier, in_warp, ended } state;
  int line;       // where it waits
  uint3 index;    // in its block
  int number, warp, lane;
  unsigned mask;  // of the lanes that it meets
  void *part;     // what it brings to them
  char *stack;
  void *place;    // in its stack, while it sleeps
};

extern Thread *now;  // the one that runs
extern uint3 block_index;
extern dim3 block_size, grid_size;
extern char *dynamic_shared;
extern size_t dynamic_bytes;

[[noreturn]] void fail(int line, const char *format, ...) __attribute__((format(printf, 2, 3)));

// All threads of the block that have not ended.
void barrier(int line);

// The lanes of a mask: the last to come calls `together` with what each of them has brought.
void meet(unsigned mask, void *part, void (*together)(void **parts, unsigned mask), int line);
void sync_warp(unsigned mask, int line);
void exchange(void **parts, unsigned mask);
void count_votes(void **parts, unsigned mask);

// Asynchronous copies to shared memory land as late as the program allows: until its group was waited for, there is NaN.
void copy_later(void *to, const void *from, int bytes, bool zero);
void commit_copies();
void await_copies(int groups_left);

// Tensor cores: D = A·B + C of a warp, in the fragments that the PTX manual gives each lane.
struct MmaTf32 { float a[4], b[2], c[4]; };           // m16n8k8
struct MmaBf16 { uint32_t a[4], b[2]; float c[4]; };  // m16n8k16, two values in a word
void mma_tf32(void **parts, unsigned mask);
void mma_bf16(void **parts, unsigned mask);

// Products of a warpgroup (wgmma.cpp), begun and awaited by each of its warps. `part` of await_products is an int: how
// many groups may be left. They are made twice, when they are begun and as late as the program allows: what they read
// must not have changed, whenever the hardware reads it.
struct Wgmma {  // m64nNk8 of TF32, by two descriptors, or with a lane's four words of the first matrix in its registers
  float *sum;
  int columns;
  uint64_t a, b;
  const float *words;
};
void begin_products(void **parts, unsigned mask);
void commit_products(void **parts, unsigned mask);
void await_products(void **parts, unsigned mask);
void wgmma_tf32(void **parts, unsigned mask);
void forget_products();  // of the block before

// Where something lies in shared memory. Tensor cores find only what is in the dynamic part.
uint64_t shared_address(const void *p);

// Copies that have landed are not seen by wgmma before this; `landed` tells of one.
void show_to_tensor_cores();
void landed(const void *to, int bytes);

}  // namespace emulator
