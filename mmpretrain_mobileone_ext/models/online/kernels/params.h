// Parameters of a unit's branches, for the kernels that fold them.
#pragma once
#include <cstdint>

namespace {

// Kernels, then gammas, then betas, of all branches. A null kernel is the
// skip branch, a null gamma 1, a null beta 0.
template <class T>
class Params {
 public:
  // sizes: of kernels; 3, 1, or 0 for the skip branch.
  Params(const T* const* tensors, const int64_t* sizes, int64_t branches)
      : tensors_(tensors), sizes_(sizes), n_(branches) {}
  int64_t size(int64_t j) const { return sizes_[j]; }
  const T* kernel(int64_t j) const { return tensors_[j]; }
  double gamma(int64_t j, int64_t c) const { return value(n_ + j, c, 1); }
  double beta(int64_t j, int64_t c) const { return value(2 * n_ + j, c, 0); }

 private:
  double value(int64_t i, int64_t c, double other) const {
    return tensors_[i] ? tensors_[i][c] : other;
  }
  const T* const* tensors_;
  const int64_t* sizes_;
  int64_t n_;
};

// Of branches (J, channels) whose statistics do not come from moments: which
// they are, and what is known of them. Null: none are known.
struct Direct {
  uint8_t* marks;
  const double* values;

  bool operator()(int64_t at) const { return values && marks[at]; }
};

}  // namespace
