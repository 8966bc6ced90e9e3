// NCCL between processes of one machine whose GPUs are the host's memory: what vLLM's wrapper calls.
// Rank 0 has a socket to each of the others, and all goes through it. Who joins a group is noted in
// the file HOST_NCCL_NOTES, a line "RANK of SIZE" each.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>
#include <vector>

namespace {

constexpr int kOk = 0, kSystemError = 2, kInvalidUsage = 5, kRemoteError = 6;
constexpr int kFloat32 = 7, kSum = 0;
constexpr size_t kBytes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};  // Of an element of each type.

struct Id {
  char internal[128];
};

struct Comm {
  int rank;
  std::vector<int> sockets;  // Rank 0: to each rank, -1 to itself. Others: to rank 0.
};

std::map<int, int> listening;  // Port -> socket, of ids that were made here.
std::mutex guard;

bool put(int socket, const void* data, size_t size) {
  auto* next = static_cast<const char*>(data);
  while (size) {
    ssize_t sent = send(socket, next, size, MSG_NOSIGNAL);
    if (sent <= 0) return false;
    next += sent;
    size -= sent;
  }
  return true;
}

bool get(int socket, void* data, size_t size) {
  return !size || recv(socket, data, size, MSG_WAITALL) == static_cast<ssize_t>(size);
}

sockaddr_in loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

int accept_all(Comm* comm, int listener, int size) {
  comm->sockets.assign(size, -1);
  for (int i = 1; i < size; ++i) {
    int rank, socket = accept(listener, nullptr, nullptr);
    if (socket < 0 || !get(socket, &rank, sizeof rank)) return kSystemError;
    comm->sockets[rank] = socket;
  }
  return kOk;
}

void note(int rank, int size) {
  if (const char* path = std::getenv("HOST_NCCL_NOTES"))
    std::ofstream(path, std::ios::app) << rank << " of " << size << std::endl;
}

int send_to_all(const Comm* comm, const void* data, size_t size) {
  for (size_t i = 1; i < comm->sockets.size(); ++i)
    if (!put(comm->sockets[i], data, size)) return kRemoteError;
  return kOk;
}

}  // namespace

extern "C" {

const char* ncclGetErrorString(int result) { return result ? "the other side is gone" : "no error"; }

int ncclGetVersion(int* version) {
  *version = 22703;
  return kOk;
}

int ncclGetUniqueId(Id* id) {
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = loopback(0);
  auto* at = reinterpret_cast<sockaddr*>(&address);
  socklen_t size = sizeof address;
  if (bind(listener, at, size) || listen(listener, 64) || getsockname(listener, at, &size))
    return kSystemError;
  int port = ntohs(address.sin_port);
  std::memset(id, 0, sizeof *id);
  std::memcpy(id->internal, &port, sizeof port);
  std::lock_guard<std::mutex> hold(guard);
  listening[port] = listener;
  return kOk;
}

int ncclCommInitRank(Comm** made, int size, Id id, int rank) {
  int port;
  std::memcpy(&port, id.internal, sizeof port);
  auto* comm = *made = new Comm{rank, {}};
  note(rank, size);
  if (rank == 0) {
    std::unique_lock<std::mutex> hold(guard);
    int listener = listening.at(port);
    hold.unlock();
    return accept_all(comm, listener, size);
  }
  int to = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = loopback(port);
  comm->sockets = {to};
  bool joined = !connect(to, reinterpret_cast<sockaddr*>(&address), sizeof address);
  return joined && put(to, &rank, sizeof rank) ? kOk : kSystemError;
}

int ncclBroadcast(const void* in, void* out, size_t count, int type, int root, Comm* comm, void*) {
  if (root) return kInvalidUsage;
  size_t size = count * kBytes[type];
  if (comm->rank) return get(comm->sockets[0], out, size) ? kOk : kRemoteError;
  if (in != out) std::memcpy(out, in, size);
  return send_to_all(comm, out, size);
}

int ncclAllReduce(const void* in, void* out, size_t count, int type, int op, Comm* comm, void*) {
  if (type != kFloat32 || op != kSum) return kInvalidUsage;
  auto* first = static_cast<const float*>(in);
  auto* sum = static_cast<float*>(out);
  size_t size = count * sizeof(float);
  if (comm->rank) {
    int to = comm->sockets[0];
    return put(to, first, size) && get(to, out, size) ? kOk : kRemoteError;
  }
  std::vector<float> other(count);
  if (in != out) std::memcpy(out, in, size);
  for (size_t i = 1; i < comm->sockets.size(); ++i) {
    if (!get(comm->sockets[i], other.data(), size)) return kRemoteError;
    for (size_t k = 0; k < count; ++k) sum[k] += other[k];
  }
  return send_to_all(comm, out, size);
}

// Whoever waits in a call is let go.
int ncclCommAbort(Comm* comm) {
  for (int each : comm->sockets)
    if (each >= 0) shutdown(each, SHUT_RDWR);
  return kOk;
}

int ncclCommDestroy(Comm* comm) { return ncclCommAbort(comm); }
int ncclGroupStart() { return kOk; }
int ncclGroupEnd() { return kOk; }

// The wrapper wants them there; weight transfer calls none.
#define LACKS(name) \
  int name() { return kInvalidUsage; }
LACKS(ncclReduce)
LACKS(ncclAllGather)
LACKS(ncclReduceScatter)
LACKS(ncclSend)
LACKS(ncclRecv)
LACKS(ncclCommSuspend)
LACKS(ncclCommResume)
LACKS(ncclCommWindowRegister)
LACKS(ncclCommWindowDeregister)
LACKS(ncclCommQueryProperties)
}
