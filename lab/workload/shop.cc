// lab-shop: the small web application of the lab. One thread a connection, blocking I/O.
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <csignal>
#include <mutex>
#include <thread>

#include "base/json.h"
#include "base/text.h"
#include "lab/workload/desk.h"
#include "lab/workload/http.h"
#include "lab/workload/sha256.h"
#include "lab/workload/shelf.h"
#include "sys/file.h"
#include "sys/log.h"
#include "sys/net.h"

namespace midstream::lab {
namespace {

constexpr std::size_t kMaxConnections = 512;

struct ShopOptions {
  std::string listen;
  std::string host;
  std::string files;
  std::string peer;
  std::string mood;  // a file; see Mood
  DeskOptions desk;
};

// How badly the shop behaves: {"fail_every": N, "delay_ms": MS, "alone": true} in a file that a trial may write at any
// time. One request in N is answered with 500, every answer takes so much longer, and a file that is not here is not asked
// for on the other side. Without the file it behaves.
class Mood {
 public:
  explicit Mood(std::string file) : file_(std::move(file)) {}

  // Whether this request is to fail; has waited when it returns.
  bool spoils() {
    const auto mood = now();
    pause_for(Millis(get_int_or(mood, "delay_ms", 0)), {});
    const auto every = get_int_or(mood, "fail_every", 0);
    return every > 0 && requests_.fetch_add(1) % static_cast<std::uint64_t>(every) == 0;
  }
  bool alone() const { return get_bool_or(now(), "alone", false); }

 private:
  Json now() const {
    const auto text = file_.empty() ? Result<std::string>("") : read_file(file_);
    return text ? parse_json(*text).value_or(Json::object()) : Json::object();
  }

  const std::string file_;
  std::atomic<std::uint64_t> requests_ = 0;
};

HttpResponse answer(int status, const Json& body) {
  HttpResponse out;
  out.status = status;
  out.headers["content-type"] = "application/json";
  out.body = body.dump(-1, ' ', true, Json::error_handler_t::replace) + "\n";
  return out;
}

HttpResponse trouble(int status, const Error& error) {
  return answer(status, Json{{"error", error.text()}});
}

HttpResponse bytes_answer(std::string bytes) {
  HttpResponse out;
  out.status = 200;
  out.headers["content-type"] = "application/octet-stream";
  out.headers["etag"] = "\"" + sha256(bytes) + "\"";
  out.body = std::move(bytes);
  return out;
}

// What the application answers; knows nothing of connections.
class Shop {
 public:
  Shop(const ShopOptions& options, Shelf shelf)
      : options_(options), mood_(options.mood), shelf_(std::move(shelf)), desk_(options.desk) {}

  HttpResponse handle(const HttpRequest& request, const std::stop_token& stop) {
    const std::string_view target = std::string_view(request.target).substr(0, request.target.find('?'));
    HttpResponse out = mood_.spoils() ? answer(500, Json{{"error", "in a bad mood"}}) : route(request, target, stop);
    out.headers["x-host"] = options_.host;
    return out;
  }

 private:
  HttpResponse route(const HttpRequest& request, std::string_view target, const std::stop_token& stop) {
    const bool get = request.method == "GET" || request.method == "HEAD";
    if (get && target == "/health") return answer(200, Json{{"ok", true}});
    if (get && target == "/whoami")
      return answer(200, Json{{"host", options_.host}, {"listen", options_.listen}});
    if (target == "/orders" && request.method == "POST") return place(request, stop);
    if (get && target.starts_with("/orders/")) return show_order(std::string(target.substr(8)), stop);
    if (get && target.starts_with("/files/")) return get_file(request, target.substr(7), stop);
    if (request.method == "PUT" && target.starts_with("/files/")) return put_file(request, target.substr(7));
    if (get && target.starts_with("/static/")) return found_or_missing(shelf_.get_static(target.substr(8)));
    return answer(404, Json{{"error", "there is nothing here"}});
  }

  HttpResponse place(const HttpRequest& request, const std::stop_token& stop) {
    auto json = parse_json(request.body, 4);
    if (!json) return trouble(400, json.error());
    auto order = order_from_json(*json);
    if (!order) return trouble(400, order.error());
    auto placed = desk_.place(*order, stop);
    if (!placed) return trouble(placed.error().kind == ErrorKind::refused ? 400 : 503, placed.error());
    return answer(placed->fresh ? 201 : 200, Json{{"id", placed->id}, {"key", order->key}});
  }

  HttpResponse show_order(const std::string& key, const std::stop_token& stop) {
    auto found = desk_.find(key, stop);
    if (!found) return trouble(503, found.error());
    if (!*found) return answer(404, Json{{"error", "no such order"}});
    Json out = to_json((*found)->order);
    out["id"] = (*found)->id;
    out["placed_by"] = (*found)->placed_by;
    return answer(200, out);
  }

  HttpResponse put_file(const HttpRequest& request, std::string_view name) {
    if (auto put = shelf_.put(name, request.body); !put) {
      return trouble(is_file_name(name) ? 507 : 400, put.error());
    }
    return answer(201, Json{{"name", name}, {"size", request.body.size()}, {"sha256", sha256(request.body)}});
  }

  HttpResponse found_or_missing(Result<std::optional<std::string>> found) {
    if (!found) return trouble(500, found.error());  // a disk that fails does not say that there is no such file
    if (!*found) return answer(404, Json{{"error", "no such file"}});
    return bytes_answer(**std::move(found));
  }

  HttpResponse get_file(const HttpRequest& request, std::string_view name, const std::stop_token& stop) {
    if (!is_file_name(name)) return answer(404, Json{{"error", "no such file"}});
    auto found = shelf_.get(name);
    const bool ask_peer =
        found && !*found && !options_.peer.empty() && !request.headers.contains("x-no-peer") && !mood_.alone();
    if (!ask_peer) return found_or_missing(std::move(found));
    // Uploaded on the other side a moment ago, perhaps: one question, which is not passed on.
    auto theirs = from_peer(name, stop);
    if (theirs && theirs->status == 200) return bytes_answer(std::move(theirs->body));
    // Or it arrived here while the other side was being asked.
    found = shelf_.get(name);
    if (found && !*found && !theirs) return trouble(503, theirs.error());  // nobody knows whether there is one
    return found_or_missing(std::move(found));
  }

  Result<HttpResponse> from_peer(std::string_view name, const std::stop_token& stop) {
    const auto deadline = Deadline::in(Millis(2000));
    const auto url = TRY(parse_http_url(options_.peer));
    HttpConnection connection(TRY(connect_tcp(url.host, url.port, deadline, stop)), url.host);
    HttpRequest request;
    request.method = "GET";
    request.target = "/files/" + std::string(name);
    request.headers["x-no-peer"] = "1";
    request.headers["connection"] = "close";
    return connection.exchange(request, deadline, stop);
  }

  const ShopOptions options_;
  Mood mood_;
  Shelf shelf_;
  OrderDesk desk_;
};

// Waits without waking up in between. False when `wake` became readable, or after `span`.
bool readable(int fd, int wake, Millis span) {
  pollfd polled[2] = {{fd, POLLIN, 0}, {wake, POLLIN, 0}};
  while (::poll(polled, 2, static_cast<int>(span.count())) < 0 && errno == EINTR) {
  }
  return polled[1].revents == 0 && polled[0].revents != 0;
}

void serve_connection(Shop& shop, Fd socket, int wake) {
  const int fd = socket.get();
  const auto stream = make_fd_stream(std::move(socket));
  HttpReader reader(*stream);
  while (reader.buffered() || readable(fd, wake, Millis(60000))) {
    auto request = reader.read_request(Deadline::in(Millis(10000)), {});
    HttpResponse response;
    if (request && !*request) return;
    if (request) {
      response = shop.handle(**request, {});
      response.keep_alive = header((*request)->headers, "connection") != "close";
      if ((*request)->method == "HEAD") response.body.clear();
    } else if (request.error().kind == ErrorKind::refused) {
      response = trouble(request.error().what.starts_with("413") ? 413 : 411, request.error());
      response.keep_alive = false;
    } else {
      return;
    }
    if (!stream->write_all(format_response(response), Deadline::in(Millis(10000)), {})) return;
    if (!response.keep_alive) return;
  }
}

// The connections being served; joins them at the end, each after the answer that it is at.
class Connections {
 public:
  explicit Connections(Shop& shop) : shop_(shop), wake_(::eventfd(0, EFD_CLOEXEC)) {}
  ~Connections() {
    const std::uint64_t one = 1;
    if (::write(wake_.get(), &one, sizeof one) < 0) log_warn("shop", "cannot wake the connections");
    while (count() > 0) pause_for(Millis(10), {});
  }

  void add(Fd socket) {
    {
      std::lock_guard lock(mutex_);
      if (count_ >= kMaxConnections) return;  // closed: the client tries elsewhere
      ++count_;
    }
    std::thread([this, socket = std::move(socket)]() mutable {
      serve_connection(shop_, std::move(socket), wake_.get());
      std::lock_guard lock(mutex_);
      --count_;
    }).detach();
  }

 private:
  std::size_t count() {
    std::lock_guard lock(mutex_);
    return count_;
  }

  Shop& shop_;
  Fd wake_;
  std::mutex mutex_;
  std::size_t count_ = 0;
};

Result<> run_shop(const ShopOptions& options, int signals) {
  const auto url = TRY(parse_http_url("http://" + options.listen));
  Shop shop(options, TRY(Shelf::open(options.files)));
  const Fd listener = TRY(listen_tcp(url.host, url.port));
  log_info("shop", "{} serves {} on {} port {}", options.host, options.files, url.host,
           TRY(local_port(listener.get())));
  Connections connections(shop);
  while (readable(listener.get(), signals, Millis(-1))) {
    Fd socket(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (socket) {
      connections.add(std::move(socket));
    } else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) {
      pause_for(Millis(50), {});
    }
  }
  return {};
}

}  // namespace
}  // namespace midstream::lab

int main(int argc, char** argv) {
  using namespace midstream;
  using namespace midstream::lab;
  ShopOptions options;
  CLI::App app("A small shop: orders in PostgreSQL, files on disk.", "lab-shop");
  app.add_option("--listen", options.listen, "ADDRESS:PORT")->required();
  app.add_option("--host", options.host, "name that answers carry in X-Host")->required();
  app.add_option("--files", options.files, "directory with static/ and uploads/")->required();
  app.add_option("--db", options.desk.conninfo, "libpq connection string, without a password")->required();
  app.add_option("--peer", options.peer, "http://ADDRESS:PORT of the shop to ask for a missing file");
  app.add_option("--mood", options.mood, "file that makes it behave badly");
  CLI11_PARSE(app, argc, argv);
  options.desk.placed_by = options.host;

  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGTERM);
  sigaddset(&mask, SIGINT);
  ::sigprocmask(SIG_BLOCK, &mask, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  const Fd signals(::signalfd(-1, &mask, SFD_CLOEXEC));
  if (auto ran = run_shop(options, signals.get()); !ran) {
    log_line(LogLevel::error, "shop", ran.error().text());
    return 1;
  }
  return 0;
}
