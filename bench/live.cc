// Files written at a steady rate below one directory, and when each is there below another, whoever carries them over: for the
// row files-live. One JSON line.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <thread>

#include "base/json.h"
#include "sys/clock.h"
#include "sys/fd.h"

namespace midstream {
namespace {

struct Order {
  std::filesystem::path from, to;
  std::uint64_t rate = 1000, seconds = 10, folders = 50, patience = 60;
};

std::string folder_of(const Order& order, std::uint64_t number) {
  return fmt::format("live{:03}", number % order.folders);
}

// The files' names are their numbers; when each was closed and when it was seen, ns.
struct Times {
  explicit Times(std::uint64_t count) : closed(count), seen(count) {}
  std::vector<std::atomic<std::int64_t>> closed, seen;
  std::atomic<std::uint64_t> left{0};
};

void write_all(const Order& order, Times& times) {
  const auto begun = boot_now().count();
  const std::string content(4096, 'x');
  for (std::uint64_t i = 0; i < times.closed.size(); ++i) {
    const auto due = begun + static_cast<std::int64_t>(i * 1'000'000'000 / order.rate);
    while (boot_now().count() < due) ::usleep(200);
    const auto path = order.from / folder_of(order, i) / fmt::format("f{}", i);
    const Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    if (!fd || ::write(fd.get(), content.data(), content.size()) < 0) std::abort();
    times.closed[i] = boot_now().count();  // a moment before
  }
}

// Until all are seen, or for `patience` seconds after the last was written.
void watch_all(int inotify, const Order& order, Times& times, const std::atomic<bool>& written) {
  alignas(inotify_event) static char buffer[256 << 10];
  auto last = boot_now();
  while (times.left > 0 && boot_now() - last < std::chrono::seconds(order.patience)) {
    if (!written) last = boot_now();
    pollfd polled{inotify, POLLIN, 0};
    if (::poll(&polled, 1, 100) <= 0) continue;
    const ssize_t n = ::read(inotify, buffer, sizeof buffer);
    const auto now = boot_now().count();
    for (ssize_t at = 0; at < n;) {
      const auto* event = reinterpret_cast<const inotify_event*>(buffer + at);
      at += static_cast<ssize_t>(sizeof *event + event->len);
      if (event->len == 0 || event->name[0] != 'f') continue;
      const auto number = std::strtoull(event->name + 1, nullptr, 10);
      std::int64_t none = 0;
      if (number < times.seen.size() && times.seen[number].compare_exchange_strong(none, now)) --times.left;
    }
  }
}

Json figures(const Times& times) {
  std::vector<double> ms;
  std::int64_t last_closed = 0, last_seen = 0;
  for (std::size_t i = 0; i < times.seen.size(); ++i) {
    last_closed = std::max(last_closed, times.closed[i].load());
    if (times.seen[i] == 0) continue;
    last_seen = std::max(last_seen, times.seen[i].load());
    ms.push_back(static_cast<double>(std::max<std::int64_t>(times.seen[i] - times.closed[i], 0)) / 1e6);
  }
  std::sort(ms.begin(), ms.end());
  const auto share = [&](double part) {
    return ms.empty() ? 0.0 : ms[static_cast<std::size_t>(part * static_cast<double>(ms.size() - 1))];
  };
  return {{"files", times.seen.size()},
          {"missing", times.left.load()},
          {"p50_ms", share(0.5)},
          {"p99_ms", share(0.99)},
          {"worst_ms", share(1)},
          {"drained_ms", static_cast<double>(std::max<std::int64_t>(last_seen - last_closed, 0)) / 1e6}};
}

int run(const Order& order) {
  const Fd inotify(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  for (std::uint64_t i = 0; i < order.folders; ++i) {
    const auto there = order.to / folder_of(order, i);
    std::filesystem::create_directories(order.from / folder_of(order, i));
    for (int tries = 0; tries < 600 && !std::filesystem::exists(there); ++tries) ::usleep(100'000);
    if (::inotify_add_watch(inotify.get(), there.c_str(), IN_CREATE | IN_MOVED_TO) < 0) {
      fmt::print(stderr, "{} does not come\n", there.string());
      return 1;
    }
  }
  Times times(order.rate * order.seconds);
  times.left = times.seen.size();
  std::atomic<bool> written = false;
  std::jthread writer([&] { write_all(order, times), written = true; });
  watch_all(inotify.get(), order, times, written);
  writer.join();
  fmt::print("{}\n", figures(times).dump());
  return 0;
}

}  // namespace
}  // namespace midstream

int main(int argc, char** argv) {
  midstream::Order order;
  CLI::App app("writes files, and says when they are elsewhere");
  app.add_option("from", order.from)->required();
  app.add_option("to", order.to)->required();
  app.add_option("--rate", order.rate, "files a second");
  app.add_option("--seconds", order.seconds);
  app.add_option("--patience", order.patience, "seconds to wait for the last");
  CLI11_PARSE(app, argc, argv);
  return midstream::run(order);
}
