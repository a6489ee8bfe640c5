// What one CUDA thread does, as functions of its index that the host can run too.
#pragma once

#include "maths.h"

namespace face {

template <typename T, int V>
struct alignas(sizeof(T) * V) Pack {
  T at[V];
};

// Any factors and taps, one output element per index.
template <typename T>
FACE_HD void filter_point(const T* x, T* y, const Filter<Work<T>>& f, const Epilogue<Work<T>>* e, int64_t index) {
  using W = Work<T>;
  int64_t n, c, oy, ox, rest = index;
  if (f.channels_last) {
    c = rest % f.c, rest /= f.c, ox = rest % f.out_w, rest /= f.out_w, oy = rest % f.out_h, n = rest / f.out_h;
  } else {
    ox = rest % f.out_w, rest /= f.out_w, oy = rest % f.out_h, rest /= f.out_h, c = rest % f.c, n = rest / f.c;
  }
  const int64_t step = f.channels_last ? f.c : 1;
  const T* plane = x + (f.channels_last ? n * f.h * f.w * f.c + c : (n * f.c + c) * f.h * f.w);
  W sum = 0;
  for (int ky = first_tap(oy, f.up, f.down, f.pad_y); ky < f.kh; ky += f.up) {
    const int64_t row = source_of(oy, ky, f.up, f.down, f.pad_y);
    if (row < 0 || row >= f.h) continue;
    for (int kx = first_tap(ox, f.up, f.down, f.pad_x); kx < f.kw; kx += f.up) {
      const int64_t column = source_of(ox, kx, f.up, f.down, f.pad_x);
      if (column < 0 || column >= f.w) continue;
      sum += f.full[ky * f.kw + kx] * widen(plane[(row * f.w + column) * step]);
    }
  }
  y[index] = narrow<T>(e ? finish(sum, *e, n, c, f.c, oy * f.out_w + ox) : sum);
}

// Rows of outputs that one strip covers.
template <int DOWN>
struct StripRows {
  static constexpr int value = DOWN == 2 ? 4 : 8;
};

template <int UP>
FACE_HD int64_t strip_count(int64_t out_h, int rows, int pad_y) {
  return (out_h + (UP == 2 ? pad_y & 1 : 0) + rows - 1) / rows;
}

// Separable 4 taps, factors known: a strip of R output rows of one column, V channels (channels-last) or one.
// Each source row is filtered horizontally once and added to every output row that it meets.
template <typename T, int UP, int DOWN, int V, bool ACT>
FACE_HD void filter_strip(const T* x, T* y, const Filter<float>& f, const Epilogue<float>& e, int64_t index) {
  constexpr int R = StripRows<DOWN>::value;
  constexpr int IN = ((R - 1) * DOWN + 3) / UP + 1;
  const int64_t groups = f.channels_last ? f.c / V : 1;
  const int64_t strips = strip_count<UP>(f.out_h, R, f.pad_y);
  const int64_t c = index % groups * V, ox = index / groups % f.out_w;
  const int64_t above = index / (groups * f.out_w), strip = above % strips, plane = above / strips;
  const int64_t step = f.channels_last ? f.c : 1, size = f.h * f.w * step, out_size = f.out_h * f.out_w * step;
  // Strips begin where the zero-inserted image has a pixel under the first tap, so that all tap numbers are constants.
  const int64_t oy = strip * R - (UP == 2 ? f.pad_y & 1 : 0);
  const int64_t top = (oy * DOWN - f.pad_y) / UP;
  const int kx = UP == 2 ? first_tap(ox, UP, DOWN, f.pad_x) : 0;
  const int64_t left = source_of(ox, kx, UP, DOWN, f.pad_x);
  float sums[R][V];
#pragma unroll
  for (int r = 0; r < R; ++r) {
#pragma unroll
    for (int v = 0; v < V; ++v) sums[r][v] = 0.0f;
  }
#pragma unroll
  for (int i = 0; i < IN; ++i) {
    if (top + i < 0 || top + i >= f.h) continue;
    float across[V];
#pragma unroll
    for (int v = 0; v < V; ++v) across[v] = 0.0f;
#pragma unroll
    for (int k = 0; k < 4 / UP; ++k) {
      const int64_t column = left + k;
      if (column < 0 || column >= f.w) continue;
      const auto pack = *reinterpret_cast<const Pack<T, V>*>(x + plane * size + ((top + i) * f.w + column) * step + c);
      const float tap = UP == 2 ? (kx ? f.x[2 * k + 1] : f.x[2 * k]) : f.x[k];
#pragma unroll
      for (int v = 0; v < V; ++v) across[v] += tap * widen(pack.at[v]);
    }
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const int k = i * UP - r * DOWN;
      if (k < 0 || k >= 4) continue;
#pragma unroll
      for (int v = 0; v < V; ++v) sums[r][v] += f.y[k] * across[v];
    }
  }
#pragma unroll
  for (int r = 0; r < R; ++r) {
    if (oy + r < 0 || oy + r >= f.out_h) continue;
    const int64_t pixel = (oy + r) * f.out_w + ox;
    Pack<T, V> pack;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      float value = sums[r][v];
      if (ACT) {
        const int64_t n = f.channels_last ? plane : plane / f.c;
        value = finish(value, e, n, f.channels_last ? c + v : plane % f.c, f.c, pixel);
      }
      pack.at[v] = narrow<T>(value);
    }
    *reinterpret_cast<Pack<T, V>*>(y + plane * out_size + pixel * step + c) = pack;
  }
}

template <typename T, int UP, int DOWN, int V, bool ACT>
struct StripBody {
  FACE_HD void operator()(const T* x, T* y, const Filter<float>& f, const Epilogue<float>& e, int64_t index) const {
    filter_strip<T, UP, DOWN, V, ACT>(x, y, f, e, index);
  }
};

// Whether strips exist for this filter.
template <typename W>
inline bool has_strips(const Filter<W>& f, bool act) {
  const bool known = (f.up == 1 && f.down <= 2) || (f.up == 2 && f.down == 1);
  return f.separable && f.kh == 4 && f.kw == 4 && known && (!act || (f.up == 1 && f.down == 1));
}

template <typename T, int UP, int DOWN, bool ACT, typename Visit>
inline void visit_strips(const Filter<float>& f, bool packed, Visit visit) {
  constexpr int V = 16 / int(sizeof(T));
  const int64_t strips = strip_count<UP>(f.out_h, StripRows<DOWN>::value, f.pad_y) * f.out_w * f.n * f.c;
  if (packed) visit(StripBody<T, UP, DOWN, V, ACT>(), strips / V);
  else visit(StripBody<T, UP, DOWN, 1, ACT>(), strips);
}

// Call `visit` with the body for this filter and the number of its indices; `packed` asks for 16 bytes per thread,
// which needs channels-last memory that is aligned to them and a fitting number of channels.
template <typename T, typename Visit>
inline void for_strips(const Filter<float>& f, bool act, bool packed, Visit visit) {
  if (f.up == 2) visit_strips<T, 2, 1, false>(f, packed, visit);
  else if (f.down == 2) visit_strips<T, 1, 2, false>(f, packed, visit);
  else if (act) visit_strips<T, 1, 1, true>(f, packed, visit);
  else visit_strips<T, 1, 1, false>(f, packed, visit);
}

template <typename T>
inline bool fits_packs(const void* a, const void* b, int64_t count) {
  return (uintptr_t(a) | uintptr_t(b)) % 16 == 0 && count % (16 / int(sizeof(T))) == 0;
}

// V neighbours in memory: channels of one pixel (channels-last, pixels = H W) or pixels of one channel.
template <typename T, int V>
FACE_HD void activate_pack(const T* x, T* y, const Epilogue<Work<T>>& e, int64_t channels, int64_t pixels,
                           bool channels_last, int64_t index) {
  const auto in = reinterpret_cast<const Pack<T, V>*>(x)[index];
  const int64_t first = index * V, n = first / (channels * pixels), inside = first - n * channels * pixels;
  Pack<T, V> out;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const int64_t c = channels_last ? inside % channels + v : inside / pixels;
    const int64_t pixel = channels_last ? inside / channels : inside % pixels + v;
    out.at[v] = narrow<T>(finish(Work<T>(widen(in.at[v])), e, n, c, channels, pixel));
  }
  reinterpret_cast<Pack<T, V>*>(y)[index] = out;
}

// Gradient before scale, noise and bias.
template <typename T, int V>
FACE_HD void mask_pack(const T* g, const T* result, T* out, Work<T> slope, Work<T> gain, int64_t index) {
  const auto gs = reinterpret_cast<const Pack<T, V>*>(g)[index];
  const auto ys = reinterpret_cast<const Pack<T, V>*>(result)[index];
  Pack<T, V> masks;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    masks.at[v] = narrow<T>(masked(Work<T>(widen(gs.at[v])), Work<T>(widen(ys.at[v])), slope, gain));
  }
  reinterpret_cast<Pack<T, V>*>(out)[index] = masks;
}

}  // namespace face
