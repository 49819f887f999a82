// What libtorch has and `tch` does not bind, behind a C interface (shim.rs is its other side).
//
// Generic headers alone: every call goes through libtorch's dispatcher or through the allocator and the events that the device's own
// library has registered, so this builds and links against a libtorch without CUDA and finds CUDA's at run time.
//
// A function that can fail returns 0, or 1 with a text in `error`. No exception leaves.

#include <ATen/DeviceAccelerator.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_efficient_attention_forward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/empty.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Event.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <optional>
#include <tuple>

namespace {

struct Error {
  char* text;
  size_t size;
};

void tell(Error error, const char* what) {
  if (error.size == 0) return;
  const size_t length = std::min(std::strlen(what), error.size - 1);
  std::memcpy(error.text, what, length);
  error.text[length] = '\0';
}

template <typename Work>
int guarded(Error error, Work work) {
  try {
    work();
    return 0;
  } catch (const c10::Error& problem) {
    tell(error, problem.what_without_backtrace());
  } catch (const std::exception& problem) {
    tell(error, problem.what());
  } catch (...) {
    tell(error, "an exception of unknown type");
  }
  return 1;
}

int64_t of(const c10::CachingAllocator::StatArray& stats, bool peak) {
  const auto& all = stats[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)];
  return peak ? all.peak : all.current;
}

}  // namespace

extern "C" {

// Attention of sequences that lie one behind the other. query, key, value: [rows, heads, size]; ends: int32 [sequences + 1].
// `kind`: 0 for the flash kernels, 1 for the memory-efficient ones. `out`: a tensor that the caller owns, [rows, heads, size].
int nr_varlen_attention(int kind, const at::Tensor* query, const at::Tensor* key, const at::Tensor* value,
                        const at::Tensor* query_ends, const at::Tensor* key_ends, int64_t query_max, int64_t key_max,
                        at::Tensor** out, char* text, size_t size) {
  return guarded({text, size}, [&] {
    if (kind == 0) {
      auto found = at::_flash_attention_forward(*query, *key, *value, *query_ends, *key_ends, query_max, key_max,
                                                /*dropout_p=*/0.0, /*is_causal=*/false, /*return_debug_mask=*/false);
      *out = new at::Tensor(std::move(std::get<0>(found)));
      return;
    }
    auto found = at::_efficient_attention_forward(query->unsqueeze(0), key->unsqueeze(0), value->unsqueeze(0),
                                                  /*bias=*/std::nullopt, *query_ends, *key_ends, query_max, key_max,
                                                  /*dropout_p=*/0.0, /*custom_mask_type=*/0);
    *out = new at::Tensor(std::get<0>(found).squeeze(0));
  });
}

// Integers on the host, not set yet; `pinned`: where the device's copy engine can read them.
int nr_host_integers(int64_t count, int pinned, at::Tensor** out, char* text, size_t size) {
  return guarded({text, size}, [&] {
    *out = new at::Tensor(at::empty({count}, at::TensorOptions().dtype(at::kInt).pinned_memory(pinned != 0)));
  });
}

// Gives cached memory of CUDA devices back to the driver.
int nr_empty_cache(char* text, size_t size) {
  return guarded({text, size}, [] { c10::getDeviceAllocator(c10::DeviceType::CUDA)->emptyCache(); });
}

// Bytes of a CUDA device that this process's tensors take, that they took at most, and that its allocator holds.
int nr_allocator_bytes(int index, int64_t* bytes, char* text, size_t size) {
  return guarded({text, size}, [&] {
    const auto stats = c10::getDeviceAllocator(c10::DeviceType::CUDA)->getDeviceStats(static_cast<c10::DeviceIndex>(index));
    bytes[0] = of(stats.allocated_bytes, false);
    bytes[1] = of(stats.allocated_bytes, true);
    bytes[2] = of(stats.reserved_bytes, false);
  });
}

// Marks what the current stream of a CUDA device has been given so far.
int nr_mark(int index, c10::Event** out, char* text, size_t size) {
  return guarded({text, size}, [&] {
    auto event = std::make_unique<c10::Event>(c10::DeviceType::CUDA);
    event->record(at::accelerator::getCurrentStream(static_cast<c10::DeviceIndex>(index)));
    *out = event.release();
  });
}

// Waits until all that was marked is done.
int nr_wait(const c10::Event* event, char* text, size_t size) {
  return guarded({text, size}, [&] { event->synchronize(); });
}

void nr_forget_mark(c10::Event* event) { delete event; }
}
