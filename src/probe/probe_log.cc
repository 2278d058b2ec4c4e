#include "probe/probe_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>

#include "sys/clock.h"
#include "sys/file.h"
#include "sys/log.h"

namespace midstream {

namespace {

constexpr auto kSyncEvery = std::chrono::milliseconds(200);
constexpr std::size_t kMostUnwritten = 8u << 20;
constexpr std::size_t kChunk = 1u << 20;

// Reads up to kChunk bytes at `offset`.
Result<std::string> read_at(int fd, std::uint64_t offset, const std::filesystem::path& path) {
  std::string chunk(kChunk, '\0');
  const auto got = ::pread(fd, chunk.data(), chunk.size(), static_cast<off_t>(offset));
  if (got < 0) return errno_failure(fmt::format("cannot read {}", path.string()), errno);
  chunk.resize(static_cast<std::size_t>(got));
  return chunk;
}

}  // namespace

Result<> MeterReader::poll() {
  const Fd file(::open(log_.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) {
    if (errno == ENOENT) return retry(fmt::format("the probe's log {} is not there yet", log_.string()));
    return errno_failure(fmt::format("cannot open {}", log_.string()), errno);
  }
  while (true) {
    const auto before = offset_;
    CHECK_OK(take(TRY(read_at(file.get(), offset_, log_))));
    if (offset_ == before) return {};
  }
}

Result<> MeterReader::take(std::string_view chunk) {
  std::optional<Error> bad;
  std::size_t bad_bytes = 0;
  while (true) {
    const auto end = chunk.find('\n');
    if (end == std::string_view::npos) return {};
    const auto line = decode_line(chunk.substr(0, end));
    if (line) {
      // Good lines after a bad one: the bad one is no torn tail.
      if (bad) return std::unexpected(*bad);
      CHECK_OK(meter_.add(*line));
      offset_ += end + 1;
    } else if (!bad) {
      bad = with_context(line.error(), fmt::format("{} at byte {}", log_.string(), offset_)).error();
    }
    if (bad && (bad_bytes += end + 1) > kChunk / 2) return std::unexpected(*bad);
    chunk.remove_prefix(end + 1);
  }
}

Result<Json> read_meter(const std::filesystem::path& log) {
  MeterReader reader(log);
  CHECK_OK(reader.poll());
  return reader.meter().to_json();
}

Result<std::unique_ptr<ProbeLog>> ProbeLog::open(const std::filesystem::path& log) {
  if (log.has_parent_path()) CHECK_OK(make_directories(log.parent_path()));
  Fd file(::open(log.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!file) return errno_failure(fmt::format("cannot open {}", log.string()), errno);
  if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    return refused(fmt::format("another probe writes to {}", log.string()), "stop it first, or give each probe its own log");
  }
  MeterReader reader(log);
  CHECK_OK(reader.poll());
  if (::ftruncate(file.get(), static_cast<off_t>(reader.offset_)) != 0 || ::fsync(file.get()) != 0) {
    return errno_failure(fmt::format("cannot cut the torn end off {}", log.string()), errno);
  }
  return std::unique_ptr<ProbeLog>(new ProbeLog(std::move(file), std::move(reader)));
}

ProbeLog::ProbeLog(Fd file, MeterReader reader)
    : file_(std::move(file)), reader_(std::move(reader)), offset_(reader_.offset_),
      thread_([this](const std::stop_token& stop) { run(stop); }) {}

ProbeLog::~ProbeLog() {
  thread_.request_stop();
  thread_.join();
  if (auto last = flush(); !last) log_warn("probe", "the end of the log is lost: {}", last.error().text());
}

void ProbeLog::append(const LogLine& line) {
  const auto text = encode_line(line);
  const std::lock_guard lock(mutex_);
  if (buffer_.size() < kMostUnwritten) buffer_ += text;
}

Result<> ProbeLog::flush() {
  const std::lock_guard one(writing_);
  std::string batch;
  {
    const std::lock_guard lock(mutex_);
    batch = buffer_;
  }
  // At a known offset: what a failed attempt left half-written is written over by the next one.
  std::size_t written = 0;
  int failed = 0;
  while (written < batch.size() && failed == 0) {
    const auto got = ::pwrite(file_.get(), batch.data() + written, batch.size() - written, static_cast<off_t>(offset_ + written));
    if (got > 0) written += static_cast<std::size_t>(got);
    if (got < 0 && errno != EINTR) failed = errno;
  }
  if (failed == 0 && !batch.empty() && ::fdatasync(file_.get()) != 0) failed = errno;
  const std::lock_guard lock(mutex_);
  if (failed != 0) {
    auto failure = errno_failure("cannot write the probe's log", failed);
    error_ = failure.error();
    return failure;
  }
  error_.reset();
  offset_ += batch.size();
  buffer_.erase(0, batch.size());
  return {};
}

Result<> ProbeLog::health() const {
  const std::lock_guard lock(mutex_);
  if (buffer_.size() < kMostUnwritten || !error_) return {};
  return std::unexpected(*error_);
}

void ProbeLog::run(const std::stop_token& stop) {
  std::mutex mutex;
  while (!stop.stop_requested()) {
    std::unique_lock lock(mutex);
    wake_.wait_for(lock, stop, kSyncEvery, [] { return false; });
    // A failure is kept in error_, tried again at the next turn, and told by health().
    (void)flush();
  }
}

}  // namespace midstream
