// SIGTERM and SIGINT as a stop request.
#pragma once

#include <signal.h>

#include <stop_token>
#include <thread>

namespace midstream {

// Construct first in main(), before any other thread: blocks the signals for all threads and waits for them on one.
class StopOnSignal {
 public:
  StopOnSignal() {
    sigemptyset(&set_);
    sigaddset(&set_, SIGTERM);
    sigaddset(&set_, SIGINT);
    sigaddset(&set_, SIGHUP);
    ::pthread_sigmask(SIG_BLOCK, &set_, nullptr);
    ::signal(SIGPIPE, SIG_IGN);
    waiter_ = std::jthread([this](const std::stop_token& ended) {
      const timespec slice{0, 100'000'000};
      while (!ended.stop_requested() && !source_.stop_requested()) {
        if (::sigtimedwait(&set_, nullptr, &slice) > 0) source_.request_stop();
      }
    });
  }
  std::stop_token token() const { return source_.get_token(); }

 private:
  sigset_t set_{};
  std::stop_source source_;
  std::jthread waiter_;
};

}  // namespace midstream
