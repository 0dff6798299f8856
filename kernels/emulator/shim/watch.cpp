// Sees every load and store of a kernel, by the hooks that g++ calls for its sanitizers; none of their libraries is used.
//
// -fsanitize=address calls __asan_load4(p) and the like, and tells where each shared array ends.
// -fsanitize=thread calls __tsan_read4(p) and the like, for every access that another thread could see.
//
// Both check that an access lies within one of the kernel's arrays and is aligned to its size. The second also looks for
// races: two threads use the same bytes, one of them writes, and no barrier that both passed lies between. That is exact
// in any order of threads: a missing barrier is found even where the result is right.
#include <cstdio>
#include <unordered_map>
#include <vector>

#include "runtime.h"
#include "watch.h"

extern "C" {
extern char __start_shared[] __attribute__((weak)), __stop_shared[] __attribute__((weak));
extern char __ehdr_start[], _end[] __attribute__((visibility("hidden")));  // of this library
}

namespace emulator {

enum Kind { internal, shared, global };

struct Stamp {  // who used some bytes last, and when
  int thread = -1;
  unsigned block, barrier, warp_sync;
};

struct Cell {
  Stamp writer, readers[2];
};

constexpr uintptr_t GRAIN = 1;  // bytes of a cell: threads write neighbouring bools

static std::vector<Range> arrays;  // of the arguments
static Range stacks, fibres, dynamic;
static std::unordered_map<uintptr_t, Cell> shared_cells, global_cells;
static unsigned block_number, barrier_number, warp_syncs[32];

// Of the section, if known. A function, as the hook that fills it is called before this file's variables are made.
static std::vector<Range> &shared_arrays() {
  static std::vector<Range> found;
  return found;
}

static bool in(const void *p, const void *begin, const void *end) { return p >= begin && p < end; }
static const char *end(Range range) { return (const char *)range.begin + range.bytes; }
static bool in(const void *p, Range range) { return in(p, range.begin, end(range)); }

void watch_launch(Range stacks_, Range fibres_, Range dynamic_) {
  stacks = stacks_, fibres = fibres_, dynamic = dynamic_;
  block_number = 0;
  global_cells.clear();
}

void watch_block() {
  block_number++;
  barrier_number = 0;
  shared_cells.clear();
}

void watch_barrier() { barrier_number++; }
void watch_warp(int warp) { warp_syncs[warp]++; }

// Bounds ------------------------------------------------------------------------------------------------------------

// fail() with the place in the kernel: run.py turns "code 0x…" into a line.
static void stop(const void *code, const char *text) {
  fail(0, "%s, code 0x%zx", text, (size_t)((const char *)code - __ehdr_start - 1));
}

static void outside(const void *p, size_t bytes, bool write, const void *code) {
  char text[200];
  const char *verb = write ? "writes" : "reads";
  size_t best = ~(size_t)0, nearest = 0;
  bool below = false;
  for (size_t i = 0; i < arrays.size(); i++) {
    bool is_below = (const char *)p < (const char *)arrays[i].begin;
    size_t away = is_below ? (const char *)arrays[i].begin - (const char *)p : (const char *)p + bytes - end(arrays[i]);
    if (away < best) best = away, nearest = i, below = is_below;
  }
  if (best < 1 << 20)
    snprintf(text, sizeof text, "%s %zu bytes outside of every array: %zu bytes %s array %zu", verb, bytes, best,
             below ? "before" : "past the end of", nearest);
  else
    snprintf(text, sizeof text, "%s %zu bytes at %p, which is outside of every array", verb, bytes, p);
  stop(code, text);
}

static Kind kind_of(const void *p, size_t bytes, bool write, const void *code) {
  const char *last = (const char *)p + bytes - 1;
  if (in(p, stacks) || in(p, fibres)) return internal;
  if (in(p, dynamic) && in(last, dynamic)) return shared;
  if (in(p, __start_shared, __stop_shared)) {
    bool known = shared_arrays().empty();
    for (Range array : shared_arrays()) known |= in(p, array) && in(last, array);
    if (!known) stop(code, write ? "writes past the end of a shared array" : "reads past the end of a shared array");
    return shared;
  }
  if (!write && in(p, __ehdr_start, _end)) return internal;  // constants
  for (Range array : arrays)
    if (in(p, array) && in(last, array)) return global;
  outside(p, bytes, write, code);
  return internal;
}

static Kind check(const void *p, size_t bytes, bool write, const void *code) {
  if (!now) return internal;  // while the library is loaded
  Kind kind = kind_of(p, bytes, write, code);
  if (kind != internal && (bytes == 4 || bytes == 8 || bytes == 16) && (uintptr_t)p % bytes)
    stop(code, "uses an address that is not a multiple of the size of what is there");
  return kind;
}

// Races -------------------------------------------------------------------------------------------------------------

static bool ordered(const Stamp &then) {
  if (then.thread < 0) return true;
  if (then.block != block_number) return false;
  return then.thread == now->number || then.barrier != barrier_number ||
         (then.thread / 32 == now->warp && then.warp_sync != warp_syncs[now->warp]);
}

static void race(const Stamp &then, const char *what, const void *code) {
  char text[200];
  snprintf(text, sizeof text, "race: %s thread %d of %s block, with no barrier between", what, then.thread,
           then.block == block_number ? "its" : "another");
  stop(code, text);
}

static void see(std::unordered_map<uintptr_t, Cell> &cells, const void *p, size_t bytes, bool write, const void *code) {
  Stamp stamp{now->number, block_number, barrier_number, warp_syncs[now->warp]};
  for (uintptr_t at = (uintptr_t)p / GRAIN; at <= ((uintptr_t)p + bytes - 1) / GRAIN; at++) {
    Cell &cell = cells[at];
    if (!ordered(cell.writer)) race(cell.writer, write ? "writes what was written by" : "reads what was written by", code);
    if (write) {
      for (Stamp &reader : cell.readers)
        if (!ordered(reader)) race(reader, "writes what was read by", code);
      cell = {};
      cell.writer = stamp;
    } else if (cell.readers[0].thread != stamp.thread || cell.readers[0].block != stamp.block) {
      cell.readers[1] = cell.readers[0];
      cell.readers[0] = stamp;
    } else {
      cell.readers[0] = stamp;
    }
  }
}

static void used(const void *p, size_t bytes, bool write, const void *code) {
  Kind kind = check(p, bytes, write, code);
  if (kind == internal) return;
  bool is_shared = kind == shared;
  ++(is_shared ? write ? counts.shared_stores : counts.shared_loads : write ? counts.stores : counts.loads);
  see(is_shared ? shared_cells : global_cells, p, bytes, write, code);
}

// The two ends of cp.async, which moves memory without a hook of its own.
void watch_copy(void *to, const void *from, int bytes) {
  if (arrays.empty()) return;  // nobody watches
  const void *code = __builtin_return_address(0);
  used(to, bytes, true, code);
  if (from) used(from, bytes, false, code);
}

// What tensor cores read by themselves.
void watch_read(const void *from, int bytes) {
  if (!arrays.empty()) used(from, bytes, false, __builtin_return_address(0));
}

extern "C" void emulator_watch(const Range *given, int n) { arrays.assign(given, given + n); }

}  // namespace emulator

// The hooks ---------------------------------------------------------------------------------------------------------

#define CODE __builtin_return_address(0)
#define HOOKS(n)                                                                                                  \
  void __asan_load##n(const void *p) { emulator::check(p, n, false, CODE); }                                      \
  void __asan_store##n(const void *p) { emulator::check(p, n, true, CODE); }                                      \
  void __tsan_read##n(const void *p) { emulator::used(p, n, false, CODE); }                                       \
  void __tsan_write##n(const void *p) { emulator::used(p, n, true, CODE); }                                       \
  void __tsan_unaligned_read##n(const void *p) { emulator::used(p, n, false, CODE); }                             \
  void __tsan_unaligned_write##n(const void *p) { emulator::used(p, n, true, CODE); }

extern "C" {
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
void __asan_loadN(const void *p, size_t n) { emulator::check(p, n, false, CODE); }
void __asan_storeN(const void *p, size_t n) { emulator::check(p, n, true, CODE); }
void __tsan_read_range(const void *p, size_t n) { emulator::used(p, n, false, CODE); }
void __tsan_write_range(const void *p, size_t n) { emulator::used(p, n, true, CODE); }
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
void __tsan_init() {}
void __asan_init() {}
void __asan_version_mismatch_check_v8() {}
void __asan_handle_no_return() {}

struct AsanGlobal {  // as g++ lays it out
  const char *begin;
  size_t size, size_with_gap;
  const char *name, *module;
  size_t dynamic_init;
  void *location, *odr;
};
void __asan_register_globals(AsanGlobal *globals, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (emulator::in(globals[i].begin, __start_shared, __stop_shared))
      emulator::shared_arrays().push_back({globals[i].begin, globals[i].size});
}
void __asan_unregister_globals(AsanGlobal *, size_t) {}
}
