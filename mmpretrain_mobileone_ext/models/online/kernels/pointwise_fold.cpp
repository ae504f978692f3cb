// Fold the branches of a pointwise unit by the moments of its input, and hand
// gradients back, but for the matrix products. Called by native_fold.py;
// batch_fold.py has the formulas and is the oracle. Sums are double; means of
// the input, and those that are kept, are around a pivot of each channel.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "params.h"

namespace {

struct Sizes {
  int64_t out, in, branches, threads;
};

// What is known of the input's channels; raw: means that are not around the
// pivot.
struct Input {
  const double *mean, *raw, *var, *power;
};

// What backward takes of a branch's output channel.
struct Kept {
  double mean, inv_std;
};

// Of one output channel; w: its row of a kernel, by_cov: w times covariance.
struct Statistics {
  // bound: the sum that the variance is part of.
  double mean = 0, raw = 0, var = 0, bound = 0;

  template <class T>
  Statistics(const T* __restrict w, const T* __restrict by_cov, const Input& x,
             int64_t in) {
    double m = 0, r = 0, v = 0, b = 0;
#pragma omp simd reduction(+ : m, r, v, b)
    for (int64_t i = 0; i < in; ++i) {
      const double wi = w[i];
      m += wi * x.mean[i];
      v += wi * by_cov[i];
      b += wi * wi * x.power[i];
      r += wi * x.raw[i];
    }
    mean = m, raw = r, var = v, bound = b;
  }
  Statistics(const Input& x, int64_t o)
      : mean(x.mean[o]), raw(x.raw[o]), var(x.var[o]), bound(x.power[o]) {}
};

// by_cov (convs, out, in): kernels times covariance. Fills weight (out, in),
// bias (out), stats (2, J, out: mean and biased variance of each branch) and
// kept (out, J). direct (J, out), of values (2, J, out), mean and variance:
// without values it is filled, with variances that are smaller than `least`
// times the sum that they are part of.
template <class T>
void fold(const Params<T>& params, const double* eps, double least,
          const Input& x, const T* by_cov, const Direct& direct,
          const Sizes& s, T* weight, T* bias, double* stats, Kept* kept) {
  const int64_t all = s.branches * s.out;
#pragma omp parallel num_threads(s.threads)
  {
    std::vector<double> folded(s.in);
#pragma omp for schedule(static)
    for (int64_t o = 0; o < s.out; ++o) {
      std::fill(folded.begin(), folded.end(), 0.);
      double shift = 0;
      const T* by = by_cov + o * s.in;
      for (int64_t j = 0; j < s.branches; ++j) {
        const int64_t at = j * s.out + o;
        const T* w = params.size(j) ? params.kernel(j) + o * s.in : nullptr;
        Statistics is = w ? Statistics(w, by, x, s.in) : Statistics(x, o);
        if (w) by += s.out * s.in;
        if (direct(at)) {
          is.raw += direct.values[at] - is.mean;
          is.mean = direct.values[at], is.var = direct.values[all + at];
        }
        is.var = std::max(is.var, 0.);
        if (!direct.values)
          direct.marks[at] = is.var + eps[j] < is.bound * least;
        const double inv_std = 1 / std::sqrt(is.var + eps[j]);
        kept[o * s.branches + j] = {is.mean, inv_std};
        stats[at] = is.raw;
        stats[all + at] = is.var;
        const double scale = params.gamma(j, o) * inv_std;
        if (w)
          for (int64_t i = 0; i < s.in; ++i) folded[i] += scale * w[i];
        else
          folded[o] += scale;
        shift += params.beta(j, o);
      }
      // The mean is taken off as the rounded weight sees it.
      T* row = weight + o * s.in;
      for (int64_t i = 0; i < s.in; ++i) {
        row[i] = static_cast<T>(folded[i]);
        shift -= row[i] * x.raw[i];
      }
      bias[o] = static_cast<T>(shift);
    }
  }
}

// From gradients to the folded weight (out, in) and bias (out) to those of
// parameters, in tensors like them. by_var (J, out): twice the gradient to
// variances; scaled (convs, out, in): kernels times it; by_mean (J, out).
// direct: gradients to scales (J, out).
template <class T>
void unfold(const Params<T>& params, const double* patch_mean,
            const T* by_cov, const Kept* kept, const T* grad_weight,
            const T* grad_bias, const Direct& direct, const Sizes& s,
            T* const* grads, T* by_var, T* by_mean, T* scaled) {
#pragma omp parallel for num_threads(s.threads) schedule(static)
  for (int64_t o = 0; o < s.out; ++o) {
    const T *__restrict own = grad_weight + o * s.in;
    const double by_bias = grad_bias[o];
    int64_t conv = o * s.in;
    for (int64_t j = 0; j < s.branches; ++j) {
      const int64_t at = j * s.out + o;
      const Kept& is = kept[o * s.branches + j];
      const T* __restrict w =
          params.size(j) ? params.kernel(j) + o * s.in : nullptr;
      double by_scale = w ? 0 : own[o];
      if (w) {
#pragma omp simd reduction(+ : by_scale)
        for (int64_t i = 0; i < s.in; ++i)
          by_scale += static_cast<double>(w[i]) * own[i];
      }
      by_scale = direct(at) ? direct.values[at] : by_scale - by_bias * is.mean;
      const double scale = params.gamma(j, o) * is.inv_std;
      const double twice = -by_scale * scale * is.inv_std * is.inv_std;
      const double to_mean = -by_bias * scale;
      by_var[at] = static_cast<T>(twice);
      by_mean[at] = static_cast<T>(to_mean);
      if (w) {
        const T* __restrict by = by_cov + conv;
        T *__restrict to = grads[j] + o * s.in,
          *__restrict times = scaled + conv;
        conv += s.out * s.in;
        for (int64_t i = 0; i < s.in; ++i) {
          to[i] = static_cast<T>(twice * by[i] + scale * own[i] +
                                 to_mean * patch_mean[i]);
          times[i] = static_cast<T>(twice * w[i]);
        }
      }
      T *gamma = grads[s.branches + j], *beta = grads[2 * s.branches + j];
      if (gamma) gamma[o] = static_cast<T>(by_scale * is.inv_std);
      if (beta) beta[o] = grad_bias[o];
    }
  }
}

}  // namespace

#define FOR_TYPE(T, NAME)                                                    \
  extern "C" void pointwise_fold_##NAME(                                     \
      const T* const* params, const int64_t* sizes, const double* eps,       \
      const double* least, const double* mean, const double* raw,            \
      const double* var, const double* power, const T* by_cov,               \
      uint8_t* marks, const double* values, const int64_t* s, T* weight,     \
      T* bias, double* stats, double* kept) {                                \
    const auto& shape = *reinterpret_cast<const Sizes*>(s);                  \
    fold(Params<T>(params, sizes, shape.branches), eps, *least,              \
         Input{mean, raw, var, power}, by_cov, Direct{marks, values},      \
         shape, weight, bias, stats, reinterpret_cast<Kept*>(kept));         \
  }                                                                          \
  extern "C" void pointwise_unfold_##NAME(                                   \
      const T* const* params, const int64_t* sizes,                          \
      const double* patch_mean, const T* by_cov, const double* kept,         \
      const T* grad_weight, const T* grad_bias, uint8_t* marks,              \
      const double* values, const int64_t* s, T* const* grads, T* by_var,    \
      T* by_mean, T* scaled) {                                               \
    const auto& shape = *reinterpret_cast<const Sizes*>(s);                  \
    unfold(Params<T>(params, sizes, shape.branches), patch_mean, by_cov,     \
           reinterpret_cast<const Kept*>(kept), grad_weight, grad_bias,      \
           Direct{marks, values}, shape, grads, by_var, by_mean, scaled);    \
  }
FOR_TYPE(float, float32)
FOR_TYPE(double, float64)
