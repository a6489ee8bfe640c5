// Arithmetic of the operators, one element at a time, for the host and for CUDA devices.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define FACE_HD __host__ __device__ __forceinline__
#else
#define FACE_HD inline __attribute__((always_inline))
#endif

namespace face {

// Storage types of 16 bits; arithmetic on them is done in float.
struct bf16 {
  uint16_t bits;
};
struct fp16 {
  uint16_t bits;
};

template <typename T>
struct WorkOf {
  using type = float;
};
template <>
struct WorkOf<double> {
  using type = double;
};
template <typename T>
using Work = typename WorkOf<T>::type;

FACE_HD uint32_t float_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}

FACE_HD float bits_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

FACE_HD float widen(float value) { return value; }
FACE_HD double widen(double value) { return value; }
FACE_HD float widen(bf16 value) { return bits_float(uint32_t(value.bits) << 16); }

// Exact for every half, subnormal ones too: the exponent is moved by a multiplication with 2^112.
FACE_HD float widen(fp16 value) {
#ifdef __CUDA_ARCH__
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
#else
  const uint32_t magnitude = uint32_t(value.bits & 0x7fff) << 13;
  const float scaled = bits_float(magnitude) * 5.192296858534828e33f;
  const uint32_t special = magnitude >= 0x0f800000u ? (magnitude | 0x7f800000u) : float_bits(scaled);
  return bits_float(special | (uint32_t(value.bits & 0x8000) << 16));
#endif
}

template <typename T>
FACE_HD T narrow(Work<T> value);
template <>
FACE_HD float narrow<float>(float value) {
  return value;
}
template <>
FACE_HD double narrow<double>(double value) {
  return value;
}

// Round to the nearest, ties to even; NaN stays NaN.
template <>
FACE_HD bf16 narrow<bf16>(float value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  bf16 result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
#else
  const uint32_t bits = float_bits(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return bf16{uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded)};
#endif
}

template <>
FACE_HD fp16 narrow<fp16>(float value) {
#ifdef __CUDA_ARCH__
  fp16 result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
#else
  const uint32_t bits = float_bits(value), magnitude = bits & 0x7fffffffu;
  // Subnormal halves: adding 0.5 lets the float unit round at 2^-24.
  const uint32_t small = float_bits(bits_float(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  uint32_t half = magnitude < 0x38800000u ? small : normal;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  return fp16{uint16_t(half | ((bits >> 16) & 0x8000u))};
#endif
}

constexpr int MAX_TAPS = 8;

// Geometry and taps of one filtering; taps are flipped, so that filtering is a correlation.
template <typename W>
struct Filter {
  int64_t n, c, h, w, out_h, out_w;
  int up, down, pad_y, pad_x, kh, kw;
  bool channels_last, separable;
  W y[MAX_TAPS], x[MAX_TAPS];    // used where separable
  W full[MAX_TAPS * MAX_TAPS];   // row by row
};

// y = gain * lrelu(x * scale[n, c] + strength * noise[n, p] + bias[c]); absent parts are null.
template <typename W>
struct Epilogue {
  const W *scale, *bias, *noise, *strength;
  int64_t noise_step;  // elements from one sample's noise to the next one's, 0 where shared
  W slope, gain;
};

template <typename W>
FACE_HD W activate(W value, W slope, W gain) {
  return (value > W(0) ? value : value * slope) * gain;
}

template <typename W>
FACE_HD W combine(W value, W scale, W noise, W bias, W slope, W gain) {
  return activate(value * scale + noise + bias, slope, gain);
}

// Derivative of `activate` times g, told by the sign of its result (slope >= 0, gain > 0).
template <typename W>
FACE_HD W masked(W g, W result, W slope, W gain) {
  return g * (result > W(0) ? gain : gain * slope);
}

template <typename W>
FACE_HD W finish(W value, const Epilogue<W>& e, int64_t n, int64_t channel, int64_t channels, int64_t pixel) {
  const W scale = e.scale ? e.scale[n * channels + channel] : W(1);
  const W noise = e.noise ? e.strength[0] * e.noise[n * e.noise_step + pixel] : W(0);
  return combine(value, scale, noise, e.bias ? e.bias[channel] : W(0), e.slope, e.gain);
}

// First tap that meets a pixel of the zero-inserted image instead of a zero; the next ones follow every `up` taps.
FACE_HD int first_tap(int64_t out, int up, int down, int pad) {
  const int rest = int((pad - out * down) % up);
  return rest < 0 ? rest + up : rest;
}

// Source index under tap k; exact for the taps that `first_tap` names, also left of the image.
FACE_HD int64_t source_of(int64_t out, int k, int up, int down, int pad) {
  return (out * down - pad + k) / up;
}

}  // namespace face
