// Depthwise 3x3 convolution with padding 1, any stride: moments of its
// patches, and gradient to its weight. Called by depthwise.py; the oracle is
// patches.py. Tensors are (N, H, W, C) contiguous.
#include "packed.h"

namespace {

constexpr int kSumPixels = 128;  // of a variance, in the tensor's type

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

// From (90, C), without products of tap rows a > b, to (C, 90) with them:
// they are the others' mirror.
void by_channel(const std::vector<double>& sums, int64_t channels,
                double* out) {
  for (int64_t c = 0; c < channels; ++c, out += kMoments)
    for (int k = 0; k < kMoments; ++k) {
      const int t = k / kTaps, u = k % kTaps;
      const bool mirrored = t < kTaps && u / 3 < t / 3;
      out[k] = sums[(mirrored ? u * kTaps + t : k) * channels + c];
    }
}

// out (C, 90): products (9, 9), symmetric, and 9 sums.
template <class T>
void moments(const T* x, const Shape& s, double* out) {
  constexpr int L = Simd<T>::line, W = Simd<T>::width;
  const Bands bands(s.n, s.ho, s.w * s.stride);
  const int64_t pitch = (s.w + 2) * L;
  const int64_t at_once = std::max<int64_t>(1, kSumPixels / s.wo);
  Sums sums(s.threads, kMoments * s.c);
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
  std::vector<double> total(kMoments * s.c);
  sums.total(total.data());
  by_channel(total, s.c, out);
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

}  // namespace

#define FOR_TYPE(T, NAME)                                                     \
  extern "C" void moments_##NAME(const T* x, const int64_t* s, double* out) { \
    moments(x, *reinterpret_cast<const Shape*>(s), out);                      \
  }                                                                           \
  extern "C" void weight_grad_##NAME(const T* x, const T* dy,                 \
                                     const T* active, const int64_t* s,       \
                                     double* out) {                           \
    weight_grad(x, dy, active, *reinterpret_cast<const Shape*>(s), out);      \
  }
FOR_TYPE(float, float32)
FOR_TYPE(double, float64)
