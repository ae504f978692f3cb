// Norms and activations of pointwise units, on matrices (pixels, channels):
// one pass each instead of one an operator. Called by convs.py and
// by_recompute.py, where PatchConv and _SumByRecomputing are the oracles.
//
// Work is cut into blocks of pixels. Sums over a block are in the type of the
// tensor unless it says otherwise, sums over blocks are double; the order
// depends on the number of threads only.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num() { return 0; }
#endif

namespace {

constexpr int64_t kBlock = 32;  // pixels

// Calls visit(first, last, sums) for blocks of pixels; adds `kinds` sums per
// channel, which visit adds to, to out (kinds, channels).
template <class T, class Visit>
void add_sums(int64_t pixels, int64_t size, int64_t threads, double* out,
              Visit visit) {
  std::vector<double> parts(threads * size, 0.);
#pragma omp parallel num_threads(threads)
  {
    std::vector<T> own(size);
    double* mine = parts.data() + omp_get_thread_num() * size;
#pragma omp for schedule(static)
    for (int64_t first = 0; first < pixels; first += kBlock) {
      std::fill(own.begin(), own.end(), T(0));
      visit(first, std::min(pixels, first + kBlock), own.data());
      for (int64_t i = 0; i < size; ++i) mine[i] += own[i];
    }
  }
  for (int64_t i = 0; i < threads * size; ++i) out[i % size] += parts[i];
}

// around: v minus pivot (C), both null for v itself; out (2, C): its sums and
// those of its square, all in double: a variance is their difference, and an
// average need not be small beside it.
template <class T, bool Pivot>
void moments(const T* v, const T* pivot, int64_t pixels, int64_t c,
             int64_t threads, T* around, double* out) {
  add_sums<double>(pixels, 2 * c, threads, out,
                   [=](int64_t first, int64_t last, double* sums) {
    double *__restrict sum = sums, *__restrict square = sums + c;
    T* __restrict to = around;
    for (int64_t p = first; p < last; ++p)
#pragma GCC ivdep
      for (int64_t i = 0; i < c; ++i) {
        const T value = Pivot ? v[p * c + i] - pivot[i] : v[p * c + i];
        if (Pivot) to[p * c + i] = value;
        const double d = value;
        sum[i] += d;
        square[i] += d * d;
      }
  });
}

// out (C): near the mean of every `step`-th pixel, with few digits beside
// their spread; sparing: 0 where it is no larger. PatchConv.pivot says why.
template <class T>
void pivot(const T* v, int64_t pixels, int64_t c, int64_t step, int64_t sparing,
           T* out) {
  std::vector<double> sums(2 * c, 0.);
  double *__restrict sum = sums.data(), *__restrict square = sum + c;
  int64_t count = 0;
  for (int64_t p = 0; p < pixels; p += step, ++count)
#pragma GCC ivdep
    for (int64_t i = 0; i < c; ++i) {
      const double d = v[p * c + i];
      sum[i] += d;
      square[i] += d * d;
    }
  for (int64_t i = 0; i < c; ++i) {
    const double mean = sum[i] / count;
    const double var = square[i] / count - mean * mean;
    int exponent = 0;
    std::frexp(std::sqrt(std::max(var, 0.)), &exponent);
    const double unit = std::ldexp(1., exponent - 5);
    if (sparing && mean * mean <= var)
      out[i] = 0;
    else
      out[i] = static_cast<T>(var > 0 ? std::nearbyint(mean / unit) * unit
                                      : mean);
  }
}

// y = scale z + skip x + constant, and its ReLU. y may be z, x null.
template <class T, bool Skip>
void normalize(const T* z, const T* x, const T* factors, int64_t relu,
               int64_t pixels, int64_t c, int64_t threads, T* y) {
  const T *scale = factors, *skip = factors + c, *constant = factors + 2 * c;
  const T least = relu ? T(0) : -std::numeric_limits<T>::infinity();
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t p = 0; p < pixels; ++p)
#pragma GCC ivdep
    for (int64_t i = 0; i < c; ++i) {
      const int64_t at = p * c + i;
      T sum = z[at] * scale[i] + constant[i];
      if (Skip) sum += x[at] * skip[i];
      y[at] = sum < least ? least : sum;
    }
}

// The ReLU's gradient. Loads without a condition, or no loop is vectorized.
template <bool Relu, class T>
inline T masked(const T* dy, const T* active, int64_t at) {
  const T g = dy[at];
  return !Relu || active[at] > 0 ? g : T(0);
}

// out: dy where `active` is above 0, else 0; adds their sums to sums (C).
template <class T>
void mask(const T* dy, const T* active, int64_t pixels, int64_t c,
          int64_t threads, T* out, double* sums) {
  add_sums<T>(pixels, c, threads, sums,
              [=](int64_t first, int64_t last, T* own) {
    T *__restrict sum = own, *__restrict to = out;
    for (int64_t p = first; p < last; ++p)
      for (int64_t i = 0; i < c; ++i) {
        const T g = masked<true>(dy, active, p * c + i);
        to[p * c + i] = g;
        sum[i] += g;
      }
  });
}

// Branches are numbered as in Python: skip (where x is given), then conv.

// out: sums of g, of g (x - mean) and of g (z - mean), (3, C) or without x
// (2, C), where g is dy where `active` is above 0; means (2, C) or (1, C).
template <class T, bool Relu, bool Skip>
void grad_sums(const T* dy, const T* active, const T* z, const T* x,
               const T* means, int64_t pixels, int64_t c, int64_t threads,
               double* out) {
  const T* z_mean = means + Skip * c;
  add_sums<T>(pixels, (2 + Skip) * c, threads, out,
              [=](int64_t first, int64_t last, T* sums) {
    T *__restrict sum = sums, *__restrict by_x = sums + c,
      *__restrict by_z = sums + (1 + Skip) * c;
    for (int64_t p = first; p < last; ++p)
#pragma GCC ivdep
      for (int64_t i = 0; i < c; ++i) {
        const int64_t at = p * c + i;
        const T g = masked<Relu>(dy, active, at);
        sum[i] += g;
        by_z[i] += g * (z[at] - z_mean[i]);
        if (Skip) by_x[i] += g * (x[at] - means[i]);
      }
  });
}

// Gradients of the norms' inputs, three factors (3, C) a branch: of g, of the
// input, and a constant. dx, left alone without x, may be z.
template <class T, bool Relu, bool Skip>
void input_grads(const T* dy, const T* active, const T* z, const T* x,
                 const T* factors, int64_t pixels, int64_t c,
                 int64_t threads, T* dz, T* dx) {
  const T *f = factors + Skip * 3 * c, *by_skip = factors;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t p = 0; p < pixels; ++p)
#pragma GCC ivdep
    for (int64_t i = 0; i < c; ++i) {
      const int64_t at = p * c + i;
      const T g = masked<Relu>(dy, active, at);
      dz[at] = f[i] * g + f[c + i] * z[at] + f[2 * c + i];
      if (Skip)
        dx[at] = by_skip[i] * g + by_skip[c + i] * x[at] + by_skip[2 * c + i];
    }
}

// Calls f with two constants, so that loops have no branches.
template <class F>
void with_constants(bool first, bool second, F f) {
  const auto then = [&](auto a) {
    second ? f(a, std::true_type()) : f(a, std::false_type());
  };
  first ? then(std::true_type()) : then(std::false_type());
}

}  // namespace

#define FOR_TYPE(T, NAME)                                                   \
  extern "C" void pixel_moments_##NAME(                                     \
      const T* v, const T* pivot, int64_t pixels, int64_t c,                \
      int64_t threads, T* around, double* out) {                            \
    pivot ? moments<T, true>(v, pivot, pixels, c, threads, around, out)     \
          : moments<T, false>(v, pivot, pixels, c, threads, around, out);   \
  }                                                                         \
  extern "C" void pixel_pivot_##NAME(const T* v, int64_t pixels, int64_t c, \
                                     int64_t step, int64_t sparing,         \
                                     T* out) {                              \
    pivot(v, pixels, c, step, sparing, out);                                \
  }                                                                         \
  extern "C" void pixel_mask_##NAME(                                        \
      const T* dy, const T* active, int64_t pixels, int64_t c,              \
      int64_t threads, T* out, double* sums) {                              \
    mask(dy, active, pixels, c, threads, out, sums);                        \
  }                                                                         \
  extern "C" void pixel_normalize_##NAME(                                   \
      const T* z, const T* x, const T* factors, int64_t relu,               \
      int64_t pixels, int64_t c, int64_t threads, T* y) {                   \
    x ? normalize<T, true>(z, x, factors, relu, pixels, c, threads, y)      \
      : normalize<T, false>(z, x, factors, relu, pixels, c, threads, y);    \
  }                                                                         \
  extern "C" void pixel_grad_sums_##NAME(                                   \
      const T* dy, const T* active, const T* z, const T* x, const T* means, \
      int64_t pixels, int64_t c, int64_t threads, double* out) {            \
    with_constants(active, x, [&](auto relu, auto skip) {                   \
      grad_sums<T, relu, skip>(dy, active, z, x, means, pixels, c, threads, \
                               out);                                        \
    });                                                                     \
  }                                                                         \
  extern "C" void pixel_input_grads_##NAME(                                 \
      const T* dy, const T* active, const T* z, const T* x,                 \
      const T* factors, int64_t pixels, int64_t c, int64_t threads, T* dz,  \
      T* dx) {                                                              \
    with_constants(active, x, [&](auto relu, auto skip) {                   \
      input_grads<T, relu, skip>(dy, active, z, x, factors, pixels, c,      \
                                 threads, dz, dx);                          \
    });                                                                     \
  }
FOR_TYPE(float, float32)
FOR_TYPE(double, float64)
