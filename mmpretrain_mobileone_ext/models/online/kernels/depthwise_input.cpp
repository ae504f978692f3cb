// Depthwise 3x3 convolution with padding 1, any stride: gradient to its
// input. Called by convs.py, where PatchConv is the oracle. Tensors are
// (N, H, W, C) contiguous.
//
// Gradients by way of the moments reach an input pixel q from every pixel
// that shares a patch with it, at most two rows and columns away: a 5x5
// stencil that depends on which taps q serves (three of a row and a column
// inside; fewer at borders and between strides). Pixels are taken around a
// pivot of their channel; outside the image they are 0, so minus the pivot.
#include "packed.h"

namespace {

constexpr int kStencil = 25 + 1;  // 5x5 coefficients and a constant
constexpr int kRun = 4;           // pixels that share a coefficient load

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

// What `moves` (C, 90: factors of products of taps, and of taps) do to the
// gradient of a position that serves the taps of both masks.
template <class T>
void fill_stencil(const double* moves, int rows, int cols, T* out) {
  constexpr int L = Simd<T>::line;
  double sum[kStencil] = {};
  for (int t = 0; t < kTaps; ++t) {
    if (!(rows >> t / 3 & 1 && cols >> t % 3 & 1)) continue;
    sum[25] += moves[kTaps * kTaps + t];
    for (int u = 0; u < kTaps; ++u)
      sum[(u / 3 - t / 3 + 2) * 5 + u % 3 - t % 3 + 2] += moves[t * kTaps + u];
  }
  for (int k = 0; k < kStencil; ++k) out[k * L] = static_cast<T>(sum[k]);
}

// Stencils of all channels and pairs of masks, and the folded weight, a line
// of channels at a time; zeros after the last channel.
template <class T>
class Coefficients {
 public:
  Coefficients(const Shape& s, const double* moves, const T* weight)
      : weight_(s.blocks(L) * kTaps * L) {
    const auto rows = masks(s.h, s.stride, s.ho);
    const auto cols = masks(s.w, s.stride, s.wo);
    stencils_.resize(s.blocks(L) * rows.size() * cols.size() * kStencil * L);
    int64_t made = 0;
    for (int row : rows)
      for (int col : cols) class_of_[row * 8 + col] = made++;
    classes_ = made;
    for (int64_t c = 0; c < s.c; ++c) {
      for (int t = 0; t < kTaps; ++t)
        weight_[(c / L * kTaps + t) * L + c % L] = weight[c * kTaps + t];
      for (int row : rows)
        for (int col : cols)
          fill_stencil(moves + c * kMoments, row, col,
                       stencils_.data() + at(c / L, row, col) + c % L);
    }
  }
  const T* stencil(int64_t block, int row, int col) const {
    return stencils_.data() + at(block, row, col);
  }
  const T* weight(int64_t block) const {
    return weight_.data() + block * kTaps * L;
  }

 private:
  static constexpr int L = Simd<T>::line;
  static std::vector<int> masks(int64_t size, int64_t stride,
                                int64_t outputs) {
    std::vector<int> found;
    for (int64_t q = 0; q < size; ++q) {
      const int mask = taps_at(q, stride, outputs);
      if (std::find(found.begin(), found.end(), mask) == found.end())
        found.push_back(mask);
    }
    return found;
  }
  int64_t at(int64_t block, int row, int col) const {
    return (block * classes_ + class_of_[row * 8 + col]) * kStencil * L;
  }
  int64_t class_of_[64], classes_;
  std::vector<T> stencils_, weight_;
};

// pivot (C); weight (C, 9); moves (C, 90) as in `fill_stencil`.
template <class T>
void input_grad(const T* x, const T* pivot, const T* dy, const T* active,
                const T* weight, const double* moves, const Shape& s, T* dx) {
  constexpr int L = Simd<T>::line;
  decltype(&pixels<T, 1>) const by_count[kRun] = {
      pixels<T, 1>, pixels<T, 2>, pixels<T, 3>, pixels<T, 4>};
  const Bands bands(s.n, s.h, s.w);
  const int64_t xpitch = (s.w + 4) * L, gpitch = s.wo * L;
  const Columns columns(s);
  const Coefficients<T> coefficients(s, moves, weight);
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
        const PivotLine<T> line(pivot, c0, s.c);
        pack<T>(x + image * s.h * s.w * s.c, nullptr, s.h, s.w, s.c, c0,
                first - 2, rows + 4, 2, xs.get(),
                {line.pivot, line.negated});
        const int64_t at_image = image * s.ho * s.wo * s.c;
        pack<T>(dy + at_image, active ? active + at_image : nullptr, s.ho,
                s.wo, s.c, c0, low, std::max<int64_t>(0, high - low + 1), 0,
                grads.get());
        for (int64_t r = 0; r < rows; ++r) {
          const Position row(first + r, s.stride, s.ho, low);
          for (int64_t phase = 0; phase < std::min(s.stride, s.w); ++phase)
            for (int64_t col = phase, run; col < s.w; col += run * s.stride) {
              const Position& at = columns.at[col];
              run = columns.run[col];
              by_count[run - 1](
                  xs.get() + (r + 2) * xpitch + (col + 2) * L, xpitch,
                  grads.get(), gpitch,
                  coefficients.stencil(block, row.mask, at.mask),
                  coefficients.weight(block), row, at, s.stride * L,
                  out.get() + col * L);
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

#define FOR_TYPE(T, NAME)                                                     \
  extern "C" void input_grad_##NAME(                                          \
      const T* x, const T* pivot, const T* dy, const T* active,               \
      const T* weight, const double* moves, const int64_t* s, T* dx) {        \
    input_grad(x, pivot, dy, active, weight, moves,                           \
               *reinterpret_cast<const Shape*>(s), dx);                       \
  }
FOR_TYPE(float, float32)
FOR_TYPE(double, float64)
