// Scale, noise, bias, leaky ReLU and gain on the CPU, and their derivatives.
#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

#include "launch.h"
#include "lines_cpu.h"
#include "threads.h"

namespace face {
namespace {

// Elements that one task works on; also the unit over which sums are taken, so that they do not depend on threads.
constexpr int64_t BLOCK = 32768;

// Walk over a [N, C, pixels] array in blocks of one sample (channels-last) or one plane:
// visit(n, c, first pixel, pixels, offset, number of the block inside its sample or plane).
struct Blocks {
  int64_t n, channels, pixels;
  bool channels_last;
  int64_t step, planes, size, count;

  Blocks(int64_t n, int64_t channels, int64_t pixels, bool channels_last)
      : n(n), channels(channels), pixels(pixels), channels_last(channels_last),
        step(channels_last ? channels : 1), planes(channels_last ? n : n * channels),
        size(std::max<int64_t>(BLOCK / step, 1)), count((pixels + size - 1) / size) {}

  template <typename Visit>
  void run(Visit visit) const {
    const int64_t cost = std::min(size, pixels) * step;
    at::parallel_for(0, planes * count, std::max<int64_t>(1, BLOCK / std::max<int64_t>(cost, 1)),
                     [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t plane = i / count, block = i % count, first = block * size;
        visit(channels_last ? plane : plane / channels, channels_last ? 0 : plane % channels, first,
              std::min(size, pixels - first), (plane * pixels + first) * step, block);
      }
    });
  }
};

template <typename W>
Epilogue<W> moved(const Epilogue<W>& e, const Blocks& b, int64_t n, int64_t c, int64_t pixel) {
  Epilogue<W> own = e;
  own.scale = e.scale ? e.scale + n * b.channels + c : nullptr;
  own.bias = e.bias ? e.bias + c : nullptr;
  own.noise = e.noise ? e.noise + n * e.noise_step + pixel : nullptr;
  return own;
}

// dx = m * scale with m the masked gradient, for `count` elements of one channel; adds sums of m, m x and m noise.
template <typename T, typename W>
void backward_plane(const T* __restrict g, const T* __restrict result, const T* __restrict x, T* __restrict dx,
                    const Epilogue<W>& e, int64_t count, W* sum_m, W* sum_mx, W* sum_noise) {
  const W scale = e.scale ? e.scale[0] : W(1), slope = e.slope, gain = e.gain;
  W total = 0, total_x = 0, total_noise = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < count; ++i) {
    const W m = masked(W(widen(g[i])), W(widen(result[i])), slope, gain);
    total += m;
    dx[i] = narrow<T>(m * scale);
  }
  *sum_m = total;
  if (x && sum_mx) {
#pragma omp simd reduction(+ : total_x)
    for (int64_t i = 0; i < count; ++i) {
      total_x += masked(W(widen(g[i])), W(widen(result[i])), slope, gain) * widen(x[i]);
    }
    *sum_mx = total_x;
  }
  if (e.noise && sum_noise) {
    const W* noise = e.noise;
#pragma omp simd reduction(+ : total_noise)
    for (int64_t i = 0; i < count; ++i) {
      total_noise += masked(W(widen(g[i])), W(widen(result[i])), slope, gain) * noise[i];
    }
    *sum_noise = total_noise;
  }
}

// The same for pixels of `step` channels each; sums per channel, arrays of `step` numbers that are added to.
template <typename T, typename W>
void backward_pixels(const T* g, const T* result, const T* x, T* dx, const Epilogue<W>& e, int64_t pixels,
                     int64_t step, const W* __restrict scale, W* __restrict sum_m, W* __restrict sum_mx,
                     W* sum_noise) {
  const W slope = e.slope, gain = e.gain;
  W noises = 0;
  for (int64_t p = 0; p < pixels; ++p, g += step, result += step, dx += step) {
    W pixel = 0;
    if (x) {
      const T* at = x + p * step;
#pragma omp simd reduction(+ : pixel)
      for (int64_t c = 0; c < step; ++c) {
        const W m = masked(W(widen(g[c])), W(widen(result[c])), slope, gain);
        sum_m[c] += m;
        sum_mx[c] += m * widen(at[c]);
        pixel += m;
        dx[c] = narrow<T>(m * scale[c]);
      }
    } else {
#pragma omp simd reduction(+ : pixel)
      for (int64_t c = 0; c < step; ++c) {
        const W m = masked(W(widen(g[c])), W(widen(result[c])), slope, gain);
        sum_m[c] += m;
        pixel += m;
        dx[c] = narrow<T>(m * scale[c]);
      }
    }
    if (e.noise) noises += pixel * e.noise[p];
  }
  *sum_noise = noises;
}

// Add the blocks' sums in a fixed order, in double: [planes, count, step] -> [planes, step].
template <typename W>
void gather(const std::vector<W>& parts, W* out, int64_t planes, int64_t count, int64_t step) {
  for (int64_t plane = 0; plane < planes; ++plane) {
    for (int64_t c = 0; c < step; ++c) {
      double total = 0;
      for (int64_t k = 0; k < count; ++k) total += double(parts[(plane * count + k) * step + c]);
      out[plane * step + c] = W(total);
    }
  }
}

}  // namespace

template <typename T>
void activate_cpu(const T* x, T* y, const Epilogue<Work<T>>& e, int64_t n, int64_t channels, int64_t pixels,
                  bool channels_last) {
  const Blocks blocks(n, channels, pixels, channels_last);
  blocks.run([&](int64_t sample, int64_t c, int64_t first, int64_t count, int64_t offset, int64_t) {
    epilogue_line<T, T, Work<T>>(x + offset, y + offset, moved(e, blocks, sample, c, first), count, blocks.step);
  });
}

template <typename T>
void activate_backward_cpu(const T* g, const T* result, const T* x, T* dx, const Epilogue<Work<T>>& e,
                           const Sums<Work<T>>& sums, int64_t n, int64_t channels, int64_t pixels,
                           bool channels_last) {
  using W = Work<T>;
  const Blocks blocks(n, channels, pixels, channels_last);
  const int64_t step = blocks.step, slots = blocks.planes * blocks.count;
  std::vector<W> sum_m(slots * step), sum_mx(sums.scale ? slots * step : 0), sum_noise(slots);
  std::vector<W> ones(step, W(1));
  const T* const wanted_x = sums.scale ? x : nullptr;
  blocks.run([&](int64_t sample, int64_t c, int64_t first, int64_t count, int64_t offset, int64_t block) {
    const Epilogue<W> own = moved(e, blocks, sample, c, first);
    const int64_t slot = (channels_last ? sample : sample * channels + c) * blocks.count + block;
    W* const mx = sums.scale ? sum_mx.data() + slot * step : nullptr;
    const T* const at = wanted_x ? wanted_x + offset : nullptr;
    if (step == 1) {
      backward_plane<T, W>(g + offset, result + offset, at, dx + offset, own, count, &sum_m[slot], mx,
                           sums.noise ? &sum_noise[slot] : nullptr);
    } else {
      backward_pixels<T, W>(g + offset, result + offset, at, dx + offset, own, count, step,
                            own.scale ? own.scale : ones.data(), &sum_m[slot * step], mx, &sum_noise[slot]);
    }
  });
  if (sums.bias) gather(sum_m, sums.bias, blocks.planes, blocks.count, step);
  if (sums.scale) gather(sum_mx, sums.scale, blocks.planes, blocks.count, step);
  if (sums.noise) gather(sum_noise, sums.noise, 1, slots, 1);
}

template <typename T>
void activate_threads(const T* x, T* y, const Epilogue<float>& e, int64_t n, int64_t channels, int64_t pixels,
                      bool channels_last) {
  constexpr int V = 16 / int(sizeof(T));
  const int64_t count = n * channels * pixels;
  if (fits_packs<T>(x, y, channels_last ? channels : pixels)) {
    for (int64_t i = 0; i < count / V; ++i) activate_pack<T, V>(x, y, e, channels, pixels, channels_last, i);
  } else {
    for (int64_t i = 0; i < count; ++i) activate_pack<T, 1>(x, y, e, channels, pixels, channels_last, i);
  }
}

template <typename T>
void mask_threads(const T* g, const T* result, T* out, float slope, float gain, int64_t count) {
  constexpr int V = 16 / int(sizeof(T));
  if (fits_packs<T>(g, result, count) && fits_packs<T>(out, out, count)) {
    for (int64_t i = 0; i < count / V; ++i) mask_pack<T, V>(g, result, out, slope, gain, i);
  } else {
    for (int64_t i = 0; i < count; ++i) mask_pack<T, 1>(g, result, out, slope, gain, i);
  }
}

#define FACE_ACTIVATE(T)                                                                                            \
  template void activate_cpu<T>(const T*, T*, const Epilogue<Work<T>>&, int64_t, int64_t, int64_t, bool);          \
  template void activate_backward_cpu<T>(const T*, const T*, const T*, T*, const Epilogue<Work<T>>&,               \
                                         const Sums<Work<T>>&, int64_t, int64_t, int64_t, bool);
FACE_ACTIVATE(float)
FACE_ACTIVATE(double)
FACE_ACTIVATE(fp16)
FACE_ACTIVATE(bf16)
#define FACE_THREADS(T)                                                                                             \
  template void activate_threads<T>(const T*, T*, const Epilogue<float>&, int64_t, int64_t, int64_t, bool);        \
  template void mask_threads<T>(const T*, const T*, T*, float, float, int64_t);
FACE_THREADS(float)
FACE_THREADS(fp16)
FACE_THREADS(bf16)

}  // namespace face
