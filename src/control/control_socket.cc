#include "control/control_socket.h"

#include <unistd.h>

#include "sys/net.h"
#include "sys/stream.h"

namespace midstream {

Result<std::unique_ptr<ControlSocket>> ControlSocket::open(const std::filesystem::path& path, Answer answer) {
  auto listener = TRY(listen_unix(path));
  return std::unique_ptr<ControlSocket>(new ControlSocket(path, std::move(listener), std::move(answer)));
}

ControlSocket::ControlSocket(std::filesystem::path path, Fd listener, Answer answer)
    : path_(std::move(path)), listener_(std::move(listener)), answer_(std::move(answer)) {
  thread_ = std::jthread([this](const std::stop_token& stop) {
    while (auto socket = accept_one(listener_.get(), stop)) {
      const auto stream = make_fd_stream(std::move(*socket));
      const auto request = read_message(*stream, Deadline::in(Millis(2'000)), stop);
      if (!request) continue;  // whoever asked has gone
      const auto result = answer_(*request);
      Json reply{{"ok", result.has_value()}};
      reply[result ? "result" : "error"] = result ? *result : to_json(result.error());
      if (!write_message(*stream, reply, Deadline::in(Millis(2'000)), stop)) continue;
    }
  });
}

ControlSocket::~ControlSocket() {
  thread_.request_stop();
  thread_.join();
  ::unlink(path_.c_str());
}

Result<Json> ask_controller(const std::filesystem::path& path, const Json& request, Deadline deadline) {
  auto socket = connect_unix(path, deadline);
  if (!socket) return retry("no controller of this move is running");
  const auto stream = make_fd_stream(std::move(*socket));
  CHECK_OK(write_message(*stream, request, deadline, {}));
  const auto reply = TRY(read_message(*stream, deadline, {}));
  if (!get_bool_or(reply, "ok", false)) return std::unexpected(error_from_json(reply.value("error", Json::object())));
  return reply.value("result", Json::object());
}

}  // namespace midstream
