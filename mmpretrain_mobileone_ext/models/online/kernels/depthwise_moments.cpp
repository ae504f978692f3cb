// Moments of the patches of a depthwise 3x3 convolution with padding 1.
// Called by convs.py, where PatchConv is the oracle. Images are (N, H, W, C)
// contiguous.
//
// They are taken around a pivot of the channel. Outside the image patches are
// 0, so minus the pivot.
//
// Between strides each pair of taps meets pixels of its own. With stride 1 a
// pair meets those that any pair so far apart meets, but for a row or column
// at the border: 13 sums over the image instead of 45.
#include "packed.h"

namespace {

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
void moments_by_taps(const T* x, const T* pivot, const Shape& s, double* out) {
  constexpr int L = Simd<T>::line, W = Simd<T>::width;
  const Bands bands(s.n, s.ho, s.w * s.stride);
  const int64_t pitch = (s.w + 2) * L;
  Sums sums(s.threads, kMoments * s.c);
#pragma omp parallel num_threads(s.threads)
  {
    Buffer<T> packed((bands.rows * s.stride + 2) * pitch);
#pragma omp for schedule(static)
    for (int64_t job = 0; job < bands.count; ++job) {
      const int64_t rows = bands.size(job);
      const T* image = x + bands.image(job) * s.h * s.w * s.c;
      for (int64_t c0 = 0; c0 < s.c; c0 += L) {
        const PivotLine<T> line(pivot, c0, s.c);
        pack<T>(image, nullptr, s.h, s.w, s.c, c0,
                bands.first(job) * s.stride - 1, (rows - 1) * s.stride + 3, 1,
                packed.get(), {line.pivot, line.negated});
        for (int64_t at = c0; at < std::min(c0 + L, s.c); at += W) {
          double* to = sums.mine() + at;
          const Band<T> band{packed.get() + at - c0, rows, pitch,
                             s.stride * L, s.wo, s.stride};
          for_tiles(rows, s.wo, kSumPixels, [&](int64_t r, int64_t i,
                                                int64_t high, int64_t wide) {
            const Band<T> tile = band.tile(r, i, high, wide);
            for (int a = 0; a < 3; ++a)
              for (int b = a; b < 3; ++b)
                products(tile, a, b, to, s.c, s.c - at);
            tap_sums(tile, to + kTaps * kTaps * s.c, s.c, s.c - at);
          });
        }
      }
    }
  }
  by_channel(sums.total(), s.c, out);
}

// Sums over an image, around the pivot and 0 outside: products with the pixel
// at a lag (row 0: columns 0 to 2, rows 1 and 2: columns -2 to 2), pixels, and
// the same of border lines; of the lines beside them and of what lies within
// two pixels of a corner, pixels only.
constexpr int kLags = 13;
enum Line { kTop, kBottom, kLeft, kRight, kCorners, kLines = kCorners + 4 };
constexpr int kOfLine = 4;  // pixels, and products at lags 0 to 2 along it
constexpr int kSecond = kLags + 1 + kLines * kOfLine;
constexpr int kNear = kSecond + kCorners;
constexpr int kLagSums = kNear + 4 * 4;

int lag(int down, int right) {
  return down ? 3 + (down - 1) * 5 + right + 2 : right;
}
int of_line(int line) { return kLags + 1 + line * kOfLine; }
int corner(int row_line, int col_line) {
  return kCorners + (row_line - kTop) * 2 + col_line - kLeft;
}
// The pixel at a corner, `down` rows and `right` columns from it.
int near(int corner, int down, int right) {
  return kNear + (corner - kCorners) * 4 + down * 2 + right;
}

// x: the first of `rows` rows of `w` pixels, two more rows and two columns on
// each side around them.
template <class T>
void lag_sums(const T* x, int64_t rows, int64_t w, int64_t pitch, double* out,
              int64_t c, int64_t live) {
  constexpr int L = Simd<T>::line;
  typename Simd<T>::V sum[kLags + 1] = {};
  for (int64_t r = 0; r < rows; ++r, x += pitch)
    for (int64_t i = 0; i < w; ++i) {
      const T* p = x + i * L;
      const auto v = load(p);
      for (int k = 0; k < 3; ++k) sum[k] += v * load(p + k * L);
      for (int k = 0; k < 5; ++k) {
        sum[3 + k] += v * load(p + pitch + (k - 2) * L);
        sum[8 + k] += v * load(p + 2 * pitch + (k - 2) * L);
      }
      sum[kLags] += v;
    }
  for (int k = 0; k <= kLags; ++k) add_to<T>(out + k * c, sum[k], live);
}

// `count` pixels, `step` elements apart.
template <class T>
void line_sums(const T* x, int64_t count, int64_t step, double* out,
               int64_t c, int64_t live) {
  typename Simd<T>::V sum[kOfLine] = {};
  for (int64_t i = 0; i < count; ++i, x += step) {
    const auto v = load(x);
    sum[0] += v;
    for (int k = 0; k < 3; ++k) sum[1 + k] += v * load(x + k * step);
  }
  for (int k = 0; k < kOfLine; ++k) add_to<T>(out + k * c, sum[k], live);
}

template <class T>
void add_pixels(const T* x, int64_t count, int64_t step, double* out,
                int64_t live) {
  typename Simd<T>::V sum = {};
  for (int64_t i = 0; i < count; ++i, x += step) sum += load(x);
  add_to<T>(out, sum, live);
}

// Border rows of a band as below: `row` is -1 where it lies elsewhere.
template <class T>
void border_row(const T* x, int64_t row, int64_t rows, int64_t pitch,
                int name, int second, const Shape& s, double* out,
                int64_t live) {
  constexpr int L = Simd<T>::line;
  if (row < 0 || row >= rows) return;
  const T* from = x + row * pitch;
  if (second)
    add_pixels(from, s.w, L, out + (kSecond + name) * s.c, live);
  else
    line_sums(from, s.w, L, out + of_line(name) * s.c, s.c, live);
  for (int side : {kLeft, kRight}) {
    const int64_t end = side == kLeft ? 0 : s.w - 1, in = side == kLeft ? 1 : -1;
    const int at = corner(name, side);
    if (!second)
      line_sums(from + end * L, 1, L, out + of_line(at) * s.c, s.c, live);
    for (int right = 0; right < 2; ++right)
      add_pixels(from + (end + in * right) * L, 1, L,
                 out + near(at, second, right) * s.c, live);
  }
}

// Sums of a band, rows [first, first + rows) of an image, into out (kLagSums,
// c).
template <class T>
void band_sums(const T* x, int64_t first, int64_t rows, int64_t pitch,
               const Shape& s, double* out, int64_t live) {
  constexpr int L = Simd<T>::line;
  for_tiles(rows, s.w, kSumPixels, [&](int64_t r, int64_t i, int64_t high,
                                       int64_t wide) {
    lag_sums(x + r * pitch + i * L, high, wide, pitch, out, s.c, live);
  });
  const int64_t end = (s.w - 1) * L;
  line_sums(x, rows, pitch, out + of_line(kLeft) * s.c, s.c, live);
  line_sums(x + end, rows, pitch, out + of_line(kRight) * s.c, s.c, live);
  add_pixels(x + L, rows, pitch, out + (kSecond + kLeft) * s.c, live);
  add_pixels(x + end - L, rows, pitch, out + (kSecond + kRight) * s.c, live);
  for (int second = 0; second < 2; ++second) {
    border_row(x, second - first, rows, pitch, kTop, second, s, out, live);
    border_row(x, s.h - 1 - second - first, rows, pitch, kBottom, second, s,
               out, live);
  }
}

// The border line that a tap never meets, by its row or column; -1: none.
int missed(int tap, int before, int after) {
  return tap == 0 ? after : tap == 2 ? before : -1;
}

// Products of taps t <= u, and sums of tap t, from sums by lags; `pick(k)` is
// the k-th, of a channel or of several.
template <class Pick>
auto product_of_taps(int t, int u, Pick pick) {
  const int down = u / 3 - t / 3, right = u % 3 - t % 3;
  const int row = down ? -1 : missed(t / 3, kTop, kBottom);
  const int col = right ? -1 : missed(t % 3, kLeft, kRight);
  auto sum = pick(lag(down, right));
  if (row >= 0) sum -= pick(of_line(row) + 1 + right);
  if (col >= 0) sum -= pick(of_line(col) + 1 + down);
  if (row >= 0 && col >= 0) sum += pick(of_line(corner(row, col)) + 1);
  return sum;
}

template <class Pick>
auto sum_of_tap(int t, Pick pick) {
  const int row = missed(t / 3, kTop, kBottom);
  const int col = missed(t % 3, kLeft, kRight);
  auto sum = pick(kLags);
  if (row >= 0) sum -= pick(of_line(row));
  if (col >= 0) sum -= pick(of_line(col));
  if (row >= 0 && col >= 0) sum += pick(of_line(corner(row, col)));
  return sum;
}

// Lines at the start (kTop or kLeft) and at the end of an axis that output
// pixels leave out whose taps t and u lie in the image, as seen from tap t.
struct Cut {
  int line, count;

  Cut(int t, int u, int before, int after)
      : line(t == 2 || u < t ? before : after),
        count(std::max({0, t - 1, t - u, 1 - t, u - t})) {}
};

// Sum of tap t over the outputs whose tap u lies in the image too.
template <class Pick>
auto sum_where_inside(int t, int u, Pick pick) {
  const Cut row(t / 3, u / 3, kTop, kBottom), col(t % 3, u % 3, kLeft, kRight);
  auto sum = pick(kLags);
  for (const Cut& cut : {row, col}) {
    if (cut.count > 0) sum -= pick(of_line(cut.line));
    if (cut.count > 1) sum -= pick(kSecond + cut.line);
  }
  for (int down = 0; down < row.count; ++down)
    for (int right = 0; right < col.count; ++right)
      sum += pick(near(corner(row.line, col.line), down, right));
  return sum;
}

// Outputs whose taps t and u both lie in the image.
double count_inside(int t, int u, const Shape& s) {
  const Cut row(t / 3, u / 3, kTop, kBottom), col(t % 3, u % 3, kLeft, kRight);
  return double(s.n) * (s.h - row.count) * (s.w - col.count);
}

// Moments of a vector of channels from their sums by lags, where what is
// outside the image counts as minus the pivot instead of 0.
template <class V, class Pick>
void moments_of_channels(Pick pick, const V& pivot, const Shape& s, V* out) {
  const double all = double(s.n) * s.h * s.w;
  V sums[kTaps];
  for (int t = 0; t < kTaps; ++t) {
    sums[t] = sum_of_tap(t, pick);
    out[kTaps * kTaps + t] = sums[t] - pivot * (all - count_inside(t, t, s));
  }
  for (int t = 0; t < kTaps; ++t)
    for (int u = t; u < kTaps; ++u) {
      const V apart = sums[t] - sum_where_inside(t, u, pick) + sums[u] -
                      sum_where_inside(u, t, pick);
      const double outside = all - count_inside(t, t, s) -
                             count_inside(u, u, s) + count_inside(t, u, s);
      out[t * kTaps + u] = out[u * kTaps + t] =
          product_of_taps(t, u, pick) - pivot * apart +
          pivot * pivot * outside;
    }
}

// total (kLagSums, C) to out (C, 90).
template <class T>
void moments_of_lags(const std::vector<double>& total, const T* pivot,
                     const Shape& s, double* out) {
  using V = typename Simd<double>::V;
  constexpr int W = Simd<double>::width;
  for (int64_t c = 0; c < s.c; c += W) {
    const int64_t live = std::min<int64_t>(W, s.c - c);
    V found[kMoments], around = {};
    for (int64_t i = 0; i < live; ++i) around[i] = pivot[c + i];
    const auto pick = [&](int k) {
      const double* from = total.data() + k * s.c + c;
      if (live == W) return V(load(from));
      V few = {};
      for (int64_t i = 0; i < live; ++i) few[i] = from[i];
      return few;
    };
    moments_of_channels(pick, around, s, found);
    for (int64_t i = 0; i < live; ++i)
      for (int k = 0; k < kMoments; ++k)
        out[(c + i) * kMoments + k] = found[k][i];
  }
}

// As `moments_by_taps`, for stride 1.
template <class T>
void moments_by_lags(const T* x, const T* pivot, const Shape& s, double* out) {
  constexpr int L = Simd<T>::line, W = Simd<T>::width;
  const Bands bands(s.n, s.h, s.w);
  const int64_t pitch = (s.w + 4) * L;
  Sums sums(s.threads, kLagSums * s.c);
#pragma omp parallel num_threads(s.threads)
  {
    Buffer<T> packed((bands.rows + 2) * pitch);
#pragma omp for schedule(static)
    for (int64_t job = 0; job < bands.count; ++job) {
      const int64_t first = bands.first(job), rows = bands.size(job);
      const T* image = x + bands.image(job) * s.h * s.w * s.c;
      for (int64_t c0 = 0; c0 < s.c; c0 += L) {
        const PivotLine<T> line(pivot, c0, s.c);
        pack<T>(image, nullptr, s.h, s.w, s.c, c0, first, rows + 2, 2,
                packed.get(), {line.pivot, nullptr});
        for (int64_t at = c0; at < std::min(c0 + L, s.c); at += W)
          band_sums(packed.get() + 2 * L + at - c0, first, rows, pitch, s,
                    sums.mine() + at, s.c - at);
      }
    }
  }
  moments_of_lags(sums.total(), pivot, s, out);
}

// On a line of pixels some taps are never met: their sums are 0, not what
// rounding leaves of a difference.
template <class T>
void moments(const T* x, const T* pivot, const Shape& s, double* out) {
  if (s.stride == 1 && s.h > 1 && s.w > 1)
    moments_by_lags(x, pivot, s, out);
  else
    moments_by_taps(x, pivot, s, out);
}

}  // namespace

#define FOR_TYPE(T, NAME)                                                  \
  extern "C" void moments_##NAME(const T* x, const T* pivot,               \
                                 const int64_t* s, double* out) {          \
    moments(x, pivot, *reinterpret_cast<const Shape*>(s), out);            \
  }
FOR_TYPE(float, float32)
FOR_TYPE(double, float64)
