// Images (N, H, W, C) in bands that inner loops like: for the kernels of
// depthwise 3x3 convolutions with padding 1.
//
// Work is cut into bands of rows of one image; a band is packed, one cache
// line of channels at a time and with zeros around it, so that inner loops
// are contiguous and have no borders. Sums over a tile of a band stay in the
// type of the tensor, sums over tiles are double; the order depends on the
// number of threads only.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num() { return 0; }
#endif

namespace {

constexpr int kLine = 64;  // bytes of a packed pixel
constexpr int kBandPixels = 2048;
constexpr int kSumPixels = 32;  // of a tile whose moments are summed
constexpr int kTaps = 9;
// Per channel: sums of products of two taps, (9, 9), and of taps, 9.
constexpr int kMoments = kTaps * kTaps + kTaps;
#ifdef __AVX512F__
constexpr int kVec = 64;
#else
constexpr int kVec = 32;
#endif

template <class T>
struct Simd {
  // Tensors are aligned to their elements only.
  typedef T V __attribute__((vector_size(kVec), aligned(sizeof(T))));
  static constexpr int line = kLine / sizeof(T);
  static constexpr int width = kVec / sizeof(T);
};

template <class T>
const typename Simd<T>::V& load(const T* p) {
  return *reinterpret_cast<const typename Simd<T>::V*>(p);
}

struct Shape {
  int64_t n, h, w, c, stride, ho, wo, threads;

  int64_t blocks(int64_t lanes) const { return (c + lanes - 1) / lanes; }
};

// Bands of rows of all images: job -> image, first row, number of rows.
struct Bands {
  int64_t rows_of_image, rows, per_image, count;

  Bands(int64_t images, int64_t rows_of_image, int64_t pixels_per_row)
      : rows_of_image(rows_of_image),
        rows(std::max<int64_t>(1, kBandPixels / pixels_per_row)),
        per_image((rows_of_image + rows - 1) / rows),
        count(images * per_image) {}
  int64_t image(int64_t job) const { return job / per_image; }
  int64_t first(int64_t job) const { return job % per_image * rows; }
  int64_t size(int64_t job) const {
    return std::min(rows, rows_of_image - first(job));
  }
};

template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t count)
      : data_(static_cast<T*>(std::aligned_alloc(
            kLine, (count * sizeof(T) + kLine - 1) / kLine * kLine))) {}
  ~Buffer() { std::free(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* get() { return data_; }

 private:
  T* data_;
};

// One (rows, channels) sum per thread; added up in the order of threads.
class Sums {
 public:
  Sums(int64_t threads, int64_t size)
      : size_(size), parts_(threads * size, 0.) {}
  double* mine() { return parts_.data() + omp_get_thread_num() * size_; }
  std::vector<double> total() const {
    std::vector<double> sum(size_, 0.);
    for (size_t i = 0; i < parts_.size(); ++i) sum[i % size_] += parts_[i];
    return sum;
  }

 private:
  int64_t size_;
  std::vector<double> parts_;
};

// One pixel's channels; where `active` is given, those above 0 in it, and
// where `pivot` is, less it.
template <class T>
inline __attribute__((always_inline))  // so that a constant `live` is one
void copy_pixel(const T* from, const T* active, int64_t live, T* to,
                const T* pivot = nullptr) {
  using V = typename Simd<T>::V;
  if (pivot && live == Simd<T>::line)
    for (int v = 0; v < Simd<T>::line; v += Simd<T>::width)
      *reinterpret_cast<V*>(to + v) = load(from + v) - load(pivot + v);
  else if (pivot)
    for (int64_t i = 0; i < live; ++i) to[i] = from[i] - pivot[i];
  else if (!active)
    std::memcpy(to, from, sizeof(T) * live);
  else if (live == Simd<T>::line)
    for (int v = 0; v < Simd<T>::line; v += Simd<T>::width)
      *reinterpret_cast<V*>(to + v) =
          load(active + v) > 0 ? load(from + v) : V{};
  else
    for (int64_t i = 0; i < live; ++i) to[i] = active[i] > 0 ? from[i] : 0;
}

// What is packed where the image ends, a pivot that is taken off, both null
// for nothing. One value a channel of the line.
template <class T>
struct Around {
  const T *pivot, *outside;
};

// Pivots of channels [c0, c0 + line) as they are and negated; zeros after the
// last channel.
template <class T>
struct PivotLine {
  static constexpr int L = Simd<T>::line;
  T pivot[L] = {}, negated[L] = {};

  PivotLine(const T* of_channels, int64_t c0, int64_t c) {
    for (int64_t i = 0; i < std::min<int64_t>(L, c - c0); ++i) {
      pivot[i] = of_channels[c0 + i];
      negated[i] = -pivot[i];
    }
  }
};

// `count` packed pixels outside the image.
template <class T>
void pack_outside(const T* outside, int64_t count, T* out) {
  constexpr int L = Simd<T>::line;
  if (!outside)
    std::memset(out, 0, sizeof(T) * count * L);
  else
    for (int64_t i = 0; i < count; ++i)
      std::memcpy(out + i * L, outside, sizeof(T) * L);
}

// Rows [first, first + rows) of channels [c0, c0 + line) of an image (h, w,
// c), to (rows, w + 2 halo, line). Zeros outside channels, and where
// `active`, an image of the same shape or null, is not above 0.
template <class T>
void pack(const T* image, const T* active, int64_t h, int64_t w, int64_t c,
          int64_t c0, int64_t first, int64_t rows, int64_t halo, T* out,
          Around<T> around = {}) {
  constexpr int L = Simd<T>::line;
  const int64_t live = std::min<int64_t>(L, c - c0), pitch = w + 2 * halo;
  for (int64_t r = 0; r < rows; ++r, out += pitch * L) {
    const int64_t row = first + r;
    if (row < 0 || row >= h) {
      pack_outside(around.outside, pitch, out);
      continue;
    }
    const T* from = image + row * w * c + c0;
    const T* mask = active ? active + row * w * c + c0 : nullptr;
    T* to = out + halo * L;
    pack_outside(around.outside, halo, out);
    pack_outside(around.outside, halo, to + w * L);
    if (live < L) std::memset(to, 0, sizeof(T) * w * L);
    for (int64_t i = 0; i < w; ++i, to += L) {
      const T* active_here = mask ? mask + i * c : nullptr;
      // A length the compiler knows is many times faster.
      if (live == L)
        copy_pixel(from + i * c, active_here, L, to, around.pivot);
      else
        copy_pixel(from + i * c, active_here, live, to, around.pivot);
    }
  }
}

template <class T>
void add_to(double* out, const typename Simd<T>::V& sum, int64_t live) {
  constexpr int64_t W = Simd<T>::width;
  // As in `pack`: a length the compiler knows is faster.
  if (live >= W)
    for (int64_t i = 0; i < W; ++i) out[i] += static_cast<double>(sum[i]);
  else
    for (int64_t i = 0; i < live; ++i) out[i] += static_cast<double>(sum[i]);
}

// Cuts (rows, columns) into tiles of `most` pixels; calls visit(row, column,
// rows, columns).
template <class Visit>
void for_tiles(int64_t rows, int64_t columns, int64_t most, Visit visit) {
  const int64_t parts = (columns + most - 1) / most;
  const int64_t wide = (columns + parts - 1) / parts;
  const int64_t high = std::max<int64_t>(1, most / wide);
  for (int64_t r = 0; r < rows; r += high)
    for (int64_t i = 0; i < columns; i += wide)
      visit(r, i, std::min(high, rows - r), std::min(wide, columns - i));
}

// A packed tile of input that `rows` rows of `wo` output pixels need.
template <class T>
struct Band {
  const T* data;
  int64_t rows, pitch, step;  // step: from an output column to the next
  int64_t wo, stride;

  const T* row(int64_t r, int tap) const {
    return data + (r * stride + tap) * pitch;
  }
  // Of the output pixels from (r, i) on.
  Band tile(int64_t r, int64_t i, int64_t high, int64_t wide) const {
    return {row(r, 0) + i * step, high, pitch, step, wide, stride};
  }
};

}  // namespace
