// A GPU on machines without one: torch's device "cuda:0", in the host's memory, with the CPU's
// kernels. It computes what a GPU would up to rounding, and refuses what a GPU refuses: tensors of
// two devices in one operation. It has one stream, on which all is done at once.
//
// An operation on the GPU -- fallback --> the same memory as tensors of the host -> the CPU's kernel
//                                           -> results as tensors of the GPU
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <cstring>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

using at::Tensor;
using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::DispatchKey;
using c10::DispatchKeySet;
using c10::IValue;
using c10::Storage;
using c10::Stream;

namespace {

const Device kGpu(DeviceType::CUDA, 0);

struct Guard final : c10::impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::CUDA; }
  Device getDevice() const override { return kGpu; }
  Device exchangeDevice(Device) const override { return kGpu; }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  DeviceIndex deviceCount() const noexcept override { return 1; }
  Stream getStream(Device) const override { return Stream(Stream::DEFAULT, kGpu); }
  Stream getNewStream(Device, int) const override { return getStream(kGpu); }
  Stream getDefaultStream(Device) const override { return getStream(kGpu); }
  Stream exchangeStream(Stream stream) const override { return stream; }
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override {}
  void synchronizeDevice(DeviceIndex) const override {}
  void record(void**, const Stream&, DeviceIndex, c10::EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void synchronizeEvent(void*) const override {}
  void destroyEvent(void*, DeviceIndex) const noexcept override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const Stream&) const override {}
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard)

// torch looks for it under this name.
struct CUDAHooks final : at::CUDAHooksInterface {
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasCUDART() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  int getNumGPUs() const override { return 1; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  void deviceSynchronize(DeviceIndex) const override {}
  bool isPinnedPtr(const void*) const override { return false; }
  c10::Allocator* getPinnedMemoryAllocator() const override { return c10::GetCPUAllocator(); }
  Device getDeviceFromPtr(void*) const override { return kGpu; }
  const at::Generator& getDefaultGenerator(DeviceIndex) const override {
    return at::detail::getDefaultCPUGenerator();
  }
  at::Generator getNewGenerator(DeviceIndex) const override {
    return at::detail::createCPUGenerator();
  }
};
using at::CUDAHooksRegistry;
using at::RegistererCUDAHooksRegistry;
REGISTER_CUDA_HOOKS(CUDAHooks)

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t size) override {
    c10::DataPtr host = c10::GetCPUAllocator()->allocate(size);
    // What nobody wrote to is NaN, so that nobody reads it unseen.
    if (size) std::memset(host.get(), 0xff, size);
    void* data = host.get();
    auto deleter = host.get_deleter();
    return {data, host.release_context(), deleter, kGpu};
  }
  c10::DeleterFnPtr raw_deleter() const override { return c10::GetCPUAllocator()->raw_deleter(); }
  void copy_data(void* to, const void* from, std::size_t size) const override {
    std::memcpy(to, from, size);
  }
} memory;
REGISTER_ALLOCATOR(DeviceType::CUDA, &memory)

void drop(void* held) { delete static_cast<Storage*>(held); }

// The same memory as memory of another device, for as long as anybody holds it.
Storage on(const Storage& storage, Device device, c10::Allocator* allocator) {
  auto* held = new Storage(storage);
  c10::DataPtr data(held->mutable_data(), held, &drop, device);
  return {Storage::use_byte_size_t(), storage.nbytes(), std::move(data), allocator, true};
}

Tensor shaped_as(const Tensor& tensor, Storage storage, DispatchKey key) {
  Tensor made = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), DispatchKeySet(key), tensor.dtype());
  made.unsafeGetTensorImpl()->set_sizes_and_strides(
      tensor.sizes(), tensor.strides(), tensor.storage_offset());
  return made;
}

// The tensors of one operation: those of the GPU, and what the CPU's kernel gets in their place.
class Call {
 public:
  bool mixes = false;

  Tensor to_host(const Tensor& tensor) {
    if (!tensor.defined()) return tensor;
    if (!tensor.is_cuda()) {
      // Numbers without dimensions may be anywhere.
      mixes |= tensor.dim() > 0;
      return tensor;
    }
    auto* whole = tensor.storage().unsafeGetStorageImpl();
    auto found = hosts_.find(whole);
    if (found == hosts_.end()) {
      Storage host = on(tensor.storage(), DeviceType::CPU, c10::GetCPUAllocator());
      found = hosts_.emplace(whole, std::move(host)).first;
    }
    Tensor host = shaped_as(tensor, found->second, DispatchKey::CPU);
    if (tensor.unsafeGetTensorImpl()->is_wrapped_number())
      host.unsafeGetTensorImpl()->set_wrapped_number(true);
    pairs_.emplace_back(tensor, host);
    return host;
  }

  Tensor to_gpu(const Tensor& tensor) const {
    if (!tensor.defined()) return tensor;
    for (const auto& [gpu, host] : pairs_)
      if (host.is_same(tensor)) return gpu;
    for (const auto& [gpu, host] : pairs_)
      if (host.storage().is_alias_of(tensor.storage()))
        return shaped_as(tensor, gpu.storage(), DispatchKey::CUDA);
    return shaped_as(tensor, on(tensor.storage(), kGpu, &memory), DispatchKey::CUDA);
  }

  // A kernel may have given its output another size, or memory.
  void take_over() const {
    for (const auto& [gpu, host] : pairs_) {
      if (gpu.sizes() == host.sizes() && gpu.strides() == host.strides() &&
          gpu.storage().data() == host.storage().data())
        continue;
      auto* changed = gpu.unsafeGetTensorImpl();
      changed->set_storage_keep_dtype(on(host.storage(), kGpu, &memory));
      changed->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
    }
  }

  bool on_gpu() const { return !pairs_.empty(); }

 private:
  std::vector<std::pair<Tensor, Tensor>> pairs_;
  std::unordered_map<c10::StorageImpl*, Storage> hosts_;
};

// Applies `change` to all tensors within an argument or a result.
template <typename Change>
IValue each_tensor(const IValue& value, Change&& change) {
  if (value.isTensor()) return change(value.toTensor());
  if (value.isTensorList()) {
    c10::List<Tensor> list;
    for (const Tensor& tensor : value.toTensorVector()) list.push_back(change(tensor));
    return list;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> list;
    for (const auto& tensor : value.toOptionalTensorVector())
      list.push_back(tensor ? std::optional<Tensor>(change(*tensor)) : tensor);
    return list;
  }
  if (value.isList() && !value.toListRef().empty() && value.toListRef()[0].isTensorList()) {
    c10::List<c10::List<Tensor>> lists;
    for (const IValue& inner : value.toListRef())
      lists.push_back(each_tensor(inner, change).toTensorList());
    return lists;
  }
  return value;
}

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  // Indices may be the host's.
  static const std::unordered_set<std::string> mixing = {
      "aten::index", "aten::_unsafe_index", "aten::index_put_", "aten::_index_put_impl_"};
  Call call;
  for (auto it = stack->end() - op.schema().arguments().size(); it != stack->end(); ++it) {
    *it = each_tensor(*it, [&](const Tensor& tensor) { return call.to_host(tensor); });
    if (it->isDevice()) *it = IValue(Device(DeviceType::CPU));
  }
  const std::string& name = op.schema().name();
  TORCH_CHECK(
      !(call.on_gpu() && call.mixes) || mixing.count(name),
      "Expected all tensors to be on the same device, but found cuda:0 and cpu, in ", name);
  {
    c10::impl::ExcludeDispatchKeyGuard no_gradient(c10::autograd_dispatch_keyset);
    op.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), stack);
  }
  call.take_over();
  for (auto it = stack->end() - op.schema().returns().size(); it != stack->end(); ++it)
    *it = each_tensor(*it, [&](const Tensor& tensor) { return call.to_gpu(tensor); });
}

using Sizes = c10::SymIntArrayRef;
at::IntArrayRef ints(Sizes sizes) { return C10_AS_INTARRAYREF_SLOW(sizes); }

Tensor empty(
    Sizes size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
    std::optional<Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(
      ints(size), &memory, DispatchKeySet(DispatchKey::CUDA), c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(
    Sizes size, Sizes stride, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
    std::optional<Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(
      ints(size), ints(stride), &memory, DispatchKeySet(DispatchKey::CUDA),
      c10::dtype_or_default(dtype));
}

Tensor as_strided(const Tensor& self, Sizes size, Sizes stride, std::optional<c10::SymInt> offset) {
  std::optional<int64_t> from;
  if (offset) from = offset->guard_int(__FILE__, __LINE__);
  return at::native::as_strided_tensorimpl(self, ints(size), ints(stride), from);
}

Tensor reshape_alias(const Tensor& self, Sizes size, Sizes stride) {
  return as_strided(self, size, stride, std::nullopt);
}

Tensor view(const Tensor& self, Sizes size) { return at::native::view(self, ints(size)); }

Tensor& set(
    Tensor& self, Storage storage, int64_t offset, at::IntArrayRef size, at::IntArrayRef stride) {
  self.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(storage));
  self.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride, offset);
  return self;
}

Tensor& set_strided(Tensor& self, Storage storage, c10::SymInt offset, Sizes size, Sizes stride) {
  int64_t from = offset.guard_int(__FILE__, __LINE__);
  return set(self, std::move(storage), from, ints(size), ints(stride));
}

Tensor& set_storage(Tensor& self, Storage storage) {
  int64_t size = storage.nbytes() / self.dtype().itemsize(), one = 1;
  return set(self, std::move(storage), 0, size, one);
}

Tensor& set_tensor(Tensor& self, const Tensor& other) {
  return set(self, other.storage(), other.storage_offset(), other.sizes(), other.strides());
}

Tensor& copy(Tensor& self, const Tensor& source, bool) {
  Call call;
  Tensor to = call.to_host(self), from = call.to_host(source);
  c10::impl::ExcludeDispatchKeyGuard no_gradient(c10::autograd_dispatch_keyset);
  to.copy_(from);
  return self;
}

// The one whose parts are operations that the CPU has, too.
int64_t plain_attention(
    const Tensor&, const Tensor&, const Tensor&, const std::optional<Tensor>&, double, bool,
    std::optional<double>, bool) {
  return 0;
}

Tensor on_gpu(const Tensor& host) {
  return shaped_as(host, on(host.storage(), kGpu, &memory), DispatchKey::CUDA);
}

}  // namespace

// The memory of a tensor of the host, as the GPU's.
TORCH_LIBRARY(host_gpu, library) { library.def("on_gpu(Tensor host) -> Tensor", &on_gpu); }

TORCH_LIBRARY_IMPL(_, CUDA, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("empty.memory_format", empty);
  library.impl("empty_strided", empty_strided);
  library.impl("as_strided", as_strided);
  library.impl("view", view);
  library.impl("_reshape_alias", reshape_alias);
  library.impl("set_.source_Storage", set_storage);
  library.impl("set_.source_Storage_storage_offset", set_strided);
  library.impl("set_.source_Tensor", set_tensor);
  library.impl("copy_", copy);
  library.impl("_fused_sdp_choice", plain_attention);
}

// What ranks say to each other goes where the CPU's tensors go, over gloo in place of NCCL.
TORCH_LIBRARY_IMPL(c10d, CUDA, library) {
  for (const char* name :
       {"allgather_", "_allgather_base_", "allgather_coalesced_", "allgather_into_tensor_coalesced_",
        "allreduce_", "allreduce_coalesced_", "alltoall_", "alltoall_base_", "barrier",
        "broadcast_", "gather_", "recv_", "recv_any_source_", "reduce_", "_reduce_scatter_base_",
        "reduce_scatter_", "reduce_scatter_tensor_coalesced_", "scatter_", "send"})
    library.impl(name, torch::CppFunction::makeFromBoxedFunction<&fallback>());
}
