// lab-sink: the mail server of the rest of the world. It takes every message, writes down which, and from which address
// it came, and answers for it only when that is on disk.
#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <mutex>
#include <thread>

#include "base/json.h"
#include "base/text.h"
#include "sys/file.h"
#include "sys/log.h"
#include "sys/net.h"
#include "sys/stream.h"

namespace midstream::lab {
namespace {

constexpr Millis kPatience{60'000};
constexpr std::size_t kMostMessage = 4u << 20;

// Thread-safe; a line is on disk when append returns.
class Book {
 public:
  static Result<std::unique_ptr<Book>> open(const std::string& path) {
    CHECK_OK(make_directories(std::filesystem::path(path).parent_path(), 0755));
    Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
    if (!fd) return errno_failure(fmt::format("{} cannot be opened", path), errno);
    return std::unique_ptr<Book>(new Book(std::move(fd)));
  }
  Result<> append(const Json& line) {
    const auto text = line.dump(-1, ' ', true, Json::error_handler_t::replace) + "\n";
    const std::lock_guard lock(mutex_);
    if (::write(fd_.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()) ||
        ::fdatasync(fd_.get()) != 0) {
      return errno_failure("the book cannot be written", errno);
    }
    return {};
  }

 private:
  explicit Book(Fd fd) : fd_(std::move(fd)) {}
  Fd fd_;
  std::mutex mutex_;
};

// The address in angle brackets, or "".
std::string address_in(const std::string& line) {
  const auto open = line.find('<');
  const auto close = line.find('>', open == std::string::npos ? 0 : open);
  return open == std::string::npos || close == std::string::npos ? "" : line.substr(open + 1, close - open - 1);
}

// One client's session (RFC 5321), without extensions.
class Session {
 public:
  Session(Fd fd, std::string client, Book& book, const std::stop_token& stop)
      : stream_(make_fd_stream(std::move(fd))), client_(std::move(client)), book_(book), stop_(stop) {}

  Result<> run() {
    CHECK_OK(say("220 sink ESMTP"));
    while (true) {
      const auto line = TRY(read_line());
      std::string verb = line.substr(0, 4);
      for (auto& c : verb) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
      if (verb == "QUIT") return say("221 bye");
      if (verb == "DATA") {
        CHECK_OK(take());
        continue;
      }
      if (verb == "MAIL") from_ = address_in(line), to_.clear();
      if (verb == "RCPT") to_.push_back(address_in(line));
      const bool known =
          verb == "EHLO" || verb == "HELO" || verb == "MAIL" || verb == "RCPT" || verb == "RSET" || verb == "NOOP";
      CHECK_OK(say(known ? "250 ok" : "502 not here"));
    }
  }

 private:
  Result<> say(const std::string& line) { return stream_->write_all(line + "\r\n", Deadline::in(kPatience), stop_); }
  Result<std::string> read_line() {
    while (true) {
      if (const auto end = buffer_.find("\r\n"); end != std::string::npos) {
        auto line = buffer_.substr(0, end);
        buffer_.erase(0, end + 2);
        return line;
      }
      if (buffer_.size() > kMostMessage) return corrupt("a line without an end");
      char bytes[8192];
      const auto got = TRY(stream_->read_some(bytes, Deadline::in(kPatience), stop_));
      if (got == 0) return failure(ErrorKind::cancelled, "closed");
      buffer_.append(bytes, got);
    }
  }
  Result<> take() {
    CHECK_OK(say("354 go on"));
    std::string id;
    bool head = true;
    for (auto line = TRY(read_line()); line != "."; line = TRY(read_line())) {
      if (line.empty()) head = false;
      if (head && line.size() > 11 && ::strncasecmp(line.c_str(), "message-id:", 11) == 0) id = address_in(line);
    }
    for (const auto& to : to_) {
      CHECK_OK(book_.append({{"id", id},
                             {"from", from_},
                             {"to", to},
                             {"client", client_},
                             {"boot_ns", boot_now().count()},
                             {"wall_ms", wall_now_ms()}}));
    }
    return say("250 taken");
  }

  std::unique_ptr<Stream> stream_;
  const std::string client_;
  Book& book_;
  const std::stop_token& stop_;
  std::string buffer_, from_;
  std::vector<std::string> to_;
};

std::string peer_of(int fd) {
  sockaddr_in address{};
  socklen_t size = sizeof address;
  char text[INET_ADDRSTRLEN] = "";
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0)
    ::inet_ntop(AF_INET, &address.sin_addr, text, sizeof text);
  return text;
}

Result<> serve(const std::string& address, std::uint16_t port, const std::string& path) {
  const auto book = TRY(Book::open(path));
  const auto listener = TRY(listen_tcp(address, port));
  log_info("sink", "takes mail on {}:{}", address, port);
  while (true) {
    auto client = TRY(accept_one(listener.get(), {}));
    const auto peer = peer_of(client.get());
    std::thread([fd = std::move(client), peer, &book]() mutable {
      const std::stop_token never;
      Session session(std::move(fd), peer, *book, never);
      if (auto ended = session.run(); !ended && ended.error().kind != ErrorKind::cancelled)
        log_warn("sink", "{}: {}", peer, ended.error().what);
    }).detach();
  }
}

}  // namespace
}  // namespace midstream::lab

int main(int argc, char** argv) {
  using namespace midstream;
  CLI::App app("Takes all mail and writes down which.", "lab-sink");
  std::string address = "0.0.0.0", book;
  std::uint16_t port = 25;
  app.add_option("--address", address, "numeric address to listen on");
  app.add_option("--port", port, "port to listen on");
  app.add_option("--book", book, "file that each message adds a line to")->required();
  CLI11_PARSE(app, argc, argv);
  ::signal(SIGPIPE, SIG_IGN);
  const auto served = lab::serve(address, port, book);
  log_line(LogLevel::error, "sink", served.error().text());
  return 1;
}
