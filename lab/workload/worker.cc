// lab-worker: what must never run twice. Five times a second it takes the next number, writes a row, and a line of its
// own log, docs/formats/collection.md. Two of it at work at once show in the log, whatever the database made of it.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <optional>

#include "base/json.h"
#include "lab/workload/pq.h"
#include "sys/clock.h"
#include "sys/fd.h"
#include "sys/log.h"

namespace midstream::lab {
namespace {

constexpr Millis kEvery{200};
constexpr Millis kPatience{2'000};

struct WorkerOptions {
  std::string host, conninfo, log;
};

class Worker {
 public:
  Worker(WorkerOptions options, Fd log) : options_(std::move(options)), log_(std::move(log)) {}

  Result<> run(const std::stop_token& stop) {
    CHECK_OK(put({{"t", "start"},
                  {"v", 1},
                  {"host", options_.host},
                  {"boot", boot_id()},
                  {"pid", ::getpid()},
                  {"at_ns", boot_now().count()}}));
    while (pause_for(kEvery, stop)) CHECK_OK(once());
    return put({{"t", "end"}, {"at_ns", boot_now().count()}});
  }

 private:
  // A run that was begun is brought to its end, whoever asks us to stop.
  Result<> once() {
    const auto from = boot_now().count();
    const auto number = take();
    Json line{{"t", "run"}, {"from_ns", from}, {"to_ns", boot_now().count()}};
    line["outcome"] = number ? "acknowledged" : number.error().kind == ErrorKind::unknown ? "unknown" : "failed";
    if (number) line["n"] = *number;
    return put(line);
  }

  Result<std::int64_t> take() {
    const auto deadline = Deadline::in(kPatience);
    if (!connection_ || connection_->dead())
      connection_.emplace(TRY(PgConnection::connect(options_.conninfo, {}, deadline, {})));
    auto rows = connection_->exec(
        "insert into worker_runs (n, host) select coalesce(max(n), 0) + 1, $1 from worker_runs returning n",
        {options_.host}, deadline, {});
    if (!rows) {
      connection_.reset();
      return std::unexpected(rows.error());
    }
    return std::stoll(rows->at(0, 0));
  }

  Result<> put(const Json& line) {
    const auto text = line.dump() + "\n";
    if (::write(log_.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()) ||
        ::fdatasync(log_.get()) != 0)
      return errno_failure("cannot write to " + options_.log, errno);
    return {};
  }

  WorkerOptions options_;
  Fd log_;
  std::optional<PgConnection> connection_;
};

}  // namespace
}  // namespace midstream::lab

int main(int argc, char** argv) {
  using namespace midstream;
  using namespace midstream::lab;
  WorkerOptions options;
  CLI::App app("Takes the next number again and again.", "lab-worker");
  app.add_option("--host", options.host, "name that its rows and lines carry")->required();
  app.add_option("--db", options.conninfo, "libpq connection string, without a password")->required();
  app.add_option("--log", options.log, "file that its lines are added to")->required();
  CLI11_PARSE(app, argc, argv);

  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGTERM);
  sigaddset(&mask, SIGINT);
  ::sigprocmask(SIG_BLOCK, &mask, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  Fd log(::open(options.log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (!log) {
    log_line(LogLevel::error, "worker", errno_failure("cannot open " + options.log, errno).error().text());
    return 1;
  }
  std::jthread work([&, log = std::move(log)](const std::stop_token& stop) mutable {
    if (auto ran = Worker(options, std::move(log)).run(stop); !ran) {
      log_line(LogLevel::error, "worker", ran.error().text());
      ::_exit(1);
    }
  });
  int signal = 0;
  ::sigwait(&mask, &signal);
  return 0;  // the thread is asked to stop, and joined
}
