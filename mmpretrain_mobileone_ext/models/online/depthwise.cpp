// Depthwise 3x3 convolution with padding 1, any stride: moments of its
// patches, gradient to its weight, gradient to its input. Called by
// depthwise.py, which has the formulas; the oracle is patches.py.
//
// Tensors are (N, H, W, C) contiguous. Work is cut into bands of rows of one
// image; a band is packed, one cache line of channels at a time and with
// zeros around it, so that inner loops are contiguous and have no borders.
// Sums over a band stay in the type of the tensor, sums over bands are
// double; the order depends on the number of threads only.
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
constexpr int kSumPixels = 128;  // of a variance, in the tensor's type
constexpr int kTaps = 9;
constexpr int kStencil = 25 + 1;  // 5x5 coefficients and a constant
constexpr int kRun = 4;           // pixels that share a coefficient load
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
  void total(double* out) const {
    std::fill(out, out + size_, 0.);
    for (size_t i = 0; i < parts_.size(); ++i) out[i % size_] += parts_[i];
  }

 private:
  int64_t size_;
  std::vector<double> parts_;
};

// One pixel's channels; where `active` is given, those above 0 in it.
template <class T>
inline __attribute__((always_inline))  // so that a constant `live` is one
void copy_pixel(const T* from, const T* active, int64_t live, T* to) {
  using V = typename Simd<T>::V;
  if (!active)
    std::memcpy(to, from, sizeof(T) * live);
  else if (live == Simd<T>::line)
    for (int v = 0; v < Simd<T>::line; v += Simd<T>::width)
      *reinterpret_cast<V*>(to + v) =
          load(active + v) > 0 ? load(from + v) : V{};
  else
    for (int64_t i = 0; i < live; ++i) to[i] = active[i] > 0 ? from[i] : 0;
}

// Rows [first, first + rows) of channels [c0, c0 + line) of an image (h, w,
// c), to (rows, w + 2 halo, line). Zeros outside image and channels, and
// where `active`, an image of the same shape or null, is not above 0.
template <class T>
void pack(const T* image, const T* active, int64_t h, int64_t w, int64_t c,
          int64_t c0, int64_t first, int64_t rows, int64_t halo, T* out) {
  constexpr int L = Simd<T>::line;
  const int64_t live = std::min<int64_t>(L, c - c0), pitch = w + 2 * halo;
  for (int64_t r = 0; r < rows; ++r, out += pitch * L) {
    const int64_t row = first + r;
    if (row < 0 || row >= h) {
      std::memset(out, 0, sizeof(T) * pitch * L);
      continue;
    }
    const T* from = image + row * w * c + c0;
    const T* mask = active ? active + row * w * c + c0 : nullptr;
    T* to = out + halo * L;
    std::memset(out, 0, sizeof(T) * halo * L);
    std::memset(to + w * L, 0, sizeof(T) * halo * L);
    if (live < L) std::memset(to, 0, sizeof(T) * w * L);
    for (int64_t i = 0; i < w; ++i, to += L) {
      // A length the compiler knows is many times faster.
      if (live == L)
        copy_pixel(from + i * c, mask ? mask + i * c : nullptr, L, to);
      else
        copy_pixel(from + i * c, mask ? mask + i * c : nullptr, live, to);
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

// A packed band of input rows that `rows` output rows need.
template <class T>
struct Band {
  const T* data;
  int64_t rows, pitch, step;  // step: from an output column to the next
  int64_t wo, stride;

  const T* row(int64_t r, int tap) const {
    return data + (r * stride + tap) * pitch;
  }
};

// Sums of the products of tap row a with tap row b.
template <class T>
void products(const Band<T>& x, int a, int b, double* out, int64_t c,
              int64_t live) {
  constexpr int L = Simd<T>::line;
  typename Simd<T>::V sum[kTaps] = {};
  for (int64_t r = 0; r < x.rows; ++r) {
    const T *p = x.row(r, a), *q = x.row(r, b);
    for (int64_t i = 0; i < x.wo; ++i, p += x.step, q += x.step) {
      const auto p0 = load(p), p1 = load(p + L), p2 = load(p + 2 * L);
      for (int k = 0; k < 3; ++k) {
        const auto v = load(q + k * L);
        sum[k] += p0 * v;
        sum[3 + k] += p1 * v;
        sum[6 + k] += p2 * v;
      }
    }
  }
  for (int i = 0; i < kTaps; ++i) {
    const int t = a * 3 + i / 3, u = b * 3 + i % 3;
    add_to<T>(out + (t * kTaps + u) * c, sum[i], live);
  }
}

template <class T>
void tap_sums(const Band<T>& x, double* out, int64_t c, int64_t live) {
  typename Simd<T>::V sum[kTaps] = {};
  for (int64_t r = 0; r < x.rows; ++r) {
    const T* p[3] = {x.row(r, 0), x.row(r, 1), x.row(r, 2)};
    for (int64_t i = 0; i < x.wo * x.step; i += x.step)
      for (int t = 0; t < kTaps; ++t)
        sum[t] += load(p[t / 3] + i + t % 3 * Simd<T>::line);
  }
  for (int t = 0; t < kTaps; ++t) add_to<T>(out + t * c, sum[t], live);
}

// out (90, C): products (9, 9), symmetric, and 9 sums.
template <class T>
void moments(const T* x, const Shape& s, double* out) {
  constexpr int L = Simd<T>::line, W = Simd<T>::width;
  const Bands bands(s.n, s.ho, s.w * s.stride);
  const int64_t pitch = (s.w + 2) * L;
  const int64_t at_once = std::max<int64_t>(1, kSumPixels / s.wo);
  Sums sums(s.threads, (kTaps + 1) * kTaps * s.c);
#pragma omp parallel num_threads(s.threads)
  {
    Buffer<T> packed((bands.rows * s.stride + 2) * pitch);
#pragma omp for schedule(static)
    for (int64_t job = 0; job < bands.count; ++job) {
      const int64_t rows = bands.size(job);
      const T* image = x + bands.image(job) * s.h * s.w * s.c;
      for (int64_t c0 = 0; c0 < s.c; c0 += L) {
        pack<T>(image, nullptr, s.h, s.w, s.c, c0, bands.first(job) * s.stride - 1,
             (rows - 1) * s.stride + 3, 1, packed.get());
        for (int64_t at = c0; at < std::min(c0 + L, s.c); at += W) {
          double* to = sums.mine() + at;
          for (int64_t r = 0; r < rows; r += at_once) {
            const Band<T> band{packed.get() + r * s.stride * pitch + at - c0,
                               std::min(at_once, rows - r), pitch,
                               s.stride * L, s.wo, s.stride};
            for (int a = 0; a < 3; ++a)
              for (int b = a; b < 3; ++b)
                products(band, a, b, to, s.c, s.c - at);
            tap_sums(band, to + kTaps * kTaps * s.c, s.c, s.c - at);
          }
        }
      }
    }
  }
  sums.total(out);
  // Those of tap rows a > b were not computed: they are the others' mirror.
  for (int t = 3; t < kTaps; ++t)
    for (int u = 0; u < t / 3 * 3; ++u)
      std::copy_n(out + (u * kTaps + t) * s.c, s.c, out + (t * kTaps + u) * s.c);
}

template <class T>
void correlate(const Band<T>& x, const T* dy, double* out, int64_t c,
               int64_t live) {
  constexpr int L = Simd<T>::line;
  typename Simd<T>::V sum[kTaps + 1] = {};
  for (int64_t r = 0; r < x.rows; ++r) {
    const T* p[3] = {x.row(r, 0), x.row(r, 1), x.row(r, 2)};
    for (int64_t i = 0; i < x.wo * x.step; i += x.step, dy += L) {
      const auto g = load(dy);
      for (int t = 0; t < kTaps; ++t)
        sum[t] += g * load(p[t / 3] + i + t % 3 * L);
      sum[kTaps] += g;
    }
  }
  for (int t = 0; t <= kTaps; ++t) add_to<T>(out + t * c, sum[t], live);
}

// out (10, C): gradient to the 9 taps of the weight, and to the bias. dy
// counts where `active` (like dy, or null) is above 0: a ReLU's gradient.
template <class T>
void weight_grad(const T* x, const T* dy, const T* active, const Shape& s,
                 double* out) {
  constexpr int L = Simd<T>::line, W = Simd<T>::width;
  const Bands bands(s.n, s.ho, s.w * s.stride);
  const int64_t pitch = (s.w + 2) * L;
  Sums sums(s.threads, (kTaps + 1) * s.c);
#pragma omp parallel num_threads(s.threads)
  {
    Buffer<T> packed((bands.rows * s.stride + 2) * pitch);
    Buffer<T> grad(bands.rows * s.wo * L);
#pragma omp for schedule(static)
    for (int64_t job = 0; job < bands.count; ++job) {
      const int64_t image = bands.image(job), first = bands.first(job);
      const int64_t rows = bands.size(job);
      for (int64_t c0 = 0; c0 < s.c; c0 += L) {
        pack<T>(x + image * s.h * s.w * s.c, nullptr, s.h, s.w, s.c, c0,
             first * s.stride - 1, (rows - 1) * s.stride + 3, 1,
             packed.get());
        const int64_t at_image = image * s.ho * s.wo * s.c;
        pack<T>(dy + at_image, active ? active + at_image : nullptr, s.ho,
                s.wo, s.c, c0, first, rows, 0, grad.get());
        for (int64_t at = c0; at < std::min(c0 + L, s.c); at += W) {
          const Band<T> band{packed.get() + at - c0, rows, pitch,
                             s.stride * L, s.wo, s.stride};
          correlate(band, grad.get() + at - c0, sums.mine() + at, s.c,
                    s.c - at);
        }
      }
    }
  }
  sums.total(out);
}

// The taps by which an axis position q is part of a patch of some output.
int taps_at(int64_t q, int64_t stride, int64_t outputs) {
  int mask = 0;
  for (int t = 0; t < 3; ++t) {
    const int64_t p = q + 1 - t;
    if (p >= 0 && p % stride == 0 && p / stride < outputs) mask |= 1 << t;
  }
  return mask;
}

// Offsets from a position to those that share a patch with it.
int lowest(int mask) { return mask & 4 ? -2 : mask & 2 ? -1 : 0; }
int highest(int mask) { return mask & 1 ? 2 : mask & 2 ? 1 : 0; }

// One position of an axis of the input: its taps and, for each, the output
// position (relative to the packed band).
struct Position {
  int mask;
  int64_t output[3];

  Position(int64_t q, int64_t stride, int64_t outputs, int64_t first)
      : mask(taps_at(q, stride, outputs)) {
    for (int t = 0; t < 3; ++t) output[t] = (q + 1 - t) / stride - first;
  }
};

// Gradient of `Count` pixels of an input row, `step` elements apart.
template <class T, int Count>
void pixels(const T* x, int64_t xpitch, const T* dy, int64_t gpitch,
            const T* stencil, const T* weight, const Position& row,
            const Position& col, int64_t step, T* out) {
  using V = typename Simd<T>::V;
  constexpr int L = Simd<T>::line, W = Simd<T>::width, N = L / W;
  V sum[Count][N];
  const auto add = [&sum](const T* coefficient, const T* p, int64_t apart) {
    for (int v = 0; v < N; ++v) {
      const V k = load(coefficient + v * W);
      for (int n = 0; n < Count; ++n)
        sum[n][v] += k * load(p + n * apart + v * W);
    }
  };
  for (int n = 0; n < Count; ++n)
    for (int v = 0; v < N; ++v) sum[n][v] = load(stencil + 25 * L + v * W);
  for (int i = lowest(row.mask); i <= highest(row.mask); ++i)
    for (int j = lowest(col.mask); j <= highest(col.mask); ++j)
      add(stencil + ((i + 2) * 5 + j + 2) * L, x + i * xpitch + j * L, step);
  for (int t = 0; t < kTaps; ++t)
    if (row.mask >> t / 3 & 1 && col.mask >> t % 3 & 1)
      add(weight + t * L,
          dy + row.output[t / 3] * gpitch + col.output[t % 3] * L, L);
  for (int n = 0; n < Count; ++n)
    for (int v = 0; v < N; ++v)
      *reinterpret_cast<V*>(out + n * step + v * W) = sum[n][v];
}

// The columns of a row, and how many from each on, `stride` apart, have the
// same taps (kRun at most).
struct Columns {
  std::vector<Position> at;
  std::vector<int64_t> run;

  explicit Columns(const Shape& s) : run(s.w, 1) {
    for (int64_t q = 0; q < s.w; ++q) at.emplace_back(q, s.stride, s.wo, 0);
    for (int64_t q = 0; q < s.w; ++q)
      while (run[q] < kRun && q + run[q] * s.stride < s.w &&
             at[q + run[q] * s.stride].mask == at[q].mask)
        ++run[q];
  }
};

// stencils (C / line, classes, 26, line), zeros beyond C; class_of[row mask
// * 8 + column mask]; weight (C / line, 9, line).
template <class T>
void input_grad(const T* x, const T* dy, const T* active, const T* weight,
                const T* stencils, const int64_t* class_of, int64_t classes,
                const Shape& s, T* dx) {
  constexpr int L = Simd<T>::line;
  decltype(&pixels<T, 1>) const by_count[kRun] = {
      pixels<T, 1>, pixels<T, 2>, pixels<T, 3>, pixels<T, 4>};
  const Bands bands(s.n, s.h, s.w);
  const int64_t xpitch = (s.w + 4) * L, gpitch = s.wo * L;
  const Columns columns(s);
#pragma omp parallel num_threads(s.threads)
  {
    Buffer<T> xs((bands.rows + 4) * xpitch), out(s.w * L);
    Buffer<T> grads((bands.rows / s.stride + 3) * gpitch);
#pragma omp for schedule(static)
    for (int64_t job = 0; job < bands.count; ++job) {
      const int64_t image = bands.image(job), first = bands.first(job);
      const int64_t rows = bands.size(job);
      // Output rows that have a tap in this band.
      const int64_t low = (std::max<int64_t>(0, first - 1) + s.stride - 1) /
                          s.stride;
      const int64_t high = std::min(s.ho - 1, (first + rows) / s.stride);
      for (int64_t block = 0; block < s.blocks(L); ++block) {
        const int64_t c0 = block * L;
        pack<T>(x + image * s.h * s.w * s.c, nullptr, s.h, s.w, s.c, c0, first - 2,
             rows + 4, 2, xs.get());
        const int64_t at_image = image * s.ho * s.wo * s.c;
        pack<T>(dy + at_image, active ? active + at_image : nullptr, s.ho,
                s.wo, s.c, c0, low, std::max<int64_t>(0, high - low + 1), 0,
                grads.get());
        const T* kernel = weight + block * kTaps * L;
        for (int64_t r = 0; r < rows; ++r) {
          const Position row(first + r, s.stride, s.ho, low);
          for (int64_t phase = 0; phase < std::min(s.stride, s.w); ++phase)
            for (int64_t col = phase, run; col < s.w; col += run * s.stride) {
              const Position& at = columns.at[col];
              run = columns.run[col];
              const int64_t k = class_of[row.mask * 8 + at.mask];
              const T* stencil =
                  stencils + (block * classes + k) * kStencil * L;
              by_count[run - 1](
                  xs.get() + (r + 2) * xpitch + (col + 2) * L, xpitch,
                  grads.get(), gpitch, stencil, kernel, row, at,
                  s.stride * L, out.get() + col * L);
            }
          const int64_t live = std::min<int64_t>(L, s.c - c0);
          T* to = dx + ((image * s.h + first + r) * s.w) * s.c + c0;
          for (int64_t i = 0; i < s.w; ++i)
            if (live == L)
              copy_pixel<T>(out.get() + i * L, nullptr, L, to + i * s.c);
            else
              copy_pixel<T>(out.get() + i * L, nullptr, live, to + i * s.c);
        }
      }
    }
  }
}

}  // namespace

#define FOR_TYPE(T, NAME)                                                    \
  extern "C" void moments_##NAME(const T* x, const int64_t* s, double* out) { \
    moments(x, *reinterpret_cast<const Shape*>(s), out);                     \
  }                                                                          \
  extern "C" void weight_grad_##NAME(const T* x, const T* dy,                \
                                     const T* active, const int64_t* s,      \
                                     double* out) {                          \
    weight_grad(x, dy, active, *reinterpret_cast<const Shape*>(s), out);             \
  }                                                                          \
  extern "C" void input_grad_##NAME(                                         \
      const T* x, const T* dy, const T* active, const T* weight,             \
      const T* stencils, const int64_t* class_of, int64_t classes,           \
      const int64_t* s, T* dx) {                                             \
    input_grad(x, dy, active, weight, stencils, class_of, classes,           \
               *reinterpret_cast<const Shape*>(s), dx);                      \
  }
FOR_TYPE(float, float32)
FOR_TYPE(double, float64)
