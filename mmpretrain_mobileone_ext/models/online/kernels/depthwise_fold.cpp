// Fold the branches of a depthwise 3x3 unit by the moments of its patches,
// and hand gradients back. Called by native_fold.py; batch_fold.py has the
// formulas and is the oracle. All sums are double; patches, and the means that
// are kept, are around a pivot of their channel.
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "params.h"

namespace {

constexpr int kTaps = 9;
constexpr int kMoments = kTaps * kTaps + kTaps;  // of a channel
constexpr int kOfBranch = kTaps + 2;             // of a channel's state

struct Sizes {
  int64_t channels, branches, count, threads;

  int64_t state() const { return kTaps + branches * kOfBranch; }
};

double dot(const double* a, const double* b) {
  double sum = 0;
  for (int t = 0; t < kTaps; ++t) sum += a[t] * b[t];
  return sum;
}

// A branch's kernel of channel c, padded with zeros to 3x3.
template <class T>
void read_kernel(const Params<T>& params, int64_t j, int64_t c, double* w) {
  std::fill(w, w + kTaps, 0.);
  if (params.size(j) == 3)
    std::copy_n(params.kernel(j) + c * kTaps, kTaps, w);
  else
    w[kTaps / 2] = params.size(j) ? params.kernel(j)[c] : 1;
}

// Mean, covariance and power of a channel's patches.
struct Patch {
  double mean[kTaps], cov[kTaps][kTaps], power[kTaps];

  Patch(const double* moments, double count) {
    const double* sums = moments + kTaps * kTaps;
    for (int t = 0; t < kTaps; ++t) mean[t] = sums[t] / count;
    for (int t = 0; t < kTaps; ++t) {
      for (int u = 0; u < kTaps; ++u)
        cov[t][u] = moments[t * kTaps + u] / count - mean[t] * mean[u];
      power[t] = moments[t * kTaps + t] / count;
    }
  }
};

// moments (C, 90) around pivot (C). Fills weight (C, 9), bias (C), stats (2,
// J, C: mean and biased variance of each branch) and state (C, of patch means,
// then, of each branch, its kernel times covariance, its mean and 1 / std).
// direct (J, C), of values as in a state, but a variance for 1 / std: without
// values it is filled, with variances that are smaller than `least` times the
// sum that they are part of.
template <class T>
void fold(const Params<T>& params, const double* eps, double least,
          const double* moments, const double* pivot, const Direct& direct,
          const Sizes& s, T* weight, T* bias, double* stats, double* state) {
#pragma omp parallel for num_threads(s.threads)
  for (int64_t c = 0; c < s.channels; ++c) {
    const Patch patch(moments + c * kMoments, s.count);
    double* kept = state + c * s.state();
    std::copy_n(patch.mean, kTaps, kept);
    kept += kTaps;
    double folded[kTaps] = {}, shift = 0, w[kTaps];
    for (int64_t j = 0; j < s.branches; ++j, kept += kOfBranch) {
      const int64_t at = j * s.channels + c;
      read_kernel(params, j, c, w);
      double var, bound = 0, total = 0;
      if (direct(at)) {
        std::copy_n(direct.values + at * kOfBranch, kOfBranch, kept);
        var = kept[kTaps + 1];
      } else {
        for (int t = 0; t < kTaps; ++t) kept[t] = dot(w, patch.cov[t]);
        kept[kTaps] = dot(w, patch.mean);
        var = dot(w, kept);
      }
      for (int t = 0; t < kTaps; ++t) {
        bound += w[t] * w[t] * patch.power[t];
        total += w[t];
      }
      var = std::max(var, 0.);
      if (!direct.values) direct.marks[at] = var + eps[j] < bound * least;
      const double inv_std = 1 / std::sqrt(var + eps[j]);
      kept[kTaps + 1] = inv_std;
      stats[at] = kept[kTaps] + total * pivot[c];
      stats[s.branches * s.channels + at] = var;
      const double scale = params.gamma(j, c) * inv_std;
      for (int t = 0; t < kTaps; ++t) folded[t] += scale * w[t];
      shift += params.beta(j, c);
    }
    // The mean is taken off as the rounded weight sees it.
    for (int t = 0; t < kTaps; ++t) {
      const T rounded = static_cast<T>(folded[t]);
      weight[c * kTaps + t] = rounded;
      shift -= rounded * (patch.mean[t] + pivot[c]);
    }
    bias[c] = static_cast<T>(shift);
  }
}

// From gradients to the folded weight (C, 9) and bias (C) to those of
// parameters, in tensors like them, and moves (C, 90): to the sums of
// products, twice, and to the sums. direct: gradients to scales.
template <class T>
void unfold(const Params<T>& params, const double* state,
            const double* grad_weight, const double* grad_bias,
            const Direct& direct, const Sizes& s, T* const* grads,
            double* moves) {
#pragma omp parallel for num_threads(s.threads)
  for (int64_t c = 0; c < s.channels; ++c) {
    const double *patch_mean = state + c * s.state(),
                 *kept = patch_mean + kTaps;
    const double *by_weight = grad_weight + c * kTaps, by_bias = grad_bias[c];
    double *products = moves + c * kMoments, w[kTaps];
    double* sums = products + kTaps * kTaps;
    std::fill(products, products + kMoments, 0.);
    for (int64_t j = 0; j < s.branches; ++j, kept += kOfBranch) {
      read_kernel(params, j, c, w);
      const double mean = kept[kTaps], inv_std = kept[kTaps + 1];
      const double scale = params.gamma(j, c) * inv_std;
      const int64_t at = j * s.channels + c;
      const double by_scale =
          direct(at) ? direct.values[at] : dot(w, by_weight) - by_bias * mean;
      const double twice_by_var = -by_scale * scale * inv_std * inv_std;
      const double by_mean = -by_bias * scale;
      for (int t = 0; t < kTaps; ++t) {
        for (int u = 0; u < kTaps; ++u)
          products[t * kTaps + u] += twice_by_var * w[t] * w[u] / s.count;
        sums[t] += by_mean * w[t] / s.count;
      }
      const auto own = [&](int t) {
        return static_cast<T>(twice_by_var * kept[t] + scale * by_weight[t] +
                              by_mean * patch_mean[t]);
      };
      if (params.size(j) == 3)
        for (int t = 0; t < kTaps; ++t) grads[j][c * kTaps + t] = own(t);
      else if (params.size(j))
        grads[j][c] = own(kTaps / 2);
      T *gamma = grads[s.branches + j], *beta = grads[2 * s.branches + j];
      if (gamma) gamma[c] = static_cast<T>(by_scale * inv_std);
      if (beta) beta[c] = static_cast<T>(by_bias);
    }
    for (int t = 0; t < kTaps; ++t)
      sums[t] -= dot(products + t * kTaps, patch_mean);
  }
}

}  // namespace

#define FOR_TYPE(T, NAME)                                                    \
  extern "C" void depthwise_fold_##NAME(                                     \
      const T* const* params, const int64_t* sizes, const double* eps,       \
      const double* least, const double* moments, const double* pivot,       \
      uint8_t* marks, const double* values, const int64_t* s, T* weight,     \
      T* bias, double* stats, double* state) {                               \
    const auto& shape = *reinterpret_cast<const Sizes*>(s);                  \
    fold(Params<T>(params, sizes, shape.branches), eps, *least, moments,     \
         pivot, Direct{marks, values}, shape, weight, bias, stats, state);   \
  }                                                                          \
  extern "C" void depthwise_unfold_##NAME(                                   \
      const T* const* params, const int64_t* sizes, const double* state,     \
      const double* grad_weight, const double* grad_bias, uint8_t* marks,    \
      const double* values, const int64_t* s, T* const* grads,               \
      double* moves) {                                                       \
    const auto& shape = *reinterpret_cast<const Sizes*>(s);                  \
    unfold(Params<T>(params, sizes, shape.branches), state, grad_weight,     \
           grad_bias, Direct{marks, values}, shape, grads, moves);           \
  }
FOR_TYPE(float, float32)
FOR_TYPE(double, float64)
