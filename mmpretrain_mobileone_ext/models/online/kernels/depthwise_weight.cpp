// Depthwise 3x3 convolution with padding 1, any stride: gradient to its
// weight. Called by convs.py, where PatchConv is the oracle. Tensors are
// (N, H, W, C) contiguous.
#include "packed.h"

namespace {

constexpr int kGradPixels = 128;  // whose products have any sign

template <class T>
void correlate(const Band<T>& x, const T* dy, int64_t gpitch, double* out,
               int64_t c, int64_t live) {
  constexpr int L = Simd<T>::line;
  typename Simd<T>::V sum[kTaps + 1] = {};
  for (int64_t r = 0; r < x.rows; ++r, dy += gpitch) {
    const T *p[3] = {x.row(r, 0), x.row(r, 1), x.row(r, 2)}, *d = dy;
    for (int64_t i = 0; i < x.wo * x.step; i += x.step, d += L) {
      const auto g = load(d);
      for (int t = 0; t < kTaps; ++t)
        sum[t] += g * load(p[t / 3] + i + t % 3 * L);
      sum[kTaps] += g;
    }
  }
  for (int t = 0; t <= kTaps; ++t) add_to<T>(out + t * c, sum[t], live);
}

// out (10, C): gradient to the 9 taps of the weight, which see x minus pivot
// (C), 0 outside the image before that, and to the bias. dy counts where
// `active` (like dy, or null) is above 0: a ReLU's gradient.
template <class T>
void weight_grad(const T* x, const T* pivot, const T* dy, const T* active,
                 const Shape& s, double* out) {
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
        const PivotLine<T> line(pivot, c0, s.c);
        pack<T>(x + image * s.h * s.w * s.c, nullptr, s.h, s.w, s.c, c0,
                first * s.stride - 1, (rows - 1) * s.stride + 3, 1,
                packed.get(), {line.pivot, line.negated});
        const int64_t at_image = image * s.ho * s.wo * s.c;
        pack<T>(dy + at_image, active ? active + at_image : nullptr, s.ho,
                s.wo, s.c, c0, first, rows, 0, grad.get());
        for (int64_t at = c0; at < std::min(c0 + L, s.c); at += W) {
          const Band<T> band{packed.get() + at - c0, rows, pitch,
                             s.stride * L, s.wo, s.stride};
          for_tiles(rows, s.wo, kGradPixels, [&](int64_t r, int64_t i,
                                                 int64_t high, int64_t wide) {
            correlate(band.tile(r, i, high, wide),
                      grad.get() + (r * s.wo + i) * L + at - c0, s.wo * L,
                      sums.mine() + at, s.c, s.c - at);
          });
        }
      }
    }
  }
  const std::vector<double> total = sums.total();
  std::copy(total.begin(), total.end(), out);
}

}  // namespace

#define FOR_TYPE(T, NAME)                                                 \
  extern "C" void weight_grad_##NAME(const T* x, const T* pivot,          \
                                     const T* dy, const T* active,        \
                                     const int64_t* s, double* out) {     \
    weight_grad(x, pivot, dy, active, *reinterpret_cast<const Shape*>(s), \
                out);                                                     \
  }
FOR_TYPE(float, float32)
FOR_TYPE(double, float64)
