// Loops over contiguous memory that compilers turn into vector instructions.
#pragma once

#include "maths.h"

namespace face {

// `pixels` pixels of `step` channels (channels-last), or `pixels` pixels of one channel with step 1. Scale, bias and
// noise of `e` point at the first channel and pixel of the line; absent ones are null.
template <typename T, typename S, typename W>
inline void epilogue_line(const S* in, T* out, const Epilogue<W>& e, int64_t pixels, int64_t step) {
  const W strength = e.noise ? e.strength[0] : W(0), slope = e.slope, gain = e.gain;
  if (step == 1) {
    const W scale = e.scale ? e.scale[0] : W(1), bias = e.bias ? e.bias[0] : W(0);
    const W* noise = e.noise;
    if (noise) {
#pragma omp simd
      for (int64_t i = 0; i < pixels; ++i) {
        out[i] = narrow<T>(combine(W(widen(in[i])), scale, strength * noise[i], bias, slope, gain));
      }
    } else {
#pragma omp simd
      for (int64_t i = 0; i < pixels; ++i) {
        out[i] = narrow<T>(combine(W(widen(in[i])), scale, W(0), bias, slope, gain));
      }
    }
    return;
  }
  const W *scales = e.scale, *biases = e.bias;
  for (int64_t p = 0; p < pixels; ++p) {
    const W noise = e.noise ? strength * e.noise[p] : W(0);
    const S* from = in + p * step;
    T* to = out + p * step;
    if (scales && biases) {
#pragma omp simd
      for (int64_t c = 0; c < step; ++c) {
        to[c] = narrow<T>(combine(W(widen(from[c])), scales[c], noise, biases[c], slope, gain));
      }
    } else if (biases) {
#pragma omp simd
      for (int64_t c = 0; c < step; ++c) {
        to[c] = narrow<T>(combine(W(widen(from[c])), W(1), noise, biases[c], slope, gain));
      }
    } else {
      for (int64_t c = 0; c < step; ++c) {
        to[c] = narrow<T>(combine(W(widen(from[c])), scales ? scales[c] : W(1), noise, W(0), slope, gain));
      }
    }
  }
}

}  // namespace face
