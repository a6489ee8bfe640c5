// Operators for torch: checks, geometry, choice of device and type. Differentiation is in the Python files beside.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

#ifdef FACE_CUDA
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

#include "launch.h"
#include "threads.h"

namespace {

using at::Tensor;
using Maybe = std::optional<Tensor>;
using face::Work;

template <typename F>
void by_type(at::ScalarType type, F call) {
  switch (type) {
    case at::kFloat: return call(float());
    case at::kDouble: return call(double());
    case at::kHalf: return call(face::fp16());
    case at::kBFloat16: return call(face::bf16());
    default: TORCH_CHECK(false, "expected a floating-point tensor, got ", type);
  }
}

template <typename T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

// [N, C, pixels] in the memory's order.
struct Layout {
  int64_t n, channels, pixels;
  bool channels_last;

  explicit Layout(const Tensor& x) : n(x.size(0)), channels(x.size(1)), pixels(1), channels_last(false) {
    for (int64_t d = 2; d < x.dim(); ++d) pixels *= x.size(d);
    const bool last = x.dim() == 4 && x.is_contiguous(at::MemoryFormat::ChannelsLast);
    TORCH_CHECK(last || x.is_contiguous(), "expected dense memory, channels first or last");
    channels_last = (last && !x.is_contiguous()) || (pixels == 1 && channels > 1);
  }
};

// The parts of an epilogue as float (double for double); holds on to converted copies while the kernel runs.
template <typename W>
struct Parts {
  std::vector<Tensor> kept;
  face::Epilogue<W> epilogue{};

  Parts(const Tensor& x, const Maybe& scale, const Maybe& bias, const Maybe& noise, const Maybe& strength,
        double slope, double gain) {
    const auto layout_n = x.size(0), channels = x.size(1);
    epilogue.scale = take(x, scale, layout_n * channels, "scale");
    epilogue.bias = take(x, bias, channels, "bias");
    epilogue.slope = W(slope);
    epilogue.gain = W(gain);
    if (!noise) return;
    TORCH_CHECK(strength, "noise needs a strength");
    const int64_t pixels = noise->numel() / noise->size(0);
    TORCH_CHECK(noise->size(0) == 1 || noise->size(0) == layout_n, "noise must have 1 or ", layout_n, " samples");
    epilogue.noise = take(x, noise, noise->numel(), "noise");
    epilogue.strength = take(x, strength, 1, "strength");
    epilogue.noise_step = noise->size(0) == 1 ? 0 : pixels;
  }

  const W* take(const Tensor& x, const Maybe& part, int64_t count, const char* name) {
    if (!part) return nullptr;
    TORCH_CHECK(part->numel() == count, name, " must hold ", count, " values, got ", part->numel());
    TORCH_CHECK(part->device() == x.device(), name, " must be on ", x.device());
    kept.push_back(part->to(std::is_same_v<W, double> ? at::kDouble : at::kFloat).contiguous());
    return data<W>(kept.back());
  }
};

// Makes the tensor's CUDA device the current one.
struct Guard {
#ifdef FACE_CUDA
  c10::cuda::OptionalCUDAGuard inner;
  explicit Guard(const Tensor& x) {
    if (x.is_cuda()) inner.set_device(x.device());
  }
#else
  explicit Guard(const Tensor&) {}
#endif
};

#ifdef FACE_CUDA
void* stream_of(const Tensor& x) { return c10::cuda::getCurrentCUDAStream(x.device().index()).stream(); }
void check_cuda(int error) { TORCH_CHECK(error == 0, "CUDA: ", face::cuda_message(error)); }
#endif

// Write the taps as a product of a column and a row where they are one up to rounding.
template <typename W>
void factor(face::Filter<W>& f, at::ArrayRef<double> taps) {
  int pivot = 0;
  for (int i = 0; i < f.kh * f.kw; ++i) {
    f.full[i] = W(taps[i]);
    if (std::abs(taps[i]) > std::abs(taps[pivot])) pivot = i;
  }
  const double top = taps[pivot], tolerance = std::abs(top) * (std::is_same_v<W, double> ? 1e-14 : 1e-7);
  if (top == 0) return;
  f.separable = true;
  const int py = pivot / f.kw, px = pivot % f.kw;
  for (int i = 0; i < f.kh * f.kw; ++i) {
    const double product = taps[i / f.kw * f.kw + px] * taps[py * f.kw + i % f.kw] / top;
    if (std::abs(product - taps[i]) > tolerance) f.separable = false;
  }
  for (int i = 0; i < f.kh; ++i) f.y[i] = W(taps[i * f.kw + px]);
  for (int i = 0; i < f.kw; ++i) f.x[i] = W(taps[py * f.kw + i] / top);
}

template <typename W>
face::Filter<W> filter_of(const Tensor& x, at::ArrayRef<double> taps, at::IntArrayRef g) {
  TORCH_CHECK(g.size() == 8, "expected kh, kw, up, down, pad_y, pad_x, out_h, out_w");
  face::Filter<W> f{};
  f.n = x.size(0), f.c = x.size(1), f.h = x.size(2), f.w = x.size(3);
  f.kh = int(g[0]), f.kw = int(g[1]), f.up = int(g[2]), f.down = int(g[3]);
  f.pad_y = int(g[4]), f.pad_x = int(g[5]), f.out_h = g[6], f.out_w = g[7];
  TORCH_CHECK(f.kh >= 1 && f.kw >= 1 && f.kh <= face::MAX_TAPS && f.kw <= face::MAX_TAPS &&
                  int64_t(taps.size()) == f.kh * f.kw, "expected up to 8 x 8 taps");
  TORCH_CHECK(f.up >= 1 && f.down >= 1 && f.out_h >= 1 && f.out_w >= 1, "factors and sizes must be at least 1");
  f.channels_last = Layout(x).channels_last && f.c > 1;
  factor(f, taps);
  return f;
}

template <typename T>
void run_filter(const Tensor& x, const Tensor& y, at::ArrayRef<double> taps, at::IntArrayRef geometry,
                const Parts<Work<T>>& parts, bool act, bool threads) {
  const auto f = filter_of<Work<T>>(x, taps, geometry);
  const auto* e = act ? &parts.epilogue : nullptr;
  if constexpr (std::is_same_v<Work<T>, float>) {
    if (threads) return face::filter_threads<T>(data<T>(x), data<T>(y), f, e, face::has_strips(f, act));
#ifdef FACE_CUDA
    if (x.is_cuda()) return check_cuda(face::filter_cuda<T>(data<T>(x), data<T>(y), f, e, stream_of(x)));
#endif
  }
  TORCH_CHECK(x.is_cpu() && !threads, "no kernel for ", x.scalar_type(), " on ", x.device());
  face::filter_cpu<T>(data<T>(x), data<T>(y), f, e);
}

Tensor filter(const Tensor& x, at::ArrayRef<double> taps, at::IntArrayRef geometry, bool act, const Maybe& scale,
              const Maybe& bias, const Maybe& noise, const Maybe& strength, double slope, double gain, bool threads) {
  TORCH_CHECK(x.dim() == 4 && geometry.size() == 8, "expected x [N, C, H, W] and eight numbers of geometry");
  const Layout layout(x);
  const bool last = layout.channels_last && layout.channels > 1;
  TORCH_CHECK(!noise || noise->numel() / noise->size(0) == geometry[6] * geometry[7], "noise must fit the output");
  Tensor y = at::empty({x.size(0), x.size(1), geometry[6], geometry[7]}, x.options(),
                       last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous);
  if (x.numel() == 0) return y;
  const Guard guard(x);
  by_type(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const Parts<Work<T>> parts(x, scale, bias, noise, strength, slope, gain);
    run_filter<T>(x, y, taps, geometry, parts, act, threads);
  });
  return y;
}

void activate(const Tensor& x, const Tensor& y, const Maybe& scale, const Maybe& bias, const Maybe& noise,
              const Maybe& strength, double slope, double gain, bool threads) {
  TORCH_CHECK(x.strides() == y.strides() && x.sizes() == y.sizes() && x.scalar_type() == y.scalar_type(),
              "x and y must be alike");
  const Layout l(x);
  TORCH_CHECK(!noise || noise->numel() / noise->size(0) == l.pixels, "noise must fit x");
  if (x.numel() == 0) return;
  const Guard guard(x);
  by_type(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const Parts<Work<T>> parts(x, scale, bias, noise, strength, slope, gain);
    const auto& e = parts.epilogue;
    if constexpr (std::is_same_v<Work<T>, float>) {
      if (threads) {
        return face::activate_threads<T>(data<T>(x), data<T>(y), e, l.n, l.channels, l.pixels, l.channels_last);
      }
#ifdef FACE_CUDA
      if (x.is_cuda()) {
        return check_cuda(face::activate_cuda<T>(data<T>(x), data<T>(y), e, l.n, l.channels, l.pixels,
                                                 l.channels_last, stream_of(x)));
      }
#endif
    }
    TORCH_CHECK(x.is_cpu() && !threads, "no kernel for ", x.scalar_type(), " on ", x.device());
    face::activate_cpu<T>(data<T>(x), data<T>(y), e, l.n, l.channels, l.pixels, l.channels_last);
  });
}

Tensor mask(const Tensor& g, const Tensor& y, double slope, double gain, bool threads) {
  TORCH_CHECK(g.strides() == y.strides() && g.sizes() == y.sizes() && g.scalar_type() == y.scalar_type(),
              "g and y must be alike");
  Tensor out = at::empty_like(g);
  if (g.numel() == 0) return out;
  const Guard guard(g);
  by_type(g.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    if constexpr (std::is_same_v<Work<T>, float>) {
      if (threads || !g.is_cuda()) {
        return face::mask_threads<T>(data<T>(g), data<T>(y), data<T>(out), float(slope), float(gain), g.numel());
      }
#ifdef FACE_CUDA
      return check_cuda(face::mask_cuda<T>(data<T>(g), data<T>(y), data<T>(out), float(slope), float(gain), g.numel(),
                                           stream_of(g)));
#endif
    } else {
      const Layout l(g);
      face::Epilogue<Work<T>> e{};
      e.slope = slope, e.gain = gain;
      face::activate_backward_cpu<T>(data<T>(g), data<T>(y), nullptr, data<T>(out), e, {}, l.n, l.channels, l.pixels,
                                     l.channels_last);
    }
  });
  return out;
}

// dx, and the sums of the masked gradient [N, C], of it times x [N, C], and of it times the noise [1].
std::tuple<Tensor, Tensor, Tensor, Tensor> activate_backward(
    const Tensor& g, const Tensor& y, const Maybe& x, const Maybe& scale, const Maybe& noise, double slope,
    double gain) {
  TORCH_CHECK(g.is_cpu() && g.strides() == y.strides() && g.scalar_type() == y.scalar_type() &&
                  (!x || (x->strides() == y.strides() && x->scalar_type() == y.scalar_type())),
              "g, y and x must be alike, on the CPU");
  const Layout l(g);
  const auto options = g.options().dtype(g.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
  Tensor dx = at::empty_like(g), sum_m = at::empty({l.n, l.channels}, options);
  Tensor sum_mx = at::empty({x ? l.n : 0, l.channels}, options), sum_noise = at::empty({noise ? 1 : 0}, options);
  by_type(g.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using W = Work<T>;
    const Maybe one = noise ? Maybe(at::empty({1}, options)) : std::nullopt;
    const Parts<W> parts(g, scale, std::nullopt, noise, one, slope, gain);
    const face::Sums<W> sums{data<W>(sum_m), x ? data<W>(sum_mx) : nullptr, noise ? data<W>(sum_noise) : nullptr};
    face::activate_backward_cpu<T>(data<T>(g), data<T>(y), x ? data<T>(*x) : nullptr, data<T>(dx), parts.epilogue,
                                   sums, l.n, l.channels, l.pixels, l.channels_last);
  });
  return {dx, sum_m, sum_mx, sum_noise};
}

bool has_cuda() {
#ifdef FACE_CUDA
  return true;
#else
  return false;
#endif
}

}  // namespace

TORCH_LIBRARY(face_ops, library) {
  library.def("filter(Tensor x, float[] taps, int[] geometry, bool act, Tensor? scale, Tensor? bias, Tensor? noise, "
              "Tensor? strength, float slope, float gain, bool threads) -> Tensor");
  library.def("activate(Tensor x, Tensor(a!) y, Tensor? scale, Tensor? bias, Tensor? noise, Tensor? strength, "
              "float slope, float gain, bool threads) -> ()");
  library.def("mask(Tensor g, Tensor y, float slope, float gain, bool threads) -> Tensor");
  library.def("activate_backward(Tensor g, Tensor y, Tensor? x, Tensor? scale, Tensor? noise, float slope, "
              "float gain) -> (Tensor, Tensor, Tensor, Tensor)");
  library.def("has_cuda() -> bool", has_cuda);
}

#define FACE_IMPLEMENT(library)             \
  library.impl("filter", filter);           \
  library.impl("activate", activate);       \
  library.impl("mask", mask);

TORCH_LIBRARY_IMPL(face_ops, CPU, library) {
  FACE_IMPLEMENT(library)
  library.impl("activate_backward", activate_backward);
}
TORCH_LIBRARY_IMPL(face_ops, CUDA, library) { FACE_IMPLEMENT(library) }
