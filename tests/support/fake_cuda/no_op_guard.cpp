// What a CUDA build of torch has on a machine without a GPU, for a CPU build: an empty device guard
// for cuda, and hooks that report one device with cuDNN. Only FakeTensors may be used with it.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <cstring>

namespace {

using Base = c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>;
const c10::Device first(c10::DeviceType::CUDA, 0);
const c10::Stream only(c10::Stream::DEFAULT, first);
bool bfloat16_convolutions = true;

struct Guard final : public Base {
  c10::Device getDevice() const override { return first; }
  c10::Device exchangeDevice(c10::Device) const override { return first; }
  c10::Stream getStream(c10::Device) const noexcept override { return only; }
  c10::Stream getNewStream(c10::Device, int = 0) const override { return only; }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return only; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
};

struct Hooks final : public at::CUDAHooksInterface {
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  void init() const override {}
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  c10::DeviceIndex current_device() const override { return 0; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  // memory formats are then those of cuDNN
  bool compiledWithCuDNN() const override { return true; }
  bool hasCuDNN() const override { return true; }
  bool supportsDilatedConvolutionWithCuDNN() const override { return true; }
  bool supportsDepthwiseConvolutionWithCuDNN() const override { return true; }
  bool supportsBFloat16ConvolutionWithCuDNNv8() const override { return bfloat16_convolutions; }
  long versionCuDNN() const override { return 91000; }
  long versionRuntimeCuDNN() const override { return 91000; }
  double batchnormMinEpsilonCuDNN() const override { return 1e-5; }
};

Guard guard;
Hooks hooks;
void* torchs_own = nullptr;

// hooks hold nothing but the address of their virtual functions
void* address_in(const at::CUDAHooksInterface& hooks) {
  void* address;
  std::memcpy(&address, static_cast<const void*>(&hooks), sizeof address);
  return address;
}

void put(void* address) {
  auto& there = const_cast<at::CUDAHooksInterface&>(at::detail::getCUDAHooks());
  std::memcpy(static_cast<void*>(&there), &address, sizeof address);
}

}  // namespace

extern "C" void install(bool with_bfloat16_convolutions) {
  bfloat16_convolutions = with_bfloat16_convolutions;
  c10::impl::device_guard_impl_registry[static_cast<size_t>(c10::DeviceType::CUDA)].store(&guard);
  torchs_own = address_in(at::detail::getCUDAHooks());
  put(address_in(hooks));
}

extern "C" void remove_again() {
  put(torchs_own);
  c10::impl::device_guard_impl_registry[static_cast<size_t>(c10::DeviceType::CUDA)].store(nullptr);
}
