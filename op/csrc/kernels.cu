// CUDA launches of the bodies in threads.h; no torch headers, which would make nvcc take minutes.
#include <cuda_runtime.h>

#include "launch.h"
#include "threads.h"

namespace face {
namespace {

constexpr int THREADS = 256;

int blocks_for(int64_t count) {
  const int64_t blocks = (count + THREADS - 1) / THREADS;
  return int(blocks < (1 << 30) ? blocks : (1 << 30));
}

template <typename Body>
__global__ void __launch_bounds__(THREADS) run(Body body, int64_t count) {
  const int64_t step = int64_t(gridDim.x) * THREADS;
  for (int64_t i = int64_t(blockIdx.x) * THREADS + threadIdx.x; i < count; i += step) body(i);
}

template <typename Body>
int launch(Body body, int64_t count, void* stream) {
  if (count > 0) run<<<blocks_for(count), THREADS, 0, static_cast<cudaStream_t>(stream)>>>(body, count);
  return int(cudaGetLastError());
}

template <typename T, typename Strip>
struct StripCall {
  Strip strip;
  const T* x;
  T* y;
  Filter<float> f;
  Epilogue<float> e;
  __device__ void operator()(int64_t i) const { strip(x, y, f, e, i); }
};

template <typename T>
struct PointCall {
  const T* x;
  T* y;
  Filter<float> f;
  Epilogue<float> e;
  bool act;
  __device__ void operator()(int64_t i) const { filter_point<T>(x, y, f, act ? &e : nullptr, i); }
};

template <typename T, int V>
struct ActivateCall {
  const T* x;
  T* y;
  Epilogue<float> e;
  int64_t channels, pixels;
  bool channels_last;
  __device__ void operator()(int64_t i) const { activate_pack<T, V>(x, y, e, channels, pixels, channels_last, i); }
};

template <typename T, int V>
struct MaskCall {
  const T *g, *result;
  T* out;
  float slope, gain;
  __device__ void operator()(int64_t i) const { mask_pack<T, V>(g, result, out, slope, gain, i); }
};

}  // namespace

template <typename T>
int filter_cuda(const T* x, T* y, const Filter<float>& f, const Epilogue<float>* e, void* stream) {
  const Epilogue<float> epilogue = e ? *e : Epilogue<float>{};
  if (!has_strips(f, e != nullptr)) {
    return launch(PointCall<T>{x, y, f, epilogue, e != nullptr}, f.n * f.c * f.out_h * f.out_w, stream);
  }
  int error = 0;
  for_strips<T>(f, e != nullptr, f.channels_last && fits_packs<T>(x, y, f.c), [&](auto strip, int64_t count) {
    error = launch(StripCall<T, decltype(strip)>{strip, x, y, f, epilogue}, count, stream);
  });
  return error;
}

template <typename T>
int activate_cuda(const T* x, T* y, const Epilogue<float>& e, int64_t n, int64_t channels, int64_t pixels,
                  bool channels_last, void* stream) {
  constexpr int V = 16 / int(sizeof(T));
  const int64_t count = n * channels * pixels;
  if (fits_packs<T>(x, y, channels_last ? channels : pixels)) {
    return launch(ActivateCall<T, V>{x, y, e, channels, pixels, channels_last}, count / V, stream);
  }
  return launch(ActivateCall<T, 1>{x, y, e, channels, pixels, channels_last}, count, stream);
}

template <typename T>
int mask_cuda(const T* g, const T* result, T* out, float slope, float gain, int64_t count, void* stream) {
  constexpr int V = 16 / int(sizeof(T));
  if (fits_packs<T>(g, result, count) && fits_packs<T>(out, out, count)) {
    return launch(MaskCall<T, V>{g, result, out, slope, gain}, count / V, stream);
  }
  return launch(MaskCall<T, 1>{g, result, out, slope, gain}, count, stream);
}

const char* cuda_message(int error) { return cudaGetErrorString(cudaError_t(error)); }

#define FACE_CUDA_KERNELS(T)                                                                                        \
  template int filter_cuda<T>(const T*, T*, const Filter<float>&, const Epilogue<float>*, void*);                  \
  template int activate_cuda<T>(const T*, T*, const Epilogue<float>&, int64_t, int64_t, int64_t, bool, void*);     \
  template int mask_cuda<T>(const T*, const T*, T*, float, float, int64_t, void*);
FACE_CUDA_KERNELS(float)
FACE_CUDA_KERNELS(fp16)
FACE_CUDA_KERNELS(bf16)

}  // namespace face
