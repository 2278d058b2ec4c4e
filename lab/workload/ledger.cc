#include "lab/workload/ledger.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <cerrno>

#include "sys/clock.h"
#include "sys/file.h"

namespace midstream::lab {

Result<std::unique_ptr<Ledger>> Ledger::open(const std::filesystem::path& directory,
                                             const std::string& name) {
  CHECK_OK(make_directories(directory));
  for (int n = 1; n < 100000; ++n) {
    const auto path = directory / fmt::format("ledger-{}.jsonl", n);
    Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0644));
    if (!fd && errno == EEXIST) continue;
    if (!fd) return errno_failure(fmt::format("{} cannot be made", path.string()), errno);
    Fd parent(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!parent || ::fsync(parent.get()) != 0) {
      return errno_failure(fmt::format("{} cannot be made durable", directory.string()), errno);
    }
    std::unique_ptr<Ledger> ledger(new Ledger(std::move(fd), fmt::format("{}{}-", name, n), path));
    Record start;
    start.prefix = ledger->prefix_;
    start.boot_id = midstream::boot_id();
    const auto ticket = TRY(ledger->append(start));
    CHECK_OK(ledger->sync(ticket));
    return ledger;
  }
  return refused(fmt::format("{} holds too many ledgers", directory.string()), "remove old ones");
}

Result<std::uint64_t> Ledger::append(Record record) {
  std::lock_guard lock(mutex_);
  if (broken_) return refused(fmt::format("{} could not be written before", path_.string()));
  // Stamped under the lock, so that the times of a file never go back.
  record.boot_ns = boot_now().count();
  record.wall_ms = wall_now_ms();
  const std::string line = to_line(record) + "\n";
  const ssize_t n = ::write(fd_.get(), line.data(), line.size());
  if (n != static_cast<ssize_t>(line.size())) {
    broken_ = true;
    return errno_failure(fmt::format("{} cannot be written", path_.string()), n < 0 ? errno : ENOSPC);
  }
  return ++written_;
}

Result<> Ledger::sync(std::uint64_t ticket) {
  std::unique_lock lock(mutex_);
  while (synced_ < ticket) {
    if (broken_) return refused(fmt::format("{} could not be made durable before", path_.string()));
    if (syncing_) {
      synced_changed_.wait(lock);
      continue;
    }
    syncing_ = true;
    const auto target = written_;
    lock.unlock();
    const int rc = ::fdatasync(fd_.get());
    const int code = errno;
    lock.lock();
    syncing_ = false;
    if (rc == 0) synced_ = target;
    broken_ = broken_ || rc != 0;
    synced_changed_.notify_all();
    if (rc != 0) return errno_failure(fmt::format("{} cannot be made durable", path_.string()), code);
  }
  return {};
}

}  // namespace midstream::lab
