// The running controller's ear: one JSON request, one JSON answer a connection, on a unix socket beside the journal.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <thread>

#include "base/json.h"
#include "base/result.h"
#include "sys/clock.h"
#include "sys/fd.h"

namespace midstream {

class ControlSocket {
 public:
  using Answer = std::function<Result<Json>(const Json& request)>;  // called on the socket's own thread
  static Result<std::unique_ptr<ControlSocket>> open(const std::filesystem::path& path, Answer answer);
  ~ControlSocket();

 private:
  ControlSocket(std::filesystem::path path, Fd listener, Answer answer);
  std::filesystem::path path_;
  Fd listener_;
  Answer answer_;
  std::jthread thread_;
};

// Asks the running controller; retry if none listens.
Result<Json> ask_controller(const std::filesystem::path& path, const Json& request, Deadline deadline);

}  // namespace midstream
