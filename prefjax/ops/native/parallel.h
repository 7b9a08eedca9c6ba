// Work in numbered pieces on XLA's own threads, and memory that is kept for the next call.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "xla/ffi/api/ffi.h"

// Runs work(i) for all i < n. The calling thread works too and waits for pieces that were begun, never for a thread
// to become free. A piece must not depend on who runs it or when.
template <typename Work>
void parallel(xla::ffi::ThreadPool& pool, int64_t n, const Work& work) {
  struct Shared {
    std::atomic<int64_t> next{0};
    int64_t done = 0;
    std::mutex mutex;
    std::condition_variable all_done;
  };
  auto shared = std::make_shared<Shared>();
  const Work* borrowed = &work;  // alive while a piece is left, and nobody looks at it afterwards
  auto run = [shared, borrowed, n] {
    int64_t mine = 0;
    for (int64_t i; (i = shared->next++) < n; ++mine) (*borrowed)(i);
    if (!mine) return;
    std::lock_guard<std::mutex> lock(shared->mutex);
    if ((shared->done += mine) == n) shared->all_done.notify_all();
  };
  const int64_t threads = std::min<int64_t>(pool.num_threads(), n);
  for (int64_t t = 1; t < threads; ++t) pool.Schedule(std::function<void()>(run));
  run();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->all_done.wait(lock, [&] { return shared->done == n; });
}

// Aligned memory that is kept for the next call, declared `static`: as many pieces as were ever in use at once
class Scratch {
  struct Free { void operator()(float* x) const { std::free(x); } };
  struct Piece {
    std::unique_ptr<float, Free> data;
    int64_t size = 0;
  };

 public:
  // A piece, the holder's as long as it lives
  class Lease {
   public:
    Lease(Scratch& from, Piece piece) : from_(from), piece_(std::move(piece)) {}
    Lease(const Lease&) = delete;
    ~Lease() {
      std::lock_guard<std::mutex> lock(from_.mutex_);
      from_.pieces_.push_back(std::move(piece_));
    }
    float* get() const { return piece_.data.get(); }

   private:
    Scratch& from_;
    Piece piece_;
  };

  Lease of(int64_t floats) {
    Piece piece;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!pieces_.empty()) piece = std::move(pieces_.back()), pieces_.pop_back();
    }
    if (floats > piece.size) {
      piece.size = (floats + 1023) / 1024 * 1024;
      piece.data.reset();
      piece.data.reset(static_cast<float*>(std::aligned_alloc(64, piece.size * sizeof(float))));
    }
    return Lease(*this, std::move(piece));
  }

 private:
  std::mutex mutex_;
  std::vector<Piece>& pieces_ = *new std::vector<Piece>;  // never destroyed, for threads may outlive static objects
};
