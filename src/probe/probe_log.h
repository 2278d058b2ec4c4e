// The probe's log as a file: written by one process, read by any number while it grows.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>

#include "base/result.h"
#include "probe/meter.h"
#include "probe/records.h"
#include "sys/fd.h"

namespace midstream {

// Reads what has been added since the last poll; remembers where it was. Not thread-safe.
class MeterReader {
 public:
  explicit MeterReader(std::filesystem::path log) : log_(std::move(log)) {}

  // Reads on. A last line that is not whole yet (or was torn by a crash) is left for later; a bad line with a good
  // one behind it is corrupt. A log that is not there yet is retry.
  Result<> poll();
  const Meter& meter() const { return meter_; }

 private:
  friend class ProbeLog;
  Result<> take(std::string_view chunk);

  std::filesystem::path log_;
  std::uint64_t offset_ = 0;  // of the first byte that has not been taken
  Meter meter_;
};

// The meter's figures of the whole log, as docs/formats/probe.md has them.
Result<Json> read_meter(const std::filesystem::path& log);

// Appends lines. Thread-safe. A thread of its own writes and syncs every 200 ms what has come in.
class ProbeLog {
 public:
  // Takes the log over: locks it (refused while another process has it), cuts off a torn last line, and knows the
  // numbers that have been given. The file is made with mode 0600.
  static Result<std::unique_ptr<ProbeLog>> open(const std::filesystem::path& log);
  ~ProbeLog();

  std::int64_t last_seq(const std::string& target) const { return reader_.meter().last_seq(target); }

  void append(const LogLine& line);
  // Writes and syncs all that was appended before; for the orderly end, and for tests.
  Result<> flush();
  // An error once 8 MiB could not be written: the disk is full or gone. Until then writing is tried again.
  Result<> health() const;

 private:
  ProbeLog(Fd file, MeterReader reader);
  void run(const std::stop_token& stop);

  Fd file_;
  MeterReader reader_;            // as of the opening
  std::uint64_t offset_ = 0;      // where the next byte goes; guarded by writing_
  std::mutex writing_;            // one writer at a time
  mutable std::mutex mutex_;      // guards buffer_ and error_
  std::condition_variable_any wake_;
  std::string buffer_;            // not written yet
  std::optional<Error> error_;    // of the last attempt
  std::jthread thread_;           // last: it uses all of the above
};

}  // namespace midstream
