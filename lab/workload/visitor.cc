#include "lab/workload/visitor.h"

#include <fmt/format.h>

namespace midstream::lab {

Result<> Visitor::connect(Deadline deadline) {
  const auto addresses = TRY(resolver_.lookup(url_.host));
  auto fd = TRY(connect_any(addresses, url_.port, deadline, {}));
  const std::string host = url_.port == 80 ? url_.host : fmt::format("{}:{}", url_.host, url_.port);
  connection_ = std::make_unique<HttpConnection>(std::move(fd), host);
  return {};
}

Reply Visitor::send(const HttpRequest& request, Deadline deadline) {
  Reply reply;
  bool left = false;
  while (true) {
    ++reply.tries;
    const bool reused = connection_ != nullptr;
    if (!reused) {
      if (auto connected = connect(deadline); !connected) {
        reply.response = failure(left ? ErrorKind::unknown : ErrorKind::retry, connected.error().what);
        return reply;
      }
    }
    reply.response = connection_->exchange(request, deadline, {});
    if (reply.response) {
      if (!reply.response->keep_alive || connection_->exchanges() >= visit_) connection_.reset();
      return reply;
    }
    const bool repeat = reused && connection_->no_answer() && !deadline.expired();
    connection_.reset();
    left = true;
    if (!repeat) return reply;
  }
}

}  // namespace midstream::lab
