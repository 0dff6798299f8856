// Runs the blocks of a grid one after the other, and the threads of a block in turns: a fibre runs until it waits at a
// barrier or for lanes of its warp, or ends. The order of both is what the caller asks for.
#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <numeric>
#include <vector>

#include <sys/mman.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#else
#include <ucontext.h>
#endif

#include "runtime.h"
#include "watch.h"

extern "C" char __start_shared[] __attribute__((weak)), __stop_shared[] __attribute__((weak));

namespace emulator {

constexpr size_t STACK = 256 << 10, COLOURS = 8192;  // stacks begin at different places, so that caches hold many
constexpr int MOST_THREADS = 1024;

enum Order { forward, reversed, shuffled };

Thread *now;
uint3 block_index;
dim3 block_size, grid_size;
char *dynamic_shared;
size_t dynamic_bytes;
Counts counts;

struct Copy {  // an asynchronous one, 16 bytes or fewer
  void *to;
  const void *from;
  int bytes;
};

struct Copies {  // of a thread
  std::vector<Copy> begun;                // not yet in a group
  std::vector<std::vector<Copy>> groups;  // committed, not yet waited for
};

static std::vector<Thread> threads;
static std::vector<Copies> copies;  // by the thread's number
static int running, at_the_barrier;
static void *home;  // where the scheduler sleeps while a fibre runs
static void (*kernel)(void **);
static void **arguments;
static sigjmp_buf failed;
static char *message;
static size_t message_size;
static uint64_t random_state;

// Fibres ------------------------------------------------------------------------------------------------------------

#if defined(__x86_64__)

// Pushes what a function must preserve, leaves the stack pointer in *from, and goes on where `to` was left.
extern "C" void emulator_switch(void **from, void *to) __attribute__((visibility("hidden")));
asm(R"(
    .text
    .globl emulator_switch
    .hidden emulator_switch
    .type emulator_switch, @function
emulator_switch:
    push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp
    ret
    .size emulator_switch, . - emulator_switch
)");

static void prepare(Thread &thread, char *top, void (*entry)()) {
  void **stack = (void **)top;
  *--stack = nullptr;  // `entry` finds its stack as if it had been called
  *--stack = (void *)entry;
  for (int i = 0; i < 6; i++) *--stack = nullptr;
  thread.place = stack;
}

static void go_home() { emulator_switch(&now->place, home); }
static void go_to(Thread &thread) { emulator_switch(&home, thread.place); }

#else

static void prepare(Thread &thread, char *top, void (*entry)()) {
  auto *context = new ucontext_t;
  getcontext(context);
  context->uc_stack.ss_sp = thread.stack;
  context->uc_stack.ss_size = top - thread.stack;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
  delete (ucontext_t *)thread.place;
  thread.place = context;
}

static ucontext_t home_context;
static void go_home() { swapcontext((ucontext_t *)now->place, &home_context); }
static void go_to(Thread &thread) { swapcontext(&home_context, (ucontext_t *)thread.place); }

#endif

static void sleep(Thread::State state, int line) {
  now->state = state;
  now->line = line;
  go_home();
}

void fail(int line, const char *format, ...) {
  va_list rest;
  va_start(rest, format);
  size_t n = vsnprintf(message, message_size, format, rest);
  va_end(rest);
  if (n < message_size && line) n += snprintf(message + n, message_size - n, ", line %d", line);
  if (n < message_size && now)
    snprintf(message + n, message_size - n, ", in block (%u, %u, %u), thread (%u, %u, %u)", block_index.x,
             block_index.y, block_index.z, now->index.x, now->index.y, now->index.z);
  siglongjmp(failed, 1);
}

// Waiting -----------------------------------------------------------------------------------------------------------

static void open_barrier() {
  int line = 0;
  for (Thread &thread : threads)
    if (thread.state == Thread::at_barrier) {
      if (line && thread.line != line) {
        now = &thread;
        fail(0, "threads of a block wait at different barriers, at lines %d and %d", line, thread.line);
      }
      line = thread.line;
      thread.state = Thread::ready;
    }
  at_the_barrier = 0;
  counts.barriers++;
  watch_barrier();
}

void barrier(int line) {
  at_the_barrier++;
  now->state = Thread::at_barrier;
  now->line = line;
  if (at_the_barrier == running)
    open_barrier();  // and go on: the others will have their turns
  else
    go_home();
}

static Thread *lane_of_warp(int lane) {
  size_t number = now->warp * 32 + lane;
  return number < threads.size() ? &threads[number] : nullptr;
}

void meet(unsigned mask, void *part, void (*together)(void **, unsigned), int line) {
  if (!(mask >> now->lane & 1)) fail(line, "mask %#x of a collective lacks lane %d, which calls it", mask, now->lane);
  now->mask = mask;
  now->part = part;
  now->state = Thread::in_warp;
  now->line = line;
  void *parts[32] = {};
  unsigned here = 0;
  for (int lane = 0; lane < 32; lane++) {
    Thread *other = lane_of_warp(lane);
    if (!(mask >> lane & 1)) continue;
    if (!other) {  // a warp that is not full: those lanes have nothing to bring
      mask &= ~(1u << lane);
      continue;
    }
    if (other->state == Thread::ended) fail(line, "mask %#x of a collective has lane %d, which has ended", mask, lane);
    if (other->state != Thread::in_warp) continue;
    if (other->mask != now->mask || other->line != line)
      fail(line, "lanes %d and %d of a mask are in different collectives: mask %#x, line %d, and mask %#x", lane,
           now->lane, other->mask, other->line, now->mask);
    here |= 1u << lane;
    parts[lane] = other->part;
  }
  if (here != mask) return go_home();
  together(parts, mask);
  counts.collectives++;
  for (int lane = 0; lane < 32; lane++)
    if (mask >> lane & 1) lane_of_warp(lane)->state = Thread::ready;
}

static void nothing(void **, unsigned) { watch_warp(now->warp); }

void sync_warp(unsigned mask, int line) { meet(mask, nullptr, nothing, line); }

// Mirrors `Exchange` and `Vote` of device.h, which is not for this file.
void exchange(void **parts, unsigned mask) {
  struct Exchange { uint64_t given, taken; int from; };
  for (int lane = 0; lane < 32; lane++)
    if (mask >> lane & 1) {
      auto *mine = (Exchange *)parts[lane];
      mine->taken = mask >> mine->from & 1 ? ((Exchange *)parts[mine->from])->given : mine->given;
    }
}

void count_votes(void **parts, unsigned mask) {
  struct Vote { bool yes; unsigned all; };
  unsigned all = 0;
  for (int lane = 0; lane < 32; lane++)
    if (mask >> lane & 1) all |= (unsigned)((Vote *)parts[lane])->yes << lane;
  for (int lane = 0; lane < 32; lane++)
    if (mask >> lane & 1) ((Vote *)parts[lane])->all = all;
}

// Asynchronous copies -----------------------------------------------------------------------------------------------

void copy_later(void *to, const void *from, int bytes, bool zero) {
  watch_copy(to, zero ? nullptr : from, bytes);
  if ((uintptr_t)to % bytes || (!zero && (uintptr_t)from % bytes))
    fail(0, "cp.async of %d bytes from or to an address that is not a multiple of that", bytes);
  memset(to, 0xff, bytes);
  copies[now->number].begun.push_back({to, zero ? nullptr : from, bytes});
}

void commit_copies() {
  Copies &mine = copies[now->number];
  mine.groups.push_back(std::move(mine.begun));
  mine.begun.clear();
}

void await_copies(int groups_left) {
  auto &groups = copies[now->number].groups;
  while ((int)groups.size() > groups_left) {
    for (Copy &copy : groups.front()) {
      copy.from ? memcpy(copy.to, copy.from, copy.bytes) : memset(copy.to, 0, copy.bytes);
      landed(copy.to, copy.bytes);
    }
    groups.erase(groups.begin());
  }
}

// Blocks and grids --------------------------------------------------------------------------------------------------

static void run_kernel() {
  kernel(arguments);
  now->state = Thread::ended;
  running--;
  if (running && at_the_barrier == running) open_barrier();  // those that have ended need not come
  go_home();
}

static uint32_t random_below(uint32_t n) {  // xorshift
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return (random_state >> 16) % n;
}

static void arrange(std::vector<int> &turns, Order order) {
  std::iota(turns.begin(), turns.end(), 0);
  if (order == reversed)
    for (size_t i = 0; i < turns.size() / 2; i++) std::swap(turns[i], turns[turns.size() - 1 - i]);
  if (order == shuffled)
    for (size_t i = turns.size(); i > 1; i--) std::swap(turns[i - 1], turns[random_below(i)]);
}

static void run_block(size_t shared, Order order) {
  size_t n = threads.size();
  memset(__start_shared, 0xff, __stop_shared - __start_shared);
  memset(dynamic_shared, 0xff, shared);
  watch_block();
  forget_products();
  for (size_t i = 0; i < n; i++) {
    Thread &thread = threads[i];
    uint3 index{unsigned(i % block_size.x), unsigned(i / block_size.x % block_size.y),
                unsigned(i / (block_size.x * block_size.y))};
    thread.state = Thread::ready;
    thread.index = index;
    thread.number = i, thread.warp = i / 32, thread.lane = i % 32;
    copies[i].begun.clear();
    copies[i].groups.clear();
    prepare(thread, thread.stack + STACK + i * 320 % COLOURS, run_kernel);
  }
  running = n;
  at_the_barrier = 0;
  static std::vector<int> turns;  // static, as a failure leaves by a jump that destroys nothing
  turns.resize(n);
  while (running) {
    bool moved = false;
    arrange(turns, order);
    for (int i : turns)
      if (threads[i].state == Thread::ready) {
        moved = true;
        now = &threads[i];
        go_to(threads[i]);
      }
    if (moved) continue;
    for (Thread &thread : threads)
      if (thread.state != Thread::ended) {
        now = &thread;
        fail(thread.line, thread.state == Thread::at_barrier ? "waits at a barrier that others never reach"
                                                             : "waits for lanes of its warp that never come");
      }
  }
  now = nullptr;
}

constexpr int SIGNALS[] = {SIGSEGV, SIGBUS, SIGFPE};

static void on_signal(int number, siginfo_t *info, void *) {
  if (number == SIGFPE) fail(0, "an integer is divided by zero");
  fail(0, "illegal memory access at %p", info->si_addr);
}

static void run_grid(size_t shared, Order order) {
  static std::vector<int> blocks;
  blocks.resize((size_t)grid_size.x * grid_size.y * grid_size.z);
  arrange(blocks, order);
  for (unsigned i : blocks) {
    block_index = {i % grid_size.x, i / grid_size.x % grid_size.y, i / grid_size.x / grid_size.y};
    run_block(shared, order);
  }
}

extern "C" int emulator_launch(void (*entry)(void **), void **given, const unsigned *sizes, size_t shared, int order,
                               uint64_t seed, char *text, size_t text_size, Counts *found) {
  kernel = entry, arguments = given;
  grid_size = {sizes[0], sizes[1], sizes[2]};
  block_size = {sizes[3], sizes[4], sizes[5]};
  message = text, message_size = text_size;
  random_state = seed * 2654435761u + 88172645463325252u;
  counts = {};
  static char *stacks = (char *)mmap(nullptr, MOST_THREADS * (STACK + COLOURS), PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  threads.resize((size_t)block_size.x * block_size.y * block_size.z);
  copies.resize(threads.size());
  for (size_t i = 0; i < threads.size(); i++) threads[i].stack = stacks + i * (STACK + COLOURS);
  static std::vector<char> dynamic;
  dynamic.resize(shared + 16);
  dynamic_shared = (char *)(((uintptr_t)dynamic.data() + 15) & ~(uintptr_t)15);
  dynamic_bytes = shared;
  watch_launch({stacks, MOST_THREADS * (STACK + COLOURS)}, {threads.data(), threads.size() * sizeof(Thread)},
               {dynamic_shared, shared});

  static char *aside = new char[65536];  // a fibre's own stack may be what is broken
  stack_t signal_stack{}, stack_before{};
  signal_stack.ss_sp = aside, signal_stack.ss_size = 65536;
  sigaltstack(&signal_stack, &stack_before);
  struct sigaction action{}, before[std::size(SIGNALS)];
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  for (size_t i = 0; i < std::size(SIGNALS); i++) sigaction(SIGNALS[i], &action, &before[i]);
#if defined(__x86_64__)
  unsigned rounding = _mm_getcsr();
  _mm_setcsr(rounding | 0x8040);  // tiny numbers are 0, as CuPy has it on the GPU (-ftz=true)
#endif
  int status = sigsetjmp(failed, 1);
  if (!status) run_grid(shared, (Order)order);
#if defined(__x86_64__)
  _mm_setcsr(rounding);
#endif
  for (size_t i = 0; i < std::size(SIGNALS); i++) sigaction(SIGNALS[i], &before[i], nullptr);
  sigaltstack(&stack_before, nullptr);
  now = nullptr;
  *found = counts;
  return status;
}

}  // namespace emulator
