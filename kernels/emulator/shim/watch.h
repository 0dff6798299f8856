// What the runtime tells the watch about memory (watch.cpp).
#pragma once

#include <cstddef>
#include <cstdint>

namespace emulator {

struct Counts {  // of a launch; loads and stores only where a kernel is compiled to be watched
  uint64_t barriers, collectives, loads, stores, shared_loads, shared_stores;
};
extern Counts counts;

struct Range {
  const void *begin;
  size_t bytes;
};

void watch_launch(Range stacks, Range threads, Range dynamic_shared);
void watch_block();
void watch_barrier();
void watch_warp(int warp);
void watch_copy(void *to, const void *from, int bytes);
void watch_read(const void *from, int bytes);

}  // namespace emulator
